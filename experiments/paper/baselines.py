"""Baselines for a motion decoder: the pose head itself, fine-tuned, and filters without training.

Each gives rotations of a video's frames from the encoder's features and predictions.
"""

from __future__ import annotations

import copy
import math
from typing import cast

import numpy as np
import torch
from scipy.signal import savgol_filter
from torch import Tensor, nn

from compress.training.task import OptimizerStep
from diffusion.motion.features import VideoFeatures
from diffusion.training.decoder import DecoderTask, errors
from hmr.body.files import load_body
from hmr.body.model import BodyModel
from hmr.models.head import JOINTS, SMPLHead, rotations_from_6d, sixd_from_rotations
from hmr.training.distance import WEIGHTS


class FrameHead(nn.Module):
    """The linear layer that reads a pose off a model's features, frame by frame."""

    init: Tensor

    def __init__(self, head: SMPLHead) -> None:
        super().__init__()
        self.linear = copy.deepcopy(head.decpose)
        self.register_buffer("init", head.init_body_pose.clone())

    def forward(self, features: Tensor) -> Tensor:
        """Features (..., W), of which the first are the model's own -> rotations (..., 24, 3, 3)."""
        pose = self.linear(features[..., : self.linear.in_features]) + self.init[0]
        return rotations_from_6d(pose.unflatten(-1, (JOINTS, 6)))


class HeadLoss(nn.Module):
    """That layer and the loss it is trained on with."""

    def __init__(self, head: FrameHead, body: BodyModel) -> None:
        super().__init__()
        self.head, self._body = head, [body]

    def forward(self, features: Tensor, seen: Tensor, rotations: Tensor, betas: Tensor) -> dict[str, Tensor]:
        """Clips of features (B, F, W), true rotations (B, F, 24, 3, 3) and betas (B, F, 10); a head looks at each frame
        by itself, so what would be hidden from a decoder is not."""
        predicted, shape = self.head(features).flatten(0, 1), betas.flatten(0, 1)
        true = rotations.flatten(0, 1)
        body = self._body[0] = self._body[0].to(predicted.device)
        joints = [body.skeleton(pose, shape) for pose in (predicted, true)]
        turned, moved = (predicted - true).square().mean(), (joints[0] - joints[1]).abs().mean()
        return {"loss": WEIGHTS["rotations"] * turned + WEIGHTS["joints"] * moved}


class HeadTask(DecoderTask):
    """Training of a pose head on the same clips as a decoder's."""

    noun = "training of a pose head"

    def of(self, head: FrameHead) -> HeadTask:
        """Train `head` in the place of the decoder."""
        self.module = HeadLoss(head, load_body())
        return self

    def examples(self, clips: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return clips

    def validate(self, module: nn.Module, step: OptimizerStep) -> dict[str, float]:
        head = cast(FrameHead, module.head)
        predicted = [head(v.features.to(head.init.device)).cpu() for v in self.validation]
        wrong = [errors(pose, v, self.body)[0].mean() for pose, v in zip(predicted, self.validation, strict=True)]
        return {"mpjpe_mm": torch.stack(wrong).mean().item(), "loss": self.held_out(module)}


def savitzky_golay(video: VideoFeatures, fps: float, seconds: float, order: int = 2) -> Tensor:
    """The encoder's own rotations (N, 24, 3, 3), their first two columns smoothed over a window; looks ahead."""
    window = min(round(seconds * fps) // 2 * 2 + 1, (len(video) - 1) // 2 * 2 + 1)
    if window <= order:
        return video.predicted_rotations
    columns = sixd_from_rotations(video.predicted_rotations).numpy()
    return rotations_from_6d(torch.from_numpy(savgol_filter(columns, window, order, axis=0)).float())


def one_euro(video: VideoFeatures, fps: float, cutoff: float, speed: float) -> Tensor:
    """The encoder's own rotations (N, 24, 3, 3), their first two columns low-passed without a look ahead.

    Casiez et al., 1 € Filter (CHI 2012): a cutoff of `cutoff` Hz at rest, `speed` more for each unit a second. Every
    frame depends on the output for the last one, so this goes frame by frame.
    """
    columns = sixd_from_rotations(video.predicted_rotations).numpy()
    value, slope = columns[0], np.zeros_like(columns[0])
    out = [value]
    for new in columns[1:]:
        slope = slope + share(1.0, fps) * ((new - value) * fps - slope)
        value = value + share(cutoff + speed * np.abs(slope), fps) * (new - value)
        out.append(value)
    return rotations_from_6d(torch.from_numpy(np.stack(out)).float())


def share(cutoff: float | np.ndarray, fps: float) -> np.ndarray:
    """How much of a new value a first-order low pass of `cutoff` Hz takes."""
    return np.asarray(1 / (1 + fps / (2 * math.pi * cutoff)))
