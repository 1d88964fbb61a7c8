"""Replaying samplers over a table of what was measured, and drawing the same recipes for every number of workers."""

from __future__ import annotations

import numpy as np

from compress.policy import ModelSize
from experiments.reports import plots
from experiments.search.pareto import hypervolume, reference_point
from experiments.search.replay import cell_of, cells, curves, replayed
from experiments.search.space import Space
from experiments.search.study import Study, parsed
from tests.search_study import STUDY


def study() -> Study:
    return parsed(STUDY, "tiny.yaml")


def space() -> Space:
    return Space(study(), ModelSize(5, (16, 12)))


def table():
    """Dearer is better: a made-up law of cost and error, impossible where a start is late."""
    return {
        cell: None if cell[3] == 3 else (cell[0] * cell[5], 100 / cell[0] + 50 * cell[1] + 1e4 / cell[5])
        for cell in cells(space())
    }


def test_cells_are_the_whole_space():
    found = cells(space())
    # blocks left: (start, tokens kept) that they allow, 48 to a block; each with three widths
    left = {2: 3 + 2, 3: 3 + 3 + 2, 4: 3 + 3 + 3 + 2, 5: 3 + 3 + 3 + 3}
    assert len(found) == len({*found}) == 3 * sum(left.values())
    names = list(study().ranges())
    for cell in found[::17]:
        values = dict(zip(names, cell, strict=True))
        assert cell_of(values, names) == cell
        study().drawn(values)


def test_a_replay_sees_the_table_and_repeats():
    for name in ("tpe", "nsga2", "random"):
        seen = replayed(table(), space(), name, 0, 30)
        assert seen == replayed(table(), space(), name, 0, 30) != replayed(table(), space(), name, 1, 30)
        assert len(seen) == 30 and {*seen} <= {*table().values()}


def test_curves_grow_towards_the_whole():
    found = curves(table(), space(), 24, 2)
    for values in found.values():
        assert values.shape == (2, 24)
        assert (np.diff(values, axis=1) >= 0).all() and values.max() <= 1 + 1e-12 and values[:, -1].min() > 0.3
    possible = [value for value in table().values() if value]
    assert hypervolume(possible, reference_point(possible)) > 0
    assert plots.svg(plots.bands(found)).startswith("<svg")
