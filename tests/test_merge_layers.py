"""Layer merging: operators by hand, cached trials against running everything, plans against their laws."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from compress.context import Context, Observer, silent
from compress.errors import BadInput
from compress.layers.operators import OPERATORS, drop, mean, merged_block, slm
from compress.layers.search import Windows, error_constrained, runs_of
from compress.layers.trials import Trials, frame_bytes, kept_places
from compress.policies.merge_layers import LayerPlan, MergeLayers
from compress.policy import MadeFor
from compress.stack import Schedule, encode
from compress.tokens import Tokens
from hmr.models.vit import ViT
from tests.planning import applied, planned

WIDTH, GRID = 4, (2, 3)


class Ramp(nn.Module):
    """A block that no other order of blocks replaces: x -> 7/8 x + v, and v is its own."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.v = nn.Parameter(torch.randn(WIDTH, generator=torch.Generator().manual_seed(number)))


class Ramps(nn.Module):
    """A stack of `depth` ramps that counts how often one runs."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Ramp(i) for i in range(depth))
        self.ran = 0

    def embed(self, crop: Tensor) -> Tokens:
        return Tokens.of(crop.flatten(2).transpose(1, 2)[:, :6, :1].expand(-1, -1, WIDTH).contiguous(), GRID)

    def attend(self, block: nn.Module, tokens: Tokens, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.ran += 1
        return -tokens.x / 8, tokens.x[:, None]

    def feed(self, block: Any, x: Tensor) -> Tensor:
        return block.v.expand_as(x)

    def finish(self, tokens: Tokens) -> Tokens:
        return replace(tokens, x=tokens.x * 3)


class Model(nn.Module):
    """Just enough of a model to be compressed."""

    head_needs: Literal["tokens", "grid"] = "tokens"
    grid = GRID
    protect: float | None = None

    def __init__(self, stack: Any, dim: int = WIDTH) -> None:
        super().__init__()
        self.backbone, self.dim, self.schedule = stack, dim, Schedule()

    @property
    def stack(self) -> Any:
        return self.backbone


class Verdict:
    """A judge: crops of three batches, and any function of all finished tokens as error in mm."""

    masks = None

    def __init__(self, seed: int = 0, rule: str = "random", sizes: tuple[int, ...] = (3, 3, 2)) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.crops = [torch.randn(size, 3, 32, 48, generator=generator) for size in sizes]
        self.seed, self.rule = seed, rule
        self.first: dict[int, Tensor] = {}

    def errors(self, index: int, tokens: Tokens) -> Tensor:
        original = self.first.setdefault(index, tokens.x)  # the first trial is the original model
        if torch.equal(original, tokens.x):
            return torch.full((len(tokens.x),), 50.0)
        if self.rule != "random":
            return torch.full((len(tokens.x),), {"never": 60.0, "always": 50.0}[self.rule])
        digests = [sha256(f"{self.seed}".encode() + x.numpy().tobytes()).digest() for x in tokens.x]
        return torch.tensor([50 - 0.4 + digest[0] / 255 for digest in digests])


def state(*values: float) -> dict[str, Tensor]:
    return {"w": torch.tensor(values), "count": torch.tensor(len(values))}


# ---- operators


numbers = st.floats(-1e3, 1e3, width=32)


@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=6))
def test_operators_are_their_formulas(values: list[tuple[float, float]]) -> None:
    run = [state(*pair) for pair in values]
    for c in range(2):
        column = [pair[c] for pair in values]
        assert slm(run)["w"][c].item() == pytest.approx(
            column[0] + sum(x - column[0] for x in column[1:]), abs=1e-2, rel=1e-5
        )
        assert mean(run)["w"][c].item() == pytest.approx(sum(column) / len(column), abs=1e-4, rel=1e-5)
        assert drop(run)["w"][c].item() == column[0]
    assert all(OPERATORS[name](run)["count"] == 2 for name in OPERATORS)  # an integer is nobody's mean


@given(numbers, numbers)
def test_slm_of_a_pair_is_the_upper_block_to_the_bit(low: float, high: float) -> None:
    assert slm([state(low), state(high)])["w"].item() == torch.tensor(high).item()


@pytest.mark.parametrize("name", ["slm", "mean", "drop"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_blocks_merge_to_themselves(name: Literal["slm", "mean", "drop"], dtype: torch.dtype) -> None:
    """slm included: all differences are zero. The operands stay as they were."""
    block = ViT(16, 1, 2, 32, 0.0).blocks[0].to(dtype)
    before = copy.deepcopy(block.state_dict())
    merged = merged_block([block] * 4, name)
    assert merged is not block and merged.state_dict().keys() == before.keys()
    for key, value in merged.state_dict().items():
        assert value.dtype == dtype and torch.equal(value, before[key]) and torch.equal(block.state_dict()[key], value)


def test_blocks_of_unlike_shape_are_refused() -> None:
    with pytest.raises(BadInput, match=r"\(w\) cannot be merged: put merge_layers before prune_width"):
        slm([{"w": torch.zeros(3)}, {"w": torch.zeros(4)}])
    with pytest.raises(BadInput, match=r"\(b\)"):
        mean([{"w": torch.zeros(3)}, {"w": torch.zeros(3), "b": torch.zeros(3)}])
    with pytest.raises(BadInput, match="put merge_layers before precision"):
        slm([{"w": torch.zeros(3, dtype=torch.int8)}] * 2)


# ---- trials


def plain_error(stack: Any, judge: Verdict, operator: Literal["slm", "mean", "drop"], windows: Windows) -> float:
    """The stack built whole from the original weights, and run whole by `encode`."""
    trial = copy.copy(stack)
    trial._modules = dict(stack._modules)
    blocks = list(stack.blocks)
    trial.blocks = nn.ModuleList(
        merged_block(blocks[low : high + 1], operator) if low < high else blocks[low]
        for low, high in runs_of(windows, len(blocks))
    )
    with torch.no_grad():
        errors = [judge.errors(i, encode(trial, crop)) for i, crop in enumerate(judge.crops)]
    return torch.cat(errors).double().mean().item()


strategies = st.sampled_from(["window", "greedy", "cka"])
operators = st.sampled_from(["slm", "mean", "drop"])


@settings(max_examples=60)
@given(st.integers(0, 2**31), st.integers(1, 8), st.integers(0, 9), strategies, operators)
def test_cached_search_decides_as_the_plain_one(seed, depth, rooms, strategy, operator) -> None:
    """Any error whatever (a hash of the tokens' bits), any memory, any strategy: the same windows and errors."""
    stack, judge = Ramps(depth), Verdict(seed)
    arguments: dict[str, Any] = {"threshold": 0.2, "similarity": [(i * 7919 + seed) % 13 for i in range(depth - 1)]}
    memory = rooms * 8 * frame_bytes(stack.embed(judge.crops[0]))
    trials = Trials(stack, judge, operator, memory)
    found = error_constrained(trials, depth, strategy, **arguments)
    plain = error_constrained(lambda w, _: plain_error(stack, judge, operator, w), depth, strategy, **arguments)
    assert found == plain
    assert trials.run <= trials.plain
    assert sum(len(kept) for kept in trials.kept) <= rooms * 3


@pytest.mark.parametrize("depth", [12, 20, 32])
@pytest.mark.parametrize(("rule", "share"), [("never", 0.60), ("always", 0.35)])
def test_search_runs_a_share_of_the_plain_one(depth: int, rule: str, share: float) -> None:
    """Block evaluations are counted by the stack itself, in the search and in the search that runs everything."""
    judge = Verdict(rule=rule)
    stack, plain = Ramps(depth), Ramps(depth)
    trials = Trials(stack, judge, "mean")
    found = error_constrained(trials, depth, threshold=0.1)
    same = error_constrained(lambda w, _: plain_error(plain, judge, "mean", w), depth, threshold=0.1)
    assert found == same and found.windows == {"never": (), "always": ((0, depth - 1),)}[rule]
    assert stack.ran == trials.run and plain_ran(depth, rule) * 3 == trials.plain
    assert trials.run <= share * trials.plain


def plain_ran(depth: int, rule: str) -> int:
    """Blocks of all trials of Algorithm 1, the original's included."""
    if rule == "never":
        return depth + (depth - 1) ** 2
    return depth + sum(range(1, depth))


@given(st.integers(1, 60), st.integers(0, 70))
def test_kept_places_fit_and_leave_short_ways(depth: int, room: int) -> None:
    places = list(kept_places(depth, room))
    assert len(places) <= room and all(0 <= place <= depth - 2 for place in places)
    ways = [low - max((p for p in places if p <= low), default=0) for low in range(depth - 1)]
    assert max(ways, default=0) < math.ceil((depth - 1) / (room + 1)) or not max(ways, default=0)


@pytest.mark.parametrize("rooms", [0, 1, 2, 3, 5, 10, 11])
def test_memory_bound_holds(rooms: int) -> None:
    """What is kept, counted by storage, stays under the bound; more memory never runs more blocks."""
    ran = []
    for room in (rooms, rooms + 1):
        stack, judge = Ramps(12), Verdict(rule="never")
        memory = room * 8 * frame_bytes(stack.embed(judge.crops[0])) + 5
        trials = Trials(stack, judge, "mean", memory)
        error_constrained(trials, 12, threshold=0.1)
        storages = {t.x.untyped_storage() for kept in trials.kept for t in kept.values()}
        assert sum(storage.nbytes() for storage in storages) <= memory
        ran.append(trials.run)
    assert ran[1] <= ran[0]
    assert ran[0] == trials.plain if rooms == 0 else ran[0] < trials.plain


@pytest.mark.parametrize("strategy", ["window", "greedy"])
@pytest.mark.parametrize("rooms", [1, 4])
def test_memory_bound_holds_while_a_stack_shrinks(rooms: int, strategy: Literal["window", "greedy"]) -> None:
    """Every merge is taken, so every trial is of another depth: after none is more kept than has room."""
    stack, judge = Ramps(12), Verdict(rule="always")
    memory = rooms * 8 * frame_bytes(stack.embed(judge.crops[0]))
    trials, most = Trials(stack, judge, "mean", memory), 0

    def watched(windows: Windows, settled: Windows) -> float:
        nonlocal most
        error = trials(windows, settled)
        most = max(most, *map(len, trials.kept))
        return error

    found = error_constrained(watched, 12, strategy, threshold=0.1)
    assert found.windows == ((0, 11),) and 0 < most <= rooms


def test_trials_of_a_vit_are_those_of_the_compressed_model() -> None:
    """To the bit: the tokens that a trial is judged on are those of the model that its plan makes."""
    torch.manual_seed(0)
    stack = ViT(16, 6, 2, 32, 0.3)
    model = Model(stack, 16).eval()
    judge = Verdict()
    trials = Trials(stack, judge, "slm")
    for windows in [(), ((4, 5),), ((3, 5),), ((1, 2), (3, 5)), ((0, 5),)]:
        error = trials(windows, tuple(w for w in windows if w[0] > 2))
        other = copy.deepcopy(model)
        applied(LayerPlan(made_for=MadeFor.of(model), windows=windows, operator="slm"), other)
        with torch.no_grad():
            errors = [judge.errors(i, encode(other.stack, crop)) for i, crop in enumerate(judge.crops)]
        assert error == torch.cat(errors).double().mean().item()


# ---- policy and plan


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
        ({"operator": "median"}, "'slm', 'mean', 'drop' or 'linear'"),
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
