"""A model's joints against those of the labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from compress.errors import BadInput
from compress.frames import ALL
from compress.tokens import Tokens
from hmr.data.dataset import Dataset
from hmr.data.sample import Sample, batch
from hmr.evaluation import metrics
from hmr.evaluation.errors import labelled, predicted

BATCH = 32


class JointJudge:
    """A `compress.frames.OutputJudge`: MPJPE in mm, pelvis aligned, over the joints that errors on `body` are measured
    on: a `BodyModel`, or what stands for one where an adapter gives joints.

    Crops and masks are kept on the model's device: 0.6 MB a frame of 256 x 192. Raises BadInput without frames, without
    labels, and where the truth is not finite.
    """

    def __init__(self, model: Any, frames: Dataset | Sequence[Sample], body: Any, *, size: int = BATCH) -> None:
        if not len(frames):
            raise BadInput("a judge needs frames, and there are none")
        device = next(model.parameters()).device
        self.model, self.body = model.encoder, body.to(device)
        starts = range(0, len(frames), size)
        batches = [batch([frames[i] for i in range(start, min(start + size, len(frames)))], device) for start in starts]
        masks = [some.masks for some in batches if some.masks is not None]
        self.crops = [some.crops for some in batches]
        self.masks = masks if len(masks) == len(batches) else None
        self.conditions = [some.conditions for some in batches]  # for the families that ask for it
        self.truth = [labelled(some).joints_from_pelvis(self.body) for some in batches]
        for start, truth in zip(starts, self.truth, strict=True):
            if not truth.isfinite().all():
                raise BadInput(f"frames {start} to {start + len(truth) - 1} have joints that are not finite")

    @torch.no_grad()
    def errors(self, index: int, tokens: Tokens, model: Any = None) -> Tensor:
        """MPJPE (B,) in mm of batch `index`, by the head of `model`, or its own, that reads its finished tokens; inf
        where that gives no finite joints (a merge can break a model: that is a bad trial, not a bad input)."""
        joints, truth = self.joints(index, tokens, model), self.truth[index]
        finite = joints.isfinite().flatten(1).all(1)
        errors = metrics.distances(joints.where(finite[:, None, None], truth), truth).mean(-1)
        return errors.masked_fill(~finite, torch.inf)

    def outputs(self, index: int, tokens: Tokens, model: Any = None, rows: slice = ALL) -> Tensor:
        """Coordinates (B, 3 J) in mm, from the pelvis, of the joints that `errors` measures."""
        return 1000 * self.joints(index, tokens, model, rows).flatten(1)

    def joints(self, index: int, tokens: Tokens, model: Any = None, rows: slice = ALL) -> Tensor:
        """Joints (B, J, 3) m from the pelvis."""
        conditions = self.conditions[index]
        given = None if conditions is None else conditions[rows]
        return predicted((model or self.model).read(tokens, given)).joints_from_pelvis(self.body)
