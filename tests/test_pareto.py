"""Fronts and hypervolumes against their definitions, brute force and optuna's own."""

from __future__ import annotations

import itertools

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.search.pareto import contributions, dominates, front, grown, hypervolume, reference_point

POINTS = st.lists(st.tuples(*[st.integers(0, 6)] * 3), min_size=1, max_size=12)


def test_domination_is_no_worse_anywhere_and_better_somewhere():
    assert dominates((1, 2), (1, 3)) and dominates((0, 0), (1, 1))
    assert not dominates((1, 2), (1, 2)) and not dominates((0, 3), (1, 2))


@given(POINTS)
def test_a_front_is_what_nothing_dominates_each_trade_once(points):
    found = front(points)
    best = {p for p in points if not any(dominates(q, p) for q in points)}
    assert {points[i] for i in found} == best and len(found) == len(best)
    assert all(points.index(points[i]) == i for i in found)  # of equals the first
    assert [points[i] for i in found] == sorted(points[i] for i in found)


@given(POINTS)
def test_a_front_is_optunas(points):
    study = optuna.create_study(directions=["minimize"] * 3)
    study.add_trials([optuna.trial.create_trial(values=list(map(float, p))) for p in points])
    assert {points[i] for i in front(points)} == {tuple(map(int, t.values)) for t in study.best_trials}


@given(POINTS)
def test_hypervolume_counts_the_cells_that_are_dominated(points):
    cells = itertools.product(range(7), repeat=3)
    counted = sum(any(all(a <= b for a, b in zip(p, cell, strict=True)) for p in points) for cell in cells)
    assert hypervolume(points, (7, 7, 7)) == counted


@pytest.mark.parametrize("dimensions", [2, 3, 4])
def test_hypervolume_is_optunas(dimensions):
    points = np.random.default_rng(0).random((12, dimensions))
    reference = reference_point(points.tolist())
    wanted = optuna._hypervolume.compute_hypervolume(points, np.array(reference))
    assert hypervolume(points.tolist(), reference) == pytest.approx(wanted)


def test_points_beyond_the_reference_count_nothing():
    assert hypervolume([(1.0, 9.0), (5.0, 5.0)], (4.0, 4.0)) == 0.0
    assert hypervolume([(1.0, 9.0), (2.0, 1.0)], (4.0, 4.0)) == 6.0


def test_hypervolume_grows_with_the_trials_and_stands_still_where_one_counts_nothing():
    values = [(3.0, 3.0), None, (1.0, 3.0), (3.0, 1.0), (2.0, 2.0), (3.0, 3.0)]
    found = grown(values, (4.0, 4.0))
    wanted = [hypervolume([v for v in values[: i + 1] if v], (4.0, 4.0)) for i in range(len(values))]
    assert found == wanted == sorted(found)
    assert grown([None, (3.0, 3.0)], (4.0, 4.0)) == [0.0, 1.0]


def test_a_contribution_is_what_no_other_point_dominates():
    assert contributions([(1.0, 3.0), (3.0, 1.0), (2.0, 2.0)], (4.0, 4.0)) == [1.0, 1.0, 1.0]
    assert contributions([(1.0, 1.0), (2.0, 2.0)], (4.0, 4.0)) == [5.0, 0.0]
