"""`fasthmr depth`: what each block of a model is worth, by leaving it out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from hmr.data.dataset import Frames
from hmr.evaluation import metrics
from hmr.evaluation.errors import People3D, labelled, predicted
from hmr.evaluation.intervals import interval, paired_interval
from hmr.evaluation.measure import body_for
from hmr.evaluation.predict import predict


def depth(model: Any, frames: Frames, progress: Callable[[int], None] = lambda done: None) -> dict[str, Any]:
    """MPJPE (mm) of the whole model, and its paired rise with each single block left out, without any training.

    A block whose removal costs nothing shows that the model does not use its depth: compressing such a model proves
    nothing. A motion decoder is there in every row. Frames are kept in memory. Raises BadInput where true poses are
    unknown and where a prediction is not finite.
    """
    frames, stack, body = frames.keeping(), model.encoder.stack, body_for(frames, model)
    blocks = stack.blocks
    without = [nn.ModuleList(b for j, b in enumerate(blocks) if j != i) for i in range(len(blocks))]
    truths: list[People3D] = []
    errors = []
    try:
        for done, kept in enumerate((blocks, *without)):
            stack.blocks = kept
            see = (lambda seen: None) if truths else (lambda seen: truths.append(labelled(seen)))
            (predictions,) = predict([model], frames, see)
            errors.append(mpjpe(body, [predicted(output) for output in predictions.outputs], truths))
            progress(done + 1)
    finally:
        stack.blocks = blocks
    whole, *rest = errors
    rises = [asdict(paired_interval(one, whole, frames.recordings)) for one in rest]
    return {
        "mpjpe_mm": asdict(interval(whole, frames.recordings)),
        "rows": [{"block": i, "rise_mm": rise} for i, rise in enumerate(rises)],
    }


@torch.no_grad()
def mpjpe(body: Any, guesses: Sequence[People3D], truths: Sequence[People3D]) -> list[float]:
    """MPJPE (N,) in mm of each frame, pelvises aligned, over the joints that errors on `body` are measured on."""
    errors: list[float] = []
    for guess, truth in zip(guesses, truths, strict=True):
        joints, posed = truth.joints_from_pelvis(body), guess.joints_from_pelvis(body)
        errors += metrics.mpjpe(posed, joints, aligned=True).tolist()
    return errors
