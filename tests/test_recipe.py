"""Recipes: what they mean, and that every mistake is told with its line, its field and what was meant."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from compress.errors import BadInput
from compress.files.document import InvalidDocument, Mistake
from compress.policies.merge_layers import MergeLayers
from compress.policies.merge_tokens import MergeTokens
from compress.recipe import Recipe, schema
from compress.registry import names

SHIPPED = {  # each with its id: new fields may not change it
    "drop-background": "6d3c3c1668dbd7d02fa5474eb2548a1c9772beca3f9de0bb791346981b477299",
    "eclm": "d94e27892a57224b4379ff3c0c7d7b7c3a606b5ffba396db2a0000a92f79fac4",
    "fasthmr-camerahmr": "8eae09b03bfdf7591eac8ef49ec978855b2abfca8504fc7608c3c447a538bdf2",
    "fasthmr-hmr2": "bae7f9367d165390af85e58aaa483b180bef7ac583c868f02cf0a65295a5728b",
    "fasthmr-reference": "ffb6201236b505e547f3e6aa751acf7cab2c9cd306c539d4ac8967a9c42e6f39",
    "fasthmr-reference-video": "b4375e83cd88b6ab7fac3e365edf3de6e34f96d7b1e8f2f4195d750ebdaf7560",
    "mask-tome": "79cb909a4f0c00932c0edec0b64ff20bf7be8712b19d64d5adc401669b98aa18",
    "quickstart": "ce1b108025392663ef948cec76e6f36eb1ca987a0fae91c549f764447dcf5dd4",
}
HEAD = "schema_version: 1\nname: mine\nsteps:\n"
TOKENS = HEAD + "  - policy: merge_tokens\n    keep: 90\n"


def read(text: str) -> Recipe:
    return Recipe.parse(text, "mine.yaml")


def mistakes_in(text: str) -> tuple[Mistake, ...]:
    with pytest.raises(InvalidDocument) as raised:
        read(text)
    return raised.value.mistakes


def test_all_shipped_recipes_are_right_and_named_after_their_file():
    names = sorted(path.name for path in files("compress").joinpath("recipes").iterdir())
    assert names == sorted(f"{name}.yaml" for name in SHIPPED)
    assert [Recipe.load(name).name for name in SHIPPED] == list(SHIPPED)
    assert {name: Recipe.load(name).id for name in SHIPPED} == SHIPPED


def test_the_papers_recipe_for_hmr2():
    layers, tokens = Recipe.load("fasthmr-hmr2").steps
    assert layers == MergeLayers(strategy="explicit", windows=((24, 28),))
    assert tokens == MergeTokens(keep=90, per_layer=40)


def test_a_path_is_a_file_whatever_its_name(tmp_path):
    (tmp_path / "quickstart").write_text(TOKENS)
    assert Recipe.load(tmp_path / "quickstart") == Recipe.load(str(tmp_path / "quickstart")) == read(TOKENS)


def test_the_id_is_of_what_is_done_and_not_of_how_it_is_written():
    base = read(TOKENS)
    assert read(TOKENS.replace("mine", "other") + "    per_layer: 40  # the default\n").id == base.id
    assert read(TOKENS.replace("90", "91")).id != base.id
    assert len(base.id) == 64 and set(base.id) <= set("0123456789abcdef")


def test_a_recipe_without_steps_is_one():
    assert read(HEAD.replace("steps:", "steps: []")).steps == ()


def step(*lines: str) -> str:
    return HEAD + "  - " + "\n    ".join(lines) + "\n"


LAYERS, WIDTH, BITS, KEEP = (
    f"  - {{policy: {words}}}\n"
    for words in ("merge_layers", "prune_width, mlp_ratio: 0.5", "precision, dtype: bfloat16", "merge_tokens, keep: 90")
)


@pytest.mark.parametrize("steps", [(LAYERS, KEEP, WIDTH, BITS), (LAYERS, WIDTH, KEEP, BITS), (WIDTH,), (BITS,)])
def test_tokens_and_width_go_in_either_order(steps):
    assert len(read(HEAD + "".join(steps)).steps) == len(steps)


@pytest.mark.parametrize(
    "steps, message",
    [
        ((WIDTH, LAYERS), "put prune_width after merge_layers"),
        ((BITS, WIDTH), "put precision after prune_width"),
        ((KEEP, WIDTH, KEEP), "two steps of merge_tokens"),
    ],
)
def test_no_other_order_is_one(steps, message):
    mistakes = mistakes_in(HEAD + "".join(steps))
    assert [mistake.line for mistake in mistakes] == [3 + len(steps)]
    assert message in str(mistakes[0])


MISTAKES = [
    ("", 1, "", "mapping of keys", ""),
    ("- 1\n", 1, "", "mapping of keys", ""),
    ("name: mine\nsteps: []\n", 1, "schema_version", "missing", ""),
    (HEAD.replace("1", "2") + "  []", 1, "schema_version", "less than or equal to 1", ""),
    (HEAD.replace("1", "true") + "  []", 1, "schema_version", "valid integer", ""),
    (HEAD.replace("1", "'1'") + "  []", 1, "schema_version", "valid integer", ""),
    (HEAD.replace("mine", "'a/b'") + "  []", 2, "name", "pattern", ""),
    (HEAD.replace("steps", "stesp") + "  []", 3, "stesp", "no key 'stesp'", "did you mean 'steps'?"),
    (HEAD + "  - 5\n", 4, "steps[0]", "mapping of keys", ""),
    (step("keep: 90"), 4, "steps[0].policy", "names its policy", "merge_layers"),
    (step("policy: merge_token"), 4, "steps[0].policy", "no policy 'merge_token'", "did you mean 'merge_tokens'?"),
    (step("policy: nonsense"), 4, "steps[0].policy", "no policy 'nonsense'", "choose one of merge_layers"),
    (step("policy: [merge_tokens]"), 4, "steps[0].policy", "no policy '['merge_tokens']'", "merge_tokens"),
    (step("policy: {}"), 4, "steps[0].policy", "names its policy", "merge_layers"),
    (step("policy: merge_tokens"), 4, "steps[0].keep", "missing", ""),
    (TOKENS + "    per_layr: 3\n", 6, "steps[0].per_layr", "no key", "did you mean 'per_layer'?"),
    (TOKENS + "    mode: mrge\n", 6, "steps[0].mode", '"mrge"', "did you mean 'merge'?"),
    (TOKENS.replace("90", "-1"), 5, "steps[0].keep", "greater than or equal to 1 (got -1)", ""),
    (TOKENS.replace("90", "'90'"), 5, "steps[0].keep", 'valid integer (got "90")', ""),
    (TOKENS.replace("90", "90.0"), 5, "steps[0].keep", "valid integer", ""),
    (TOKENS + "    coverage: .nan\n", 6, "steps[0].coverage", "finite number", ""),
    (TOKENS + "    mode: drop\n    start: 2\n", 7, "steps[0].start", "no meaning in mode: drop", ""),
    (step("policy: merge_layers", "threshold_mm: -0.5"), 5, "steps[0].threshold_mm", "(got -0.5)", ""),
    (step("policy: merge_layers", "threshold_mm: -.inf"), 5, "steps[0].threshold_mm", "finite", ""),
    (step("policy: merge_layers", "strategy: explcit"), 5, "steps[0].strategy", "explcit", "'explicit'?"),
    (
        step("policy: merge_layers", "strategy: explicit", "windows:", "- [1, 2]", "- [4, 3]"),
        6,
        "steps[0].windows",
        "[4, 3]",
        "",
    ),
    (
        step("policy: merge_layers", "strategy: explicit", "windows:", "- [1, 2]", "- [4, x]"),
        8,
        "steps[0].windows[1][1]",
        'valid integer (got "x")',
        "",
    ),
    (
        TOKENS + "  - policy: merge_layers\n",
        6,
        "steps[1].policy",
        "merge_layers comes after merge_tokens: put merge_tokens after merge_layers",
        "",
    ),
    (TOKENS + TOKENS.removeprefix(HEAD), 6, "steps[1].policy", "two steps of merge_tokens", ""),
]


@pytest.mark.parametrize("text, line, field, message, hint", MISTAKES)
def test_each_mistake_has_its_line_and_field(text, line, field, message, hint):
    mistakes = mistakes_in(text)
    found = [mistake for mistake in mistakes if (mistake.line, mistake.field) == (line, field)]
    assert found, mistakes
    assert message in found[0].message and hint in found[0].hint
    assert str(found[0]).startswith(f"mine.yaml:{line}: {field}")


def test_all_mistakes_are_reported_at_once():
    mistakes = mistakes_in(TOKENS.replace("90", "0") + "    mode: mrge\n    kep: 3\n")
    assert sorted(mistake.line for mistake in mistakes) == [5, 6, 7]


def test_names_and_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(TOKENS)
    assert Recipe.load("mine.yaml") == Recipe.load("./mine.yaml") == read(TOKENS)
    with pytest.raises(BadInput, match="did you mean 'eclm'"):
        Recipe.load("eclmm")


def test_the_text_is_as_it_was_written_or_else_what_is_not_a_default():
    text = TOKENS + "    per_layer: 40  # the default\n"
    assert read(text).text == text
    made = Recipe(schema_version=1, name="mine", steps=(MergeTokens(keep=90),))
    assert read(made.text).steps == made.steps and "per_layer" not in made.text


def test_a_recipe_is_read_again_from_its_json():
    recipe = Recipe.load("fasthmr-hmr2")
    assert Recipe.model_validate_json(recipe.model_dump_json()).id == recipe.id
    assert read(recipe.model_dump_json(indent=1)).id == recipe.id  # JSON is YAML


def test_schema_says_what_a_recipe_may_hold():
    found = schema()
    json.dumps(found, allow_nan=False)
    assert found["additionalProperties"] is False and set(found["required"]) == {"schema_version", "name", "steps"}
    assert found["properties"]["steps"]["items"]["discriminator"]["propertyName"] == "policy"
    assert set(found["properties"]["steps"]["items"]["discriminator"]["mapping"]) == set(names())
    tokens = found["$defs"]["MergeTokens"]
    assert tokens["additionalProperties"] is False and "keep" in tokens["required"]
    assert tokens["properties"]["mode"]["enum"] == ["merge", "drop"]


def test_check_command(fasthmr, tmp_path):
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(TOKENS)
    bad.write_text(TOKENS + "    kepp: 3\n")
    code, out, err = fasthmr("recipe", "check", good, "--json")
    assert (code, json.loads(out), err) == (0, {"valid": True, "errors": []}, "")
    assert fasthmr("recipe", "check", "quickstart")[0] == 0
    code, out, err = fasthmr("recipe", "check", bad, "--json")
    told = {"file": str(bad), "line": 6, "field": "steps[0].kepp"}
    said = {"message": "there is no key 'kepp' here", "hint": "did you mean 'keep'?"}
    assert (code, json.loads(out)) == (2, {"valid": False, "errors": [{**told, **said}]})
    assert err.count("\n") == 1 and f"{bad}:6" in err
    code, out, again = fasthmr("recipe", "check", bad)
    assert (code, out, again) == (2, "", err)
    assert json.loads(fasthmr("recipe", "schema")[1]) == schema()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.yaml", "good.yaml"]


def test_check_touches_no_weights():
    """What reads weights is not even imported."""
    code = (
        "import sys; from experiments.cli.main import main; sys.argv = ['fasthmr', 'recipe', 'check', 'eclm']\n"
        "try: main()\n"
        "finally: print([m for m in ('hmr.load', 'hmr.checkpoints.files') if m in sys.modules])"
    )
    root = Path(__file__).parents[1]
    ran = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"
