"""Files that users write: what may stand in them, and the line and field of each mistake."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.errors import BadInput
from compress.files import document
from compress.files.document import LARGEST, InvalidDocument, Mistake, parse, read_text, read_values, to_yaml
from compress.policy import FrozenModel


class Part(FrozenModel):
    width: float = 1.0
    words: tuple[str | int, ...] = ()


class Whole(FrozenModel):
    name: str
    part: Part = Part()
    parts: tuple[Part, ...] | None = None


def mistakes_in(text: str) -> tuple[Mistake, ...]:
    with pytest.raises(InvalidDocument) as raised:
        parse(text, "mine.yaml", Whole)
    return raised.value.mistakes


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
PRINTABLE = st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp", "Cn", "Co"))


@settings(max_examples=50)
@given(VALUES)
def test_json_means_what_it_means_elsewhere(values):
    """JSON is YAML: this reader and Python's own agree, whatever the text."""
    text = json.dumps(values)
    assert plain(read_values(text, "mine.json")) == json.loads(text)


@settings(max_examples=25)
@given(st.dictionaries(st.text(PRINTABLE), st.lists(st.integers() | st.text(PRINTABLE))))
def test_what_is_written_is_read_again(values):
    assert plain(read_values(to_yaml(values), "mine.yaml")) == values


def plain(values: object) -> object:
    return json.loads(json.dumps(values))


UNREAD = [
    ("name: x\nname: y\n", 2, "the key 'name' is there twice, first in line 1"),
    ("parts:\n- width: 1.0\n  words: []\n  width: 2.0\n", 4, "the key 'width' is there twice, first in line 2"),
    ("name: x\npart: !!python/object/apply:os.system ['false']\n", 2, "tags are not allowed"),
    ("!!python/name:os.system '': 1\n", 1, "tags are not allowed"),
    ("name: !mine x\n", 1, "tags are not allowed (!mine)"),
    ("a: 1\nb: !!binary aGk=\n", 2, "tags are not allowed"),
    ("a: !!int b\n", 1, "tags are not allowed"),
    ("name: x\na: &x [1]\nb: *x\n", 2, "anchors and aliases are not allowed (x)"),
    ("b: *x\n", 1, "anchors and aliases are not allowed (x)"),
    ("? [a]\n: b\n", 1, "a key is a list"),
    ("a: 0x" + "f" * 5000, 1, "too many digits"),
    ("a: " + "9" * 5000, 1, "too many digits"),
    ("name: x\nparts: [\n", 3, "cannot be read"),
    ("name: x\n--- 2\n", 2, "cannot be read"),
    ("name:\n\t- x", 2, "cannot be read"),
    ("name: \x00", 1, "cannot be read"),
    ("[" * 20_000, 1, "nested more than 20 deep"),
    ("- " * 20_000, 1, "nested more than 20 deep"),
]


@pytest.mark.parametrize("text, line, message", UNREAD)
def test_what_is_not_read_has_its_line(text, line, message):
    (mistake,) = mistakes_in(text)
    assert (mistake.file, mistake.line, mistake.field) == ("mine.yaml", line, "")
    assert message in mistake.message and str(mistake).startswith(f"mine.yaml:{line}: {mistake.message}")


@pytest.mark.parametrize(
    "text, line, field, message, hint",
    [
        ("", 1, "", "a mapping of keys (got null)", ""),
        ("part: {}\n", 1, "name", "the key 'name' is missing", ""),
        ("name: x\npart:\n  width: .nan\n", 3, "part.width", "a finite number", ""),
        ("name: x\npart:\n  width: -1e999\n", 3, "part.width", "a finite number", ""),
        ("name: x\npart:\n  with: 1.0\n", 3, "part.with", "there is no key 'with' here", "did you mean 'width'?"),
        ("name: x\nparts:\n- {}\n- widht: 1\n", 4, "parts[1].widht", "no key 'widht'", "did you mean 'width'?"),
        ("name: x\n1: 2\n", 1, "1", "there is no key '1' here", "choose one of name, part, parts"),
        ("name: x\npart:\n  words:\n  - a\n  - 1.5\n", 5, "part.words[1]", "valid", ""),
        ("name: 2020-01-01\npart: 2020-13-45\n", 2, "part", '(got "2020-13-45")', ""),
    ],
)
def test_what_is_not_valid_has_its_line_and_field(text, line, field, message, hint):
    mistake = mistakes_in(text)[0]
    assert (mistake.line, mistake.field) == (line, field)
    assert message in mistake.message and hint in mistake.hint


def test_a_date_is_text():
    assert parse("name: 2020-01-01", "mine.yaml", Whole).name == "2020-01-01"


def test_a_bomb_of_aliases_does_not_go_off():
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 200)]
    (mistake,) = mistakes_in("\n".join(lines))
    assert mistake.line == 1 and "anchors" in mistake.message


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"#" * (LARGEST + 1), None])
def test_files_that_are_no_text_of_a_page_are_bad_input(content, tmp_path):
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match=r"mine\.yaml"):
        read_text(path)


def test_a_long_value_is_cut_in_a_message():
    assert len(document.shown("x" * 100)) == 60
