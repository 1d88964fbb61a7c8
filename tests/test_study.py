"""Study files: what space they span, what goes before it, and that mistakes have their line."""

from __future__ import annotations

from importlib.resources import files

import optuna
import pytest

from compress.errors import BadInput
from compress.files.document import InvalidDocument, Mistake
from compress.policies.merge_layers import MergeLayers
from compress.policies.merge_tokens import MergeTokens
from compress.policies.precision import Precision
from compress.policies.prune_width import PruneWidth
from compress.policies.recover import Recover
from compress.policies.reduce_rank import ReduceRank
from compress.policy import Knob
from compress.registry import working
from experiments.search.study import Study, parsed, read_study

STUDY = """\
schema_version: 1
name: mine
model: reference
data: synth
steps:
  - {policy: merge_layers, strategy: greedy, layers: 3}
  - {policy: merge_tokens, keep: 100, per_layer: 60}
  - {policy: precision, dtype: float32}
space:
  merge_layers.layers: [2, 8]
  merge_tokens.keep: [64, 192, 16]
  precision.dtype: [float32, bfloat16]
"""


def study(text: str = STUDY) -> Study:
    return parsed(text, "mine.yaml")


def mistakes_in(text: str) -> tuple[Mistake, ...]:
    with pytest.raises(InvalidDocument) as raised:
        parsed(text, "mine.yaml")
    return raised.value.mistakes


@pytest.mark.parametrize(
    "policy, knobs",
    [
        (MergeLayers(), {"threshold_mm"}),
        (MergeLayers(strategy="greedy", layers=3), {"layers"}),
        (MergeLayers(strategy="explicit", windows=((1, 2),)), set()),
        (MergeTokens(keep=90), {"keep", "per_layer", "start"}),
        (MergeTokens(keep=90, mode="drop"), {"keep"}),
        (MergeTokens(keep=90, mode="drop", dilate=1), {"keep", "dilate"}),
        (PruneWidth(), {"mlp_ratio", "head_ratio"}),
        (ReduceRank(mlp_rank=0.25), {"mlp_rank"}),
        (Precision(dtype="int8"), {"dtype"}),
        (Recover(steps=50), {"steps"}),
        (Recover(minutes=1), set()),
    ],
)
def test_knobs_are_the_fields_that_mean_something(policy, knobs):
    assert set(policy.knobs()) == knobs


@pytest.mark.parametrize("policy", working())
def test_both_ends_of_a_knob_are_values_of_its_field(policy):
    for name, field in policy.model_fields.items():
        if isinstance(field.json_schema_extra, dict) and "knob" in field.json_schema_extra:
            needed = {
                "keep": 90,
                "dtype": "float32",
                "mlp_rank": 0.5,
                "layers": 2 if name == "layers" else None,
                "strategy": "greedy",
            }
            needed["dilate"] = int(name == "dilate")
            if name == "steps":
                needed["steps"] = 50
            whole = policy(**{key: value for key, value in needed.items() if key in policy.model_fields})
            knob = whole.knobs()[name]
            for end in (knob.low, knob.high):
                value = knob.choices[int(end)] if knob.choices else end
                assert getattr(policy(**{**whole.model_dump(exclude_unset=True), name: value}), name) == value
            assert ((knob.high - knob.low) / knob.step).is_integer()


def test_the_space_is_that_of_the_knobs_narrowed():
    ranges = study().ranges()
    assert ranges["merge_layers.layers"] == Knob(2, 8, 1)
    assert ranges["merge_tokens.keep"] == Knob(64, 192, 16)
    assert list(ranges) == ["merge_layers.layers", "merge_tokens.keep", "precision.dtype"]  # and no other
    assert (ranges["precision.dtype"].low, ranges["precision.dtype"].high) == (0, 1)
    for distribution in study().distributions().values():
        assert not isinstance(distribution, optuna.distributions.CategoricalDistribution)


def test_a_drawn_recipe_is_the_studys_with_its_knobs_turned():
    values = {"merge_layers.layers": 5, "merge_tokens.start": 2, "precision.dtype": 1}
    layers, tokens, bits = study().drawn(values).steps
    assert layers == MergeLayers(strategy="greedy", layers=5)
    assert tokens == MergeTokens(keep=100, per_layer=60, start=2)
    assert bits == Precision(dtype="bfloat16")
    assert study().drawn({}).id == study().recipe.id


def test_without_a_space_every_knob_is_searched():
    text = STUDY[: STUDY.index("space:")]
    assert (
        list(study(text).ranges())
        == list(study(text).knobs())
        == [
            *("merge_layers.layers", "merge_tokens.start", "merge_tokens.per_layer", "merge_tokens.keep"),
            "precision.dtype",
        ]
    )


def test_what_is_made_by_hand_goes_first_each_recipe_once():
    text = STUDY + "baselines: [quickstart, mask-tome]\n"
    found = study(text).made_by_hand()
    alone = [f"{step} alone" for step in ("merge_layers", "merge_tokens", "precision")]
    assert list(found) == ["original", *alone, "all steps", "FastHMR", "quickstart", "mask-tome"]
    assert found["original"].steps == ()
    assert [step.policy for step in found["merge_tokens alone"].steps] == ["merge_tokens"]
    one = study(STUDY.replace("  - {policy: merge_tokens, keep: 100, per_layer: 60}\n", "").split("space")[0])
    assert len({recipe.id for recipe in one.made_by_hand().values()}) == len(one.made_by_hand())


@pytest.mark.parametrize("name, policy", [("fasthmr-reference", "recover"), ("fasthmr-reference-video", "recover")])
def test_a_baseline_that_trains_is_refused(name, policy):
    with pytest.raises(BadInput, match=f"{name} has {policy}"):
        study(STUDY + f"baselines: [{name}]\n").made_by_hand()


@pytest.mark.parametrize(
    "change, line, field, message",
    [
        (("merge_tokens.keep:", "merge_tokens.kep:"), 9, "space", "did you mean 'merge_tokens.keep'"),
        (("[64, 192, 16]", "[12, 192]"), 9, "space", "range, 16 to the model's in steps of 4"),
        (("[64, 192, 16]", "[65, 193]"), 9, "space", "not part of the knob's range"),
        (("[64, 192, 16]", "[64, 192, 6]"), 9, "space", "not part of the knob's range"),
        (("[64, 192, 16]", "[192, 64]"), 9, "space", "not part of the knob's range"),
        (("[64, 192, 16]", "[64, many]"), 9, "space", "not part of the knob's range"),
        (("[64, 192, 16]", "[64]"), 11, "space.merge_tokens.keep", "at least 2"),
        (("bfloat16]", "float16]"), 9, "space", "float32, bfloat16, int8"),
        (("layers: 3", "layers: 0"), 6, "steps[0].layers", "greater than or equal to 1"),
        (("policy: precision, dtype: float32", "policy: recover, minutes: 2"), 5, "steps", "steps, not minutes"),
        (
            ("policy: precision, dtype: float32}\n", "policy: recover, steps: 25}\nrecover: {steps: 9}\n"),
            9,
            "recover",
            "already",
        ),
        (("space:", "  - {policy: motion_decoder, kind: linear, train: {}}\nspace:"), 5, "steps", "do not train"),
        (("data: synth", "data: synth:val"), 4, "data", "names a split"),
        (("space:", "objectives: [macs]\nspace:"), 9, "objectives", "two or more"),
        (("space:", "objectives: [macs, latency_ms]\nspace:"), 9, "objectives", "an error"),
        (("space:", "objectives: [macs, speed]\nspace:"), 9, "objectives[1]", "speed"),
        (("space:", "sampler: tpee\nspace:"), 9, "sampler", "did you mean"),
        (("space:", "recover: {points: 1}\nspace:"), 9, "recover.points", "either minutes or steps"),
        (("space:", "recover: {minuts: 1}\nspace:"), 9, "recover.minuts", "no key"),
        (("space:", "max_error_mm: -1\nspace:"), 9, "max_error_mm", "greater than 0"),
        (("space:", "  - {policy: motion_decoder, weights: decoder}\nspace:"), 5, "steps", "fits one model"),
    ],
)
def test_mistakes_have_their_line_and_field(change, line, field, message):
    mistakes = mistakes_in(STUDY.replace(*change))
    assert [(m.line, m.field) for m in mistakes] == [(line, field)], mistakes
    assert message in f"{mistakes[0].message} {mistakes[0].hint}"


def test_steps_that_are_no_recipe_and_steps_without_a_knob():
    twice = STUDY.replace("policy: merge_layers, strategy: greedy, layers: 3", "policy: merge_tokens, keep: 90")
    mistakes = mistakes_in(twice)
    assert [(m.line, m.field) for m in mistakes] == [(7, "steps[1].policy")]
    fixed = "steps:\n  - {policy: merge_layers, strategy: explicit, windows: [[1, 2]]}\n"
    mistakes = mistakes_in(STUDY[: STUDY.index("steps:")] + fixed)
    assert [m.field for m in mistakes] == ["steps"] and "nothing to search" in mistakes[0].message


def test_shipped_studies_are_right_and_named_after_their_file(tmp_path):
    folder = files("experiments").joinpath("studies")
    names = sorted(path.name for path in folder.iterdir() if path.name.endswith(".yaml"))
    assert "reference.yaml" in names
    for name in names:
        (tmp_path / name).write_text(folder.joinpath(name).read_text())
        found = read_study(str(tmp_path / name))
        assert f"{found.name}.yaml" == name and found.made_by_hand()


def test_files_that_are_no_studies_are_bad_input(tmp_path):
    with pytest.raises(BadInput, match=r"nowhere\.yaml: cannot be read"):
        read_study(str(tmp_path / "nowhere.yaml"))
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="UTF-8"):
        read_study(str(tmp_path / "a.yaml"))
