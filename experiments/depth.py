"""`fasthmr depth`: what each block of a model is worth, by leaving it out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from experiments.datasets import Frames
from experiments.evaluate import batches
from hmr import metrics
from hmr.body import BodyModel
from hmr.model import HMRModel


def depth(
    model: HMRModel, data: Frames, body: BodyModel, device: torch.device, progress: Callable[[int], None] = lambda n: None
) -> dict[str, Any]:
    """MPJPE (mm) of the whole model, and its paired rise with each single block left out, without any training.

    A block whose removal costs nothing shows that the model does not use its depth: compressing such a model proves
    nothing. Intervals are bootstraps over recordings.
    """
    crops = [(crop, truth) for _, crop, truth in batches(data, device)]
    joints = [body.skeleton(truth.rotations, truth.betas) for _, truth in crops]
    blocks = model.backbone.blocks

    def errors(kept: list[nn.Module]) -> list[float]:
        model.backbone.blocks = nn.ModuleList(kept)
        found = []
        with torch.inference_mode():
            for (crop, _), true in zip(crops, joints, strict=True):
                output = model(crop)
                found.append(metrics.mpjpe(body.skeleton(output.rotations.float(), output.betas.float()), true))
        progress(1)
        return torch.cat(found).tolist()

    try:
        whole = errors(list(blocks))
        without = [errors([b for j, b in enumerate(blocks) if j != i]) for i in range(len(blocks))]
    finally:
        model.backbone.blocks = blocks
    clips = data.clip_names
    rises = [asdict(metrics.paired_interval(one, whole, clips)) for one in without]
    return {
        "mpjpe_mm": asdict(metrics.interval(whole, clips)),
        "rows": [{"block": i, "rise_mm": rise} for i, rise in enumerate(rises)],
    }
