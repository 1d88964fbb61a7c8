"""One picture of a person with what is known about it, and several of them as a model takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.errors import BadInput
from hmr.body.camera import bbox_info
from hmr.body.model import People
from hmr.data.crop import normalised

Array = NDArray[np.float32]
Value = TypeVar("Value")
# what models take: crops (B, 3, H, W), masks (B, H, W), conditions (B, 3)
Inputs = tuple[Tensor, Tensor | None, Tensor | None]


@dataclass(frozen=True)
class CropSquare:
    """The square that a crop was cut from, in pixels of its picture; a crop shows the middle columns of it."""

    centre: tuple[float, float]  # x, y
    side: float
    picture: tuple[int, int]  # (height, width)
    focal: float | None = None  # of the picture's camera, which looks through its middle

    @property
    def bbox_info(self) -> Array | None:
        """(3,) see `hmr.body.camera.bbox_info`; None where the focal length is unknown."""
        if self.focal is None:
            return None
        height, width = self.picture
        given = (self.centre, self.side, (float(width), float(height)), self.focal)
        return bbox_info(*(torch.tensor([value]) for value in given))[0].numpy()


@dataclass(frozen=True)
class Sample:
    """One crop and what is known about it; what is not known is None.

    Camera axes are x right, y down, z forward: of the crop's own camera where `place` is None, else of its picture's.
    """

    image: NDArray[np.uint8]  # (H, W, 3) RGB
    recording: str  # frames of one recording resemble each other
    mask: NDArray[np.bool_] | None = None  # (H, W) visible pixels of the person
    place: CropSquare | None = None  # None: the crop is the whole picture
    rotations: Array | None = None  # (24, 3, 3) local; the root's turns the rest pose into camera axes
    betas: Array | None = None  # (10,)
    joints: Array | None = None  # (24, 3) m relative to the pelvis, camera axes; (J, 3) from the first of an adapter's
    keypoints: Array | None = None  # (24, 2) pixels / (W, H) - 0.5
    camera: Array | None = None  # (3,) weak perspective s, tx, ty as HMR2.0 predicts it
    translation: Array | None = None  # (3,) m, the body's origin in camera axes
    focal: float | None = None  # of the crop's own camera, in pixels of the crop
    part: NDArray[np.uint8] | None = None  # (16, 12) 0 background, else joint + 1, at the middle of each patch
    canonical: Array | None = None  # (16, 12, 3) m, rest-shape coordinate there
    gender: str | None = None  # neutral, female or male
    landmarks: Array | None = None  # (R, 3) m, see `hmr.body.model.People`

    @property
    def bbox_info(self) -> Array | None:
        """(3,) see `hmr.body.camera.bbox_info`; None where the focal length is unknown."""
        if self.place is not None:
            return self.place.bbox_info
        return None if self.focal is None else np.array([0, 0, len(self.image) / self.focal], np.float32)


@dataclass(frozen=True)
class Batch:
    """B samples as tensors; None is what at least one of them does not know."""

    crops: Tensor  # (B, 3, H, W) ImageNet-normalised
    masks: Tensor | None  # (B, H, W) bool
    conditions: Tensor | None  # (B, 3) see `hmr.body.camera.bbox_info`
    rotations: Tensor | None  # (B, 24, 3, 3)
    betas: Tensor | None  # (B, 10)
    joints: Tensor | None  # (B, J, 3) m
    people: People  # the neutral body's where the gender is unknown

    def __len__(self) -> int:
        return len(self.crops)

    @property
    def inputs(self) -> Inputs:
        return self.crops, self.masks, self.conditions


def batch(samples: Sequence[Sample], device: torch.device | str = "cpu") -> Batch:
    """Samples as tensors on a device: 0.6 MB for each crop of 256 x 192."""
    images = stacked([sample.image for sample in samples], device)
    genders = tuple(sample.gender or "neutral" for sample in samples)
    return Batch(
        crops=normalised(known(images, "pictures")),
        masks=stacked([sample.mask for sample in samples], device),
        conditions=stacked([sample.bbox_info for sample in samples], device),
        rotations=stacked([sample.rotations for sample in samples], device),
        betas=stacked([sample.betas for sample in samples], device),
        joints=stacked([sample.joints for sample in samples], device),
        people=People(genders, stacked([sample.landmarks for sample in samples], device)),
    )


def stacked(values: Sequence[NDArray | None], device: torch.device | str) -> Tensor | None:
    """Arrays (...) of each sample as a tensor (B, ...); None where one is None."""
    present = [value for value in values if value is not None]
    return torch.from_numpy(np.stack(present)).to(device) if len(present) == len(values) else None


def known(value: Value | None, what: str) -> Value:
    """A value that is needed; raises BadInput where it is unknown."""
    if value is None:
        raise BadInput(f"these frames have no {what}, which are needed here: name data that has them")
    return value
