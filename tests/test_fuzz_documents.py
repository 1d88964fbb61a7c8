"""Recipes, study files and safetensors headers of any content: read, or refused with a sentence, and never in silence.

Every run takes the same examples, few in the fast suite and EXAMPLES in the slow one.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from compress.errors import BadInput
from compress.files.document import InvalidDocument, read_values, to_yaml
from compress.files.weights import safetensors
from compress.recipe import Recipe
from compress.registry import policy
from experiments.search.study import parsed
from hmr.checkpoints.files import load
from hmr.checkpoints.source import read
from hmr.models.model import build
from tests import sizes

EXAMPLES = 2_000
OURS = ("merge_layers", "prune_width", "merge_tokens", "reduce_rank", "recover", "precision")


def fuzzed(few: int) -> list[Any]:
    """A parameter `examples`: a few, and in the slow suite EXAMPLES."""
    return [few, pytest.param(EXAMPLES, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]


def run(examples: int, strategy: st.SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    """Hold `check` against examples, without a database of earlier ones."""
    settled = settings(
        max_examples=examples, database=None, derandomize=True, suppress_health_check=list(HealthCheck), deadline=None
    )
    settled(given(strategy)(lambda example: check(example)))()


@contextmanager
def sentences() -> Iterator[None]:
    """Refusals are sentences of one line, and no other exception gets out."""
    try:
        yield
    except InvalidDocument as refused:
        assert refused.mistakes and all(m.line >= 1 and m.message for m in refused.mistakes)
        assert "Traceback" not in str(refused)
    except BadInput as refused:
        assert str(refused).strip()


# ---- documents

names = st.sampled_from(
    [
        *("policy", "keep", "mode", "protect", "strategy", "threshold_mm", "layers", "windows", "steps", "dtype", "lr"),
        *("schema_version", "name", "space", "frames", "model", "data", "objectives", "recover", "seed", "baselines"),
    ]
)
words = names | st.sampled_from([*OURS, "merge", "drop", "none", "greedy", "bfloat16", "macs", "mpjpe_mm", "synth"])
numbers = st.integers(-(10**6), 10**6) | st.floats() | st.sampled_from([0, 1, 2, 90, 10**400, -1, 1e308])
scalars = st.none() | st.booleans() | numbers | words | st.text(max_size=20)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names | st.text(max_size=8), inner, max_size=4)
)
step = st.fixed_dictionaries(
    {"policy": st.sampled_from(OURS)},
    optional={
        **{"keep": st.just(90) | values, "strategy": st.sampled_from(["window", "greedy", "cka", "explicit"]) | values},
        **{"dtype": st.sampled_from(["float32", "int8"]) | values, "mlp_ratio": st.just(0.25) | values},
        **{"mlp_rank": st.just(0.25) | values},
        **{"layers": st.just(3) | values, "threshold_mm": st.just(0.5) | values, "steps": st.just(2) | values},
        **{"windows": st.just([[1, 2]]) | values, "per_layer": st.just(40) | values, "unknown": values},
    },
)
recipes = st.fixed_dictionaries(
    {"schema_version": st.just(1) | values, "name": st.just("mine") | values},
    optional={"steps": st.lists(step | values, max_size=4) | values, "more": values},
)
studies = st.fixed_dictionaries(
    {"schema_version": st.just(1) | values, "name": st.just("mine"), "model": st.just("reference") | values},
    optional={
        **{"data": st.just("synth") | values, "steps": st.lists(step, max_size=3) | values},
        "space": st.dictionaries(
            st.sampled_from(["merge_tokens.keep", "merge_tokens.start", "prune_width.mlp_ratio", "no.knob"]),
            st.lists(numbers, max_size=4) | st.just([64, 192]) | st.just([0, 4]) | st.just([0.0, 0.5]),
            max_size=3,
        )
        | values,
        **{"objectives": st.just(["macs", "mpjpe_mm"]) | values, "frames": values, "recover": values, "seed": values},
    },
)


def as_text(content: Any) -> st.SearchStrategy[str]:
    """Values as JSON or YAML, and that with something changed, left out or put in between."""
    whole = json.dumps(content)
    places = st.integers(0, len(whole))
    torn = st.builds(lambda i, j, between: whole[:i] + between + whole[j:], places, places, st.text(max_size=3))
    return st.just(whole) | st.just(whole) | torn


def document(content: st.SearchStrategy[Any]) -> st.SearchStrategy[str]:
    marks = st.text(alphabet="-:[]{}&*!#|>?@`\"'%,\n\t \\x0aé\x00\ufeff", max_size=30)
    return content.flatmap(as_text) | marks | st.text(max_size=60)


def nothing_in_silence(made: BaseModel, given: Any) -> None:
    """What a file names is what was read: no key is dropped, no value becomes another one."""
    found = json.loads(made.model_dump_json())
    for name, value in given.items():
        if name == "steps":
            assert len(value) == len(found["steps"])
            for one, other in zip(value, found["steps"], strict=True):
                mine = policy(one["policy"]).model_fields
                assert set(one) <= set(mine)
                assert {key: other.get(key, mine[key].default) for key in one} == one
        elif isinstance(value, dict) and name != "space":
            assert {key: found[name][key] for key in value} == value
        else:
            assert found[name] == value


def check_recipe(text: str) -> None:
    with sentences():
        recipe = Recipe.parse(text, "mine.yaml")
        nothing_in_silence(recipe, json.loads(json.dumps(read_values(text, "mine.yaml"))))
        again = Recipe.parse(to_yaml(json.loads(recipe.model_dump_json())), "again.yaml")
        assert again.id == recipe.id


def check_study(text: str) -> None:
    with sentences():
        study = parsed(text, "mine.yaml")
        nothing_in_silence(study, json.loads(json.dumps(read_values(text, "mine.yaml"))))
        assert list(study.ranges()) == [name for name in study.knobs() if name in (study.space or study.knobs())]


@pytest.mark.parametrize("examples", fuzzed(60))
def test_a_recipe_of_any_content(examples):
    run(examples, document(recipes), check_recipe)


@pytest.mark.parametrize("examples", fuzzed(60))
def test_a_study_of_any_content(examples):
    run(examples, document(studies), check_study)


# ---- safetensors


@pytest.fixture(scope="module")
def whole() -> tuple[bytes, dict[str, torch.Tensor]]:
    """A small model of ours as a file, and its weights."""
    torch.manual_seed(0)
    model = build("reference", {**sizes.TINY, "depth": 1}).eval()
    state = dict(model.state_dict())
    facts = {"architecture": "reference", "sizes": model.sizes.model_dump_json()}
    return b"".join(bytes(piece) for piece in safetensors(state, facts)), state


entries = st.dictionaries(
    st.text(max_size=12) | st.sampled_from(["__metadata__", "backbone.pos_embed", "dtype", "shape"]),
    st.fixed_dictionaries(
        {},
        optional={
            "dtype": st.sampled_from(["F32", "BF16", "I64", "F8_E4M3", "C64", "X"]) | scalars,
            "shape": st.lists(st.integers(-2, 2**63), max_size=3) | scalars,
            "data_offsets": st.lists(st.integers(-1, 2**63), max_size=3) | scalars,
        },
    )
    | values,
    max_size=4,
)


def changed(content: bytes) -> st.SearchStrategy[bytes]:
    """A file whose length, header or end was changed, or of another header altogether."""
    (length,) = struct.unpack("<Q", content[:8])
    header, data = content[8 : 8 + length], content[8 + length :]
    edits = st.lists(st.tuples(st.integers(0, length - 1), st.integers(0, 255)), min_size=1, max_size=3)

    def edited(changes: list[tuple[int, int]]) -> bytes:
        text = bytearray(header)
        for place, byte in changes:
            text[place] = byte
        return content[:8] + bytes(text) + data

    def retold(key: str, field: str, value: Any) -> bytes:
        told = json.loads(header)
        target = told[key] if isinstance(told.get(key), dict) else told
        target[field] = value
        text = json.dumps(told).encode()
        return struct.pack("<Q", len(text)) + text + data

    keys = st.sampled_from([*json.loads(header)][:8]) | st.text(max_size=8)
    fields = st.sampled_from(["dtype", "shape", "data_offsets", "architecture", "sizes"]) | st.text(max_size=5)
    other = entries.map(lambda found: json.dumps(found).encode()).map(lambda text: struct.pack("<Q", len(text)) + text)
    return (
        edits.map(edited)
        | st.builds(retold, keys, fields, values)
        | st.integers(0, 2**64 - 1).map(lambda size: struct.pack("<Q", size) + content[8:])
        | st.integers(0, len(content)).map(lambda end: content[:end])
        | st.builds(lambda start, more: start + more, other, st.binary(max_size=64))
        | st.binary(max_size=64)
    )


@pytest.mark.parametrize("examples", fuzzed(100))
def test_a_safetensors_file_of_any_header(examples, whole, tmp_path):
    content, state = whole
    path = tmp_path / "model.safetensors"

    def check(given: bytes) -> None:
        path.write_bytes(given)
        with sentences():
            source = read(path)
            assert all(isinstance(value, torch.Tensor) for value in source.state.values())
            model = load(path)  # what loads has every weight of the file, and no other
            if given == content:
                assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
            named = set(source.state)
            assert {*model.state_dict()} <= named

    check(content)
    run(examples, changed(content), check)
