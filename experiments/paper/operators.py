"""Strategies and operators of layer merging at the depth that Alg. 1 reaches."""

from __future__ import annotations

from typing import get_args

from compress.merge_layers import MergeLayers, Operator
from experiments.ablation import Row, Table

WINDOW = Row("window, slm, 1 mm", (MergeLayers(threshold_mm=1.0),))
# `layers` stands in for the depth that WINDOW reaches, see `as_deep_as`
CKA = Row("cka, slm", (MergeLayers(strategy="cka", layers=1),), as_deep_as=WINDOW.name)
GREEDY = tuple(
    Row(f"greedy, {operator}", (MergeLayers(strategy="greedy", operator=operator, layers=1),), as_deep_as=WINDOW.name)
    for operator in get_args(Operator)
)

TABLE = Table(
    name="operators",
    title="Strategies and operators at equal depth",
    question="Which search finds the layers that cost least, and which operator merges them best?",
    rows=(WINDOW, CKA, *GREEDY),
)
