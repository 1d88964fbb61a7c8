"""How far the outputs of a model move by some steps of a recipe: looked at, on the frames of a context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from compress.context import Context
from compress.pipeline import run_all_steps
from compress.policy import Policy


def movement(model: Any, steps: Sequence[Policy], context: Context) -> float:
    """How far the outputs of a model move by some steps, in mm: the mean over frames of the root of the mean square."""
    return float(movements(model, steps, context).sqrt().mean())


@torch.no_grad()
def movements(model: Any, steps: Sequence[Policy], context: Context) -> torch.Tensor:
    """How far the outputs of a model move by some steps: the mean square in mm^2 over outputs, of each frame (N,)."""
    made = run_all_steps(model, steps, context.fresh())
    before, after = context.remembered("outputs", lambda: outputs(model, context.judge)), outputs(made, context.judge)
    return (after - before).square().mean(1)


def outputs(model: Any, judge: Any) -> torch.Tensor:
    """What a judge says of a model, on all frames: (N, K) mm."""
    every = enumerate(zip(judge.crops, judge.masks, strict=True))
    return torch.cat([judge.outputs(i, model.encode(crop, mask), model) for i, (crop, mask) in every])
