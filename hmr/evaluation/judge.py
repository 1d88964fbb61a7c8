"""A model's joints against the true ones, or against what the model said before it was compressed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from compress.errors import BadInput
from compress.tokens import Tokens
from hmr.body.model import BodyModel, People
from hmr.data.crop import normalised
from hmr.evaluation import metrics
from hmr.models.head import HMROutput
from hmr.models.model import HMRModel
from hmr.world.view import Sample

BATCH = 32


class Samples(Protocol):
    """A list or a data set of samples."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Sample: ...


class JointJudge:
    """A `compress.judge.Judge`: MPJPE in mm, pelvis aligned, over the joints that errors on `body` are measured on.

    The truth is that of the samples, or with `label_free` what `model` says when the judge is made, before anything is
    compressed: then the samples' poses are not looked at. Crops and masks are kept on the model's device: 0.6 MB a
    frame of 256 x 192. Raises BadInput without samples and where the truth or the original prediction is not finite.
    """

    def __init__(
        self,
        model: HMRModel,
        samples: Samples,
        body: BodyModel,
        *,
        label_free: bool = False,
        batch: int = BATCH,
    ) -> None:
        if not len(samples):
            raise BadInput("a judge needs frames to decide on: there are none")
        device = next(model.parameters()).device
        self.head, self.body = model.head, body.to(device)
        self.crops: list[Tensor] = []
        self.masks: list[Tensor] = []
        self.conditions: list[Tensor] = []  # (B, 3) for the families that ask for it
        self.truth: list[Tensor] = []  # (B, J, 3) m
        for start in range(0, len(samples), batch):
            some = [samples[i] for i in range(start, min(start + batch, len(samples)))]
            self.crops.append(normalised(stacked(some, "image").to(device)))
            self.masks.append(stacked(some, "mask").to(device))
            self.conditions.append(stacked(some, "bbox_info").to(device))
            self.truth.append(self.predicted(model) if label_free else self.labelled(some))
            if not self.truth[-1].isfinite().all():
                raise BadInput(f"frames {start} to {start + len(some) - 1} have joints that are not finite")

    @torch.no_grad()
    def errors(self, index: int, tokens: Tokens) -> Tensor:
        """MPJPE (B,) in mm of batch `index`, by the head that reads its finished tokens; inf where that gives no
        finite joints (a merge can break a model: that is a bad trial, not a bad input)."""
        joints, truth = self.joints(self.head(tokens.x, self.conditions[index])), self.truth[index]
        finite = joints.isfinite().flatten(1).all(1)
        errors = metrics.mpjpe(joints.where(finite[:, None, None], truth), truth, aligned=True)
        return errors.masked_fill(~finite, torch.inf)

    def joints(self, output: HMROutput) -> Tensor:
        """(B, J, 3) m from the pelvis."""
        return self.body.joints_from_pelvis(output.rotations.float(), output.betas.float())

    def labelled(self, samples: Sequence[Sample]) -> Tensor:
        """The true joints (B, J, 3) m of samples, from the pelvis."""
        rotations, betas = (stacked(samples, field).to(self.crops[-1]) for field in ("rotations", "betas"))
        return self.body.joints_from_pelvis(rotations, betas, people(samples, rotations.device))

    @torch.no_grad()
    def predicted(self, model: HMRModel) -> Tensor:
        """The joints (B, J, 3) m that a model sees in the newest batch."""
        training = model.training
        output = model.eval()(self.crops[-1], self.masks[-1], self.conditions[-1])
        model.train(training)
        return self.joints(output)


def people(samples: Sequence[Sample], device: torch.device) -> People:
    """Whom samples show; those that do not say are the neutral body's."""
    landmarks = None if getattr(samples[0], "landmarks", None) is None else stacked(samples, "landmarks").to(device)
    return People(tuple(getattr(sample, "gender", "neutral") for sample in samples), landmarks)


def stacked(samples: Sequence[Sample], field: str) -> Tensor:
    """One field of all samples as a batch (B, ...)."""
    return torch.from_numpy(np.stack([getattr(sample, field) for sample in samples]))
