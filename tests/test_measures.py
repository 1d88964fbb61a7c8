"""The recipes of all budgets: dynamic programming against trying everything, MACs on paper against those counted."""

from __future__ import annotations

import json
from itertools import product

import pytest
import torch
from torch import Tensor

from compress.pipeline import run_all_steps
from compress.policies.merge_tokens import MergeTokens
from compress.ranking.budget import BlockSize, counted
from compress.ranking.layout import EncoderSizes, Layout
from compress.ranking.measures import Measures, levels, measures_of, movements
from compress.ranking.scores import BlockScores
from tests import test_ranking
from tests.test_ranking import CROPS, MASKS, One

model, single = test_ranking.model, test_ranking.single  # fixtures


def test_more_units_that_go_move_no_less():
    for moved in ((1.0, 4.0, 9.0), (5.0, 4.0, 9.0), (3.0, 6.0, 6.0)):
        found = [*levels(moved, 16, 3)]
        assert (
            found[0] == (16, 0.0) and found[-1] == (4, max(moved)) and [left for left, _ in found] == [16, 13, 10, 7, 4]
        )
        assert [way for _, way in found] == sorted(way for _, way in found)


def made_up(seed: int) -> Measures:
    """Of two blocks and eight patches, as small as its choices can all be tried."""
    random = torch.Generator().manual_seed(seed)

    def some(count: int) -> Tensor:
        return torch.rand(count, generator=random).cumsum(0)

    scores = [BlockScores(some(3), some(3), 3 * some(1).item(), some(4)) for _ in range(2)]
    encoder = EncoderSizes((BlockSize(4, 2, 2, 4, 2), BlockSize(4, 2, 2, 4, 3)), 8, 1, protect=True, drops=True)
    dropped = {t: 0.5 * (8 - t) ** 2 for t in encoder.tokens}
    whole = sum(size.macs(9, 9, size.heads, size.hidden) for size in encoder.sizes)
    return Measures(encoder, scores, dropped, (10, 3), whole + 10 + 3 * 8)


def every_layout(measures: Measures) -> list[Layout]:
    """All that may be left of a model with two blocks."""
    tokens, sizes = measures.encoder.tokens, measures.encoder.sizes
    units = [[[left for left, _ in levels((1, 2, 3), n, 1)] for n in (size.heads, size.hidden)] for size in sizes]
    found = []
    for keep, *maps in product(tokens, (False, True), (False, True)):
        parts = [[[0]] * 3 if m else [*units[i], range(keep)] for i, m in enumerate(maps)]
        for (h, u, r), (k, v, q) in product(product(*parts[0]), product(*parts[1])):
            left = [keep, keep - r, keep - r - q]
            if all(maps) or not {*left} <= {*tokens} or 2 * r > keep or 2 * q > left[1]:
                continue
            found.append(Layout(keep, [h, k], [u, v], [r, q], {i for i, m in enumerate(maps) if m}))
    return found


def macs_of(measures: Measures, layout: Layout) -> int:
    """On paper, block by block."""
    left, total = layout.keep + 1, 0
    for i, size in enumerate(measures.encoder.sizes):
        after = left - layout.merges[i]
        mapped = left * size.dim**2
        total += mapped if i in layout.mapped else size.macs(left, after, layout.heads[i], layout.hidden[i])
        left = after
    return total + measures.rest[0] + measures.rest[1] * (left - 1)


def test_no_layout_within_the_macs_moves_less():
    """Dynamic programming against trying everything, in grains of one multiply-accumulate."""
    for seed in range(3):
        measures = made_up(seed)
        every = [(macs_of(measures, one), measures.moved(one)) for one in every_layout(measures)]
        paths = measures.paths(grains=measures.total)
        assert len(every) > 4000 and paths.least == min(macs for macs, _ in every)
        for share in (0.35, 0.5, 0.7, 0.9, 1.0):
            budget = round(share * measures.total)
            moved, path = paths.best(budget) or (0.0, [])
            layout = measures.chosen(path)
            assert moved == pytest.approx(min(way for macs, way in every if macs <= budget))
            assert moved == pytest.approx(measures.moved(layout)) and macs_of(measures, layout) <= budget
            rough = measures.paths(grains=100).best(budget)
            assert rough and sum(edge.macs for edge in rough[1]) <= budget and moved <= rough[0] + 1e-9
        assert paths.best(paths.least - 1) is None


def test_what_counts_for_more_is_left():
    measures = made_up(0)

    def chosen(**weights: float) -> Layout:
        found = measures.paths(weights, measures.total).best(measures.total // 2)
        assert found
        return measures.chosen(found[1])

    assert sum(chosen(hidden=100.0).hidden) > sum(chosen(hidden=0.01).hidden)
    assert chosen(drop=100.0, merge=100.0).keep > chosen(drop=0.01).keep
    assert not chosen(map=100.0).mapped


def test_macs_on_paper_are_those_that_are_counted(single):
    """Of a layout that leaves out some of everything."""
    model, context = single
    context.memory["judge"] = One(MASKS, CROPS.float())
    measures = measures_of(model, context, protect=True)
    layout = Layout(144, [4, 4, 2, 3], [48, 48, 24, 40], [16, 0, 8, 0], {1})
    steps = layout.steps(measures.encoder)
    assert [step.policy for step in steps] == ["merge_layers", "merge_tokens", "prune_width"]
    paper = macs_of(measures, layout)
    assert 0.98 * paper < counted(model, steps) <= paper
    made = run_all_steps(model, steps, context.fresh())
    assert made.cost().tokens[-1] == 144 - 24 and made.schedule.drop == 48 and made.schedule.merges == (16, 0, 8)


def test_what_dropping_moves_is_looked_at(single):
    model, context = single
    context.memory["judge"] = One(MASKS, CROPS.float())
    measures = measures_of(model, context, protect=True)
    for keep in (48, 96, 168):
        looked = movements(model, (MergeTokens(mode="drop", keep=keep, dilate=1),), context)
        assert measures.dropped[keep] == pytest.approx(looked.median().item(), rel=1e-3)
    assert measures.seconds > 0 and Measures.of(json.loads(json.dumps(measures.told()))).told() == measures.told()
    assert measures.dropped[192] == 0 and measures_of(model, context, protect=False).dropped == {192: 0.0}
