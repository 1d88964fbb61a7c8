"""A recording of one person by several calibrated cameras with its silver truth, as it lies in $FASTHMR_HOME."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.atomic import atomic_write
from compress.errors import BadInput
from hmr.data.blazepose import Landmarks, Square
from hmr.data.real_people.camera import Camera


@dataclass(frozen=True)
class MultiViewRecording:
    """T frames of V views; places in the world are in metres."""

    fps: float
    cameras: Camera  # V of them
    pixels: Tensor  # (V, T, 33, 2) BlazePose's landmarks
    visibility: Tensor  # (V, T, 33) 0..1
    world: Tensor  # (V, T, 33, 3) m, BlazePose's single-view landmarks from between the hips
    squares: Tensor  # (V, T, 4) where it looked: middle, side in pixels, turn in radians
    masks: NDArray[np.bool_]  # (V, T, 256, 256) the person in that square
    points: Tensor  # (V, T, S, 3) silver truth of `skeleton.POINTS` for each view, from all others
    error: Tensor  # (T, S) m, its estimated error from between the hips

    def square(self, view: int, frame: int) -> Square:
        """Where BlazePose looked."""
        x, y, side, angle = self.squares[view, frame].tolist()
        return Square((x, y), side, angle)

    def save(self, path: Path) -> Path:
        """Write an .npz, whole or not at all: the same recording gives the same bytes."""
        arrays = {f"camera_{one.name}": getattr(self.cameras, one.name).numpy() for one in fields(Camera)}
        tensors = ("pixels", "visibility", "world", "squares", "points", "error")
        arrays |= {name: getattr(self, name).numpy() for name in tensors}
        packed, buffer = np.packbits(self.masks, axis=-1), io.BytesIO()
        np.savez_compressed(buffer, fps=np.float64(self.fps), masks=packed, **arrays)
        return atomic_write(path, buffer.getvalue())


def load_recording(path: Path) -> MultiViewRecording:
    """What `save` wrote. Raises BadInput for another file."""
    try:
        with np.load(path, allow_pickle=False) as found:
            arrays = dict(found)
        cameras = Camera(*(torch.from_numpy(arrays.pop(f"camera_{one.name}")) for one in fields(Camera)))
        fps, masks = float(arrays.pop("fps")), np.unpackbits(arrays.pop("masks"), axis=-1).astype(np.bool_)
        return MultiViewRecording(
            fps, cameras, masks=masks, **{name: torch.from_numpy(each) for name, each in arrays.items()}
        )
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise BadInput(f"{path}: no recording of fasthmr data import ({error!r}); import the wheel again") from error


def stacked(moments: Sequence[Sequence[Landmarks]]) -> dict[str, Tensor]:
    """Pixels, visibility, world and squares of a `MultiViewRecording` from V landmarks of each of T moments."""
    squares = [[(*one.square.centre, one.square.side, one.square.angle) for one in views] for views in moments]
    arrays = {
        name: np.array([[getattr(one, name) for one in views] for views in moments])
        for name in ("pixels", "visibility", "world")
    }
    return {
        name: torch.from_numpy(each).transpose(0, 1) for name, each in (arrays | {"squares": np.array(squares)}).items()
    }
