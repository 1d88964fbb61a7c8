"""A body model's arrays as its authors' files have them, small."""

from __future__ import annotations

from typing import Any

import numpy as np

from hmr.body.model import PARENTS


def official(betas: int = 10, posedirs: bool = False) -> dict[str, Any]:
    """Arrays of the layout and number types of an official SMPL file; the values are random."""
    draw = np.random.default_rng(0)
    regressor = np.zeros((24, 6890))
    for joint in range(24):
        regressor[joint, draw.choice(6890, 30, replace=False)] = 1 / 30
    weights = draw.random((6890, 24)) ** 8
    parents = np.array([[2**32 - 1, *PARENTS[1:]], range(24)], dtype=np.uint32)
    bends = {"posedirs": draw.normal(0, 0.001, (6890, 3, 207))} if posedirs else {}  # most of a real file's size
    return bends | {
        "v_template": draw.normal(0, 0.3, (6890, 3)),
        "shapedirs": draw.normal(0, 0.01, (6890, 3, betas)),
        "J_regressor": regressor,
        "weights": weights / weights.sum(1, keepdims=True),
        "kintree_table": parents,
        "f": draw.integers(0, 6890, (13776, 3)).astype(np.uint32),
        "bs_style": "lbs",
        "bs_type": "lrotmin",
        "J": draw.normal(size=(24, 3)),
    }
