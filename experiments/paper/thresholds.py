"""ECLM with growing thresholds, FastHMR Tab. 2."""

from __future__ import annotations

from compress.merge_layers import MergeLayers, Operator
from experiments.ablation import Row, Table

THRESHOLDS_MM = (0.1, 0.3, 0.5, 1.0, 2.0, 5.0)
OPERATORS: tuple[Operator, ...] = ("slm", "drop")  # the paper's, and the one that comes deepest here

TABLE = Table(
    name="thresholds",
    title="Layers left at a threshold",
    question="How many layers does Alg. 1 take at a threshold on the calibration split, and at what error?",
    rows=tuple(
        Row(f"window, {operator}, {mm} mm", (MergeLayers(operator=operator, threshold_mm=mm),))
        for operator in OPERATORS
        for mm in THRESHOLDS_MM
    ),
)
