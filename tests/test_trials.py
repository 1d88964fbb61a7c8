"""Trials of a layer search: cached ones against running everything."""

from __future__ import annotations

import copy
import math
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compress.layers.operators import merged_block
from compress.layers.search import Windows, error_constrained, runs_of
from compress.layers.trials import Trials, frame_bytes, kept_places
from compress.policies.merge_layers import LayerPlan
from compress.policy import MadeFor
from compress.stack import encode
from hmr.models.vit import ViT
from tests.planning import applied
from tests.ramps import Model, Ramps, Verdict, operators, strategies


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
