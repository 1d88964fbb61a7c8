"""`fasthmr depth`: what each block of a model is worth, by leaving it out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from hmr.body.model import BodyModel
from hmr.data.dataset import Dataset
from hmr.data.datasets import SEED
from hmr.data.sample import known
from hmr.evaluation import metrics
from hmr.evaluation.evaluate import batches, labels_of
from hmr.models.model import HMRModel


def depth(
    model: HMRModel,
    data: Dataset,
    body: BodyModel,
    device: torch.device,
    progress: Callable[[int], None] = lambda frames: None,
) -> dict[str, Any]:
    """MPJPE (mm) of the whole model, and its paired rise with each single block left out, without any training.

    A block whose removal costs nothing shows that the model does not use its depth: compressing such a model proves
    nothing. Intervals are bootstraps over recordings. Raises BadInput where a prediction is not finite.
    """
    blocks = model.backbone.blocks
    without = [nn.ModuleList(b for j, b in enumerate(blocks) if j != i) for i in range(len(blocks))]
    found: list[list[float]] = [[] for _ in range(1 + len(blocks))]
    try:
        with torch.inference_mode():
            for some in batches(data, device):
                truth = known(labels_of(some), "labels")
                joints = body.joints_from_pelvis(truth.rotations, truth.betas, truth.people)
                for errors, kept in zip(found, (blocks, *without), strict=True):
                    model.backbone.blocks = kept
                    output = model(*some.inputs)
                    guess = body.joints_from_pelvis(output.rotations.float(), output.betas.float())
                    errors += metrics.mpjpe(guess, joints, aligned=True).tolist()
                progress(len(joints))
    finally:
        model.backbone.blocks = blocks
    whole, *rest = found
    clips = data.recordings
    rises = [asdict(metrics.paired_interval(errors, whole, clips, SEED)) for errors in rest]
    return {
        "mpjpe_mm": asdict(metrics.interval(whole, clips, SEED)),
        "rows": [{"block": i, "rise_mm": rise} for i, rise in enumerate(rises)],
    }
