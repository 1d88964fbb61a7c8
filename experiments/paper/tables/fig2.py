"""FastHMR Fig. 2: how alike the layers are, the reason why neighbours can merge."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from compress.layers.similarity import layer_similarity
from experiments.paper.ablation import Comparison, Table
from experiments.paper.finding import Finding, Rows, below, rise
from hmr.data.sample import batch
from hmr.evaluation.intervals import interval

FRAMES = 16  # of each recording
APART = (1, 2, 4, 8, 16)


def look(comparison: Comparison) -> dict[str, Any]:
    """Linear CKA between all layers over `calib` frames of each recording: the mean map (L, L), and a row for each
    distance between layers, with its interval over recordings."""
    calib, model = comparison.calib, comparison.model
    clips, device = np.array(calib.recordings), next(model.parameters()).device
    maps = {}
    for clip in dict.fromkeys(clips.tolist()):
        samples = [calib[i] for i in np.flatnonzero(clips == clip)[:FRAMES].tolist()]
        maps[clip] = layer_similarity(model.stack, [batch(samples, device).crops])
    depth = len(model.stack.blocks)
    by_distance = {n: {clip: one.diagonal(n).mean().item() for clip, one in maps.items()} for n in APART if n < depth}
    mean = torch.stack([*maps.values()]).mean(0)
    return {"rows": [row(n, values) for n, values in by_distance.items()], "similarity": mean.tolist()}


def row(apart: int, values: dict[str, float]) -> dict[str, Any]:
    """Layers that lie so far apart, from the mean CKA of each recording; the interval weighs recordings alike."""
    return {
        "name": f"{apart} apart",
        "cka": asdict(interval([*values.values()], [*values])),
        "per_clip": [{"clip": clip, "frames": 1, "cka": value} for clip, value in values.items()],
        "paper": {},
    }


def near_and_far(rows: Rows) -> tuple[str, str]:
    """The rows of neighbours, and of layers that lie furthest apart."""
    near, *_, far = sorted(rows, key=lambda name: int(name.split()[0]))
    return near, far


def shows(rows: Rows) -> str:
    near, far = near_and_far(rows)
    values = [rows[name]["cka"]["mean"] for name in (near, far)]
    return f"CKA is {values[0]:.3f} between neighbours and {values[1]:.3f} between layers {far}"


def holds(rows: Rows) -> bool | None:
    near, far = near_and_far(rows)
    return below(rise(rows, far, near, "cka"))


TABLE = Table(
    name="fig2",
    title="Fig. 2, how alike layers are",
    question="Do neighbouring layers do nearly the same, so that they may merge?",
    finding=Finding(
        claim="the paper's premise that neighbours are more alike than layers far apart", holds=holds, shows=shows
    ),
    columns=("cka",),
    look=look,
)
