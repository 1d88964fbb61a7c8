"""ECLM with growing thresholds, FastHMR Tab. 2."""

from __future__ import annotations

from compress.merge_layers import MergeLayers
from experiments.ablation import Row, Table

THRESHOLDS_MM = (0.1, 0.3, 0.5, 1.0, 2.0, 5.0)

TABLE = Table(
    name="thresholds",
    title="Layers left at a threshold",
    question="How many layers does Alg. 1 take at a threshold on the calibration split, and at what error?",
    rows=tuple(Row(f"window, {mm} mm", (MergeLayers(threshold_mm=mm),)) for mm in THRESHOLDS_MM),
)
