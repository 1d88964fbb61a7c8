"""One person's motion, as a run finds it and as files have it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import roma
import torch
from numpy.typing import NDArray
from torch import Tensor

from hmr.body.model import BodyModel
from hmr.media.video import rate_of

COCO = (  # joints by the names of COCO's keypoints: of the body, or vertices of its head
    ("nose", 332), ("left_eye", 2800), ("right_eye", 6260), ("left_ear", 583), ("right_ear", 4071),
    "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
    "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip
COLOURS = ((86, 180, 233), (230, 159, 0), (0, 158, 115), (204, 121, 167), (240, 228, 66), (0, 114, 178))  # Okabe, Ito
BETWEEN = (170, 170, 170)  # of bodies that are interpolated


@dataclass(frozen=True)
class Track:
    """One person's motion over T frames, in the axes of the video's camera: x right, y down, z forward, metres."""

    id: int
    frame: NDArray[np.int64]  # (T,) numbers of frames
    time_s: NDArray[np.float64]  # (T,)
    rotations: NDArray[np.float32]  # (T, 24, 3, 3) local, the first in the camera's axes
    betas: NDArray[np.float32]  # (10,)
    camera: NDArray[np.float32]  # (T, 3) s, tx, ty of the crop
    translation_m: NDArray[np.float32]  # (T, 3) added to the posed body
    joints_m: NDArray[np.float32]  # (T, 24, 3)
    joints_coco_m: NDArray[np.float32]  # (T, 17, 3)
    box_px: NDArray[np.float32]  # (T, 4) left, top, right, bottom
    confidence: NDArray[np.float32]  # (T,) 0..1 of whatever found the person; 0 where nobody did
    interpolated: NDArray[np.bool_]  # (T,)
    focal_px: float

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def fps(self) -> float:
        """Frames a second, in the mean."""
        return rate(self.time_s)

    @property
    def colours(self) -> NDArray[np.uint8]:
        """(T, 3) RGB in which pictures show this person, grey where they are interpolated."""
        own = COLOURS[(self.id - 1) % len(COLOURS)]
        return np.where(self.interpolated[:, None], BETWEEN, own).astype(np.uint8)

    def vertices_m(self, body: BodyModel, rows: slice = slice(None)) -> NDArray[np.float32]:
        """Vertices (T, V, 3) in the camera's axes."""
        rotations, betas = torch.from_numpy(self.rotations[rows]), torch.from_numpy(self.betas[None])
        with torch.no_grad():
            posed = body(rotations, betas).vertices.numpy()
        moved: NDArray[np.float32] = posed + self.translation_m[rows, None]
        return moved

    def part(self, rows: Any) -> Track:
        """The motion at some of its frames."""
        every = [f.name for f in fields(self) if np.ndim(getattr(self, f.name)) and f.name != "betas"]
        return replace(self, **{name: getattr(self, name)[rows] for name in every})


def rate(times: NDArray[np.float64]) -> float:
    """Frames a second of frames at `times` (T,): in the mean where it varies, 30 of one alone."""
    return rate_of(times.tolist()) or (float((len(times) - 1) / np.ptp(times)) if np.ptp(times) > 0 else 30.0)


def slerp(one: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """Rotations (T, J, 3, 3) at a share (T,) of the way from one to another; `one` to the bit where it is 0."""
    way = roma.rotmat_to_rotvec(one.mT @ other)
    between = one @ roma.rotvec_to_rotmat(way * share[:, None, None])
    return torch.where((share == 0)[:, None, None, None], one, between)


def named(points: tuple[Any, ...] = COCO) -> tuple[str, ...]:
    """COCO's names."""
    return tuple(point if isinstance(point, str) else point[0] for point in points)
