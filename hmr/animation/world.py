"""Motion in the axes of the world, where the camera's place is known for each frame."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.errors import BadInput
from hmr.animation.track import Track

NAMES = {"rotation": (3, 3), "translation": (3,)}  # arrays (M, ...) of a file
FIT = 1e-3  # of a rotation: how far it may be from one


@dataclass(frozen=True)
class CameraPath:
    """Where a camera is at M frames: a point X of the world, in m, lies at rotation X + translation in its axes."""

    path: Path
    frame: NDArray[np.int64]  # (M,) numbers of frames, sorted
    rotation: NDArray[np.float64]  # (M, 3, 3)
    translation: NDArray[np.float64]  # (M, 3) m

    def at(self, frames: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Rotation (T, 3, 3) and translation (T, 3) m at frames (T,). Raises BadInput where one has no camera."""
        if len(lost := np.setdiff1d(frames, self.frame)):
            raise BadInput(f"{self.path}: frame {lost[0]} has no camera; {len(lost)} of {len(frames)} frames have none")
        rows = np.searchsorted(self.frame, frames)
        return self.rotation[rows], self.translation[rows]


def read_cameras(path: Path) -> CameraPath:
    """A file of cameras: an npz with rotation (M, 3, 3), translation (M, 3) m and, where they are not the frames from 0
    on, frame (M,). Raises BadInput; nothing in it is run."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays: dict[str, NDArray[Any]] = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise BadInput(f"{path}: not an npz of cameras that can be read ({error})") from error
    for name, shape in NAMES.items():
        if name not in arrays or arrays[name].shape[1:] != shape or not np.isfinite(arrays[name]).all():
            raise BadInput(f"{path}: cameras are rotation (M, 3, 3) and translation (M, 3) in m: {name} is not so")
    rotation, translation = (arrays[name].astype(np.float64) for name in NAMES)
    frame = np.asarray(arrays.get("frame", np.arange(len(rotation)))).astype(np.int64)
    if not len(rotation) == len(translation) == len(frame) == len(np.unique(frame)):
        raise BadInput(f"{path}: as many rotations as translations and frames, and each frame once")
    off = np.abs(rotation @ rotation.swapaxes(1, 2) - np.eye(3)).max(initial=0)
    if off > FIT or (np.linalg.det(rotation) < 0).any():
        raise BadInput(f"{path}: a rotation is none: it turns and does not stretch or mirror")
    order = np.argsort(frame)
    return CameraPath(path, frame[order], rotation[order], translation[order])


def in_world(track: Track, cameras: CameraPath) -> dict[str, NDArray[np.float32]]:
    """world_orient (T, 1, 3, 3), world_translation_m (T, 3) and world_joints_m (T, 24, 3) of a track: what
    `global_orient`, `translation_m` and `joints_m` are in the camera's axes."""
    rotation, translation = cameras.at(track.frame)
    back = rotation.swapaxes(1, 2)
    joints = np.einsum("tab,tjb->tja", back, track.joints_m - translation[:, None])
    rest = track.joints_m[:, 0] - track.translation_m  # the pelvis of the body as it rests
    found = {
        "world_orient": back[:, None] @ track.rotations[:, :1],
        "world_translation_m": joints[:, 0] - rest,
        "world_joints_m": joints,
    }
    return {name: values.astype(np.float32) for name, values in found.items()}
