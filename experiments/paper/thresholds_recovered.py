"""ECLM with growing thresholds and 15 minutes of recovery each."""

from __future__ import annotations

from compress.merge_layers import MergeLayers
from compress.recover import Recover
from experiments.ablation import Row, Table
from experiments.paper.thresholds import THRESHOLDS_MM

TABLE = Table(
    name="thresholds-recovered",
    title="Layers left at a threshold, then 15 minutes of recovery",
    question="How much of the error that merging costs does label-free recovery give back?",
    rows=tuple(
        Row(f"window, {mm} mm + recovery", (MergeLayers(threshold_mm=mm), Recover(minutes=15, precision="bfloat16")))
        for mm in THRESHOLDS_MM
    ),
)
