"""Layer merging: plans against their laws, and policies that are refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from compress.context import Context, Observer, silent
from compress.errors import BadInput
from compress.layers.operators import OPERATORS
from compress.layers.search import runs_of
from compress.policies.merge_layers import LayerPlan, MergeLayers
from compress.stack import Schedule, encode
from hmr.models.vit import ViT
from tests.planning import applied, planned
from tests.ramps import Model, Ramp, Ramps, Verdict, operators, strategies


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@settings(max_examples=30)
@given(st.integers(0, 2**31), strategies, operators, st.floats(0, 0.5), st.booleans())
def test_planning_changes_nothing_and_the_plan_is_json(seed, strategy, operator, threshold, training) -> None:
    model = Model(Ramps(5)).train(training)
    before, blocks = snapshot(model), model.stack.blocks
    plan = planned(MergeLayers(strategy=strategy, operator=operator, threshold_mm=threshold), model, Verdict(seed))
    assert same(snapshot(model), before) and model.stack.blocks is blocks
    assert all(module.training == training for module in model.modules())
    text = plan.model_dump_json()
    assert LayerPlan.model_validate_json(text) == plan == LayerPlan.model_validate(json.loads(text), strict=False)
    counts = plan.measured["block_evaluations"]
    assert 0 < counts["run"] <= counts["plain"]
    assert plan.measured["original_mm"] == 50.0 == plan.measured["path"][0]["error_mm"]
    applied(plan, model)
    assert len(model.stack.blocks) == 5 - sum(high - low for low, high in plan.windows)
    assert plan.empty == same(snapshot(model), before)


@settings(max_examples=30)
@given(st.integers(0, 2**31), operators, st.data())
def test_merges_are_made_from_the_original_weights(seed, operator, data) -> None:
    """Each block that is left is the operator on the originals of its run, and nothing else."""
    depth = data.draw(st.integers(1, 8))
    windows, low = [], 0
    while low < depth:
        high = data.draw(st.integers(low, depth - 1))
        windows += [(low, high)] * (low < high)
        low = high + 1
    model, original = Model(Ramps(depth)), Ramps(depth)
    applied(planned(MergeLayers(strategy="explicit", windows=tuple(windows), operator=operator), model), model)
    runs = runs_of(tuple(windows), depth)
    assert len(model.stack.blocks) == len(runs)
    for block, (low, high) in zip(model.stack.blocks, runs, strict=True):
        run = [original.blocks[i].state_dict() for i in range(low, high + 1)]
        expected = OPERATORS[operator](run) if low < high else run[0]
        assert torch.equal(block.v, expected["v"])


def test_no_acceptable_window_leaves_the_model_exactly_as_it_was() -> None:
    """Identity; and the plan is empty."""
    model = Model(Ramps(6))
    crop = Verdict().crops[0]
    before, blocks, out = snapshot(model), model.stack.blocks, encode(model.stack, crop).x
    plan = planned(MergeLayers(threshold_mm=0.0), model, Verdict(rule="never"))
    applied(plan, model)
    plan.shape(model)
    assert plan.empty and model.stack.blocks is blocks and same(snapshot(model), before)
    assert torch.equal(encode(model.stack, crop).x, out)


def test_shape_leaves_the_keys_and_shapes_of_apply() -> None:
    """A saved model comes back: shape alone takes the state dict of the applied plan, strictly, on the meta device."""
    model = Model(ViT(16, 6, 2, 32, 0.0), 16)
    with torch.device("meta"):
        empty = Model(ViT(16, 6, 2, 32, 0.0), 16)
    plan = planned(MergeLayers(strategy="explicit", windows=((1, 2), (3, 5))), model)
    applied(plan, model)
    plan.shape(empty)
    empty.to_empty(device="cpu").load_state_dict(model.state_dict(), strict=True)
    crop = torch.randn(2, 3, 64, 48)
    assert torch.equal(encode(empty.stack, crop).x, encode(model.stack, crop).x)


def test_windows_count_original_blocks_from_0_with_both_ends() -> None:
    model = Model(Ramps(32))
    applied(planned(MergeLayers(strategy="explicit", windows=[[24, 28]], operator="drop"), model), model)  # type: ignore[arg-type]
    left = [*range(25), *range(29, 32)]
    assert [block.v.tolist() for block in model.stack.blocks] == [Ramp(i).v.tolist() for i in left]


def test_plan_refuses_a_model_it_was_not_made_for() -> None:
    plan = planned(MergeLayers(strategy="explicit", windows=((1, 2),)), Model(Ramps(6)))
    for act in (lambda other: applied(plan, other), plan.shape):
        with pytest.raises(BadInput, match="made for 6 blocks, this model has 5"):
            act(Model(Ramps(5)))
        with pytest.raises(BadInput, match="4 wide"):
            act(Model(Ramps(6), 8))


def test_plan_that_left_the_model_as_it_was_raises() -> None:
    class Deaf(Model):
        """Hands out a new stack each time, so that what is done to it is lost."""

        @property
        def stack(self) -> Any:
            return copy.copy(Ramps(6))

    model = Deaf(Ramps(6))
    plan = planned(MergeLayers(strategy="explicit", windows=((1, 2),)), model)
    with pytest.raises(RuntimeError, match="kept all of its blocks"):
        applied(plan, model)


def test_layers_are_merged_before_tokens() -> None:
    model = Model(Ramps(6))
    plan = planned(MergeLayers(strategy="explicit", windows=((1, 2),)), model)
    for schedule in (Schedule((2, 1)), Schedule(drop=2)):
        model.schedule = schedule
        for act in (lambda: applied(plan, model), lambda: planned(MergeLayers(), model, Verdict())):
            with pytest.raises(BadInput, match="put merge_layers before merge_tokens"):
                act()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"threshold_mm": -0.1}, "greater than or equal to 0"),
        ({"strategy": "explicit"}, "needs windows"),
        ({"windows": [[1, 2]]}, "windows has no meaning with strategy: window"),
        ({"strategy": "explicit", "windows": [[2, 1]]}, "first < last"),
        ({"strategy": "explicit", "windows": [["1", 2]]}, "integer"),
        ({"strategy": "explicit", "windows": [[1, 2, 3]]}, "at most 2 items"),
        ({"strategy": "explicit", "windows": 3}, "tuple"),
        ({"layers": 4}, "layers has no meaning"),
        ({"strategy": "greedy", "layers": 4, "threshold_mm": 1.0}, "threshold_mm has no meaning beside layers"),
        ({"strategy": "greedy", "layers": 0}, "greater than or equal to 1"),
        ({"strategy": "explicit", "windows": [[1, 2]], "threshold_mm": 1.0}, "threshold_mm has no meaning"),
        ({"strategy": "cka", "commit_open_window": False}, "commit_open_window has no meaning"),
        ({"operator": "median"}, "'slm', 'mean', 'drop', 'linear' or 'fold'"),
        ({"treshold_mm": 1.0}, "not permitted"),
    ],
)
def test_wrong_policies_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        MergeLayers(**fields)


@pytest.mark.parametrize(
    "fields", [{}, {"strategy": "explicit", "windows": [[1, 2], [4, 6]]}, {"strategy": "cka", "layers": 3}]
)
def test_policy_comes_back_from_its_json(fields: dict[str, Any]) -> None:
    policy = MergeLayers(**fields)
    assert MergeLayers.model_validate_json(policy.model_dump_json()) == policy == MergeLayers(**policy.model_dump())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"strategy": "explicit", "windows": [[4, 8]]}, "beyond the last of 6 blocks"),
        ({"strategy": "greedy", "layers": 9}, "9 blocks cannot be left of 6"),
        ({}, "needs frames"),
    ],
)
def test_policy_that_does_not_fit_the_model_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        planned(MergeLayers(**fields), Model(Ramps(6)))


def test_killed_search_continues_and_runs_less(tmp_path) -> None:
    """The second search asks nothing again that stands in the journal; another threshold shares its trials."""
    model = Model(Ramps(8))

    def stop(stage: str, detail: str, done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    class Kept(Context):
        @contextmanager
        def place(self, kind: str, *key: object) -> Iterator[Path]:
            yield tmp_path / kind

    def kept(judge: Verdict, observer: Observer = silent) -> Context:
        return Kept(model, observer=observer, memory={"judge": judge})

    with pytest.raises(KeyboardInterrupt):
        MergeLayers().plan(model, kept(Verdict(3), stop))
    judge = Verdict(3)
    for index, crop in enumerate(judge.crops):  # the original model, which the journal knows
        judge.errors(index, encode(model.stack, crop))
    model.backbone.ran = 0
    plan = MergeLayers().plan(model, kept(judge))
    assert plan.decided() == planned(MergeLayers(), Model(Ramps(8)), Verdict(3)).decided()
    assert model.backbone.ran == plan.measured["block_evaluations"]["run"] > 0
    again = MergeLayers().plan(model, kept(judge))
    assert again.decided() == plan.decided() and again.measured["block_evaluations"]["run"] == 0
