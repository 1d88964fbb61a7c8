"""Frames rendered once into a folder, which every training that uses them maps into memory."""

from __future__ import annotations

import multiprocessing
import os
import tokenize
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from compress.errors import BadInput
from hmr.data.dataset import Dataset
from hmr.models.families import FAMILIES
from hmr.training.supervision import on_grid

# field -> (shape of one frame, type on disk); the image's shape is the crop's
FIELDS: dict[str, tuple[tuple[int, ...], str]] = {
    "rotations": ((24, 3, 3), "f4"),
    "betas": ((10,), "f4"),
    "joints": ((24, 3), "f4"),
    "keypoints": ((24, 2), "f4"),
    "camera": ((3,), "f4"),
    "part": ((16, 12), "u1"),
    "canonical": ((16, 12, 3), "f2"),
}


def cached_frames(folder: Path, frames: Dataset, size: tuple[int, int], workers: int = 1) -> Path:
    """Render every frame of a data set into `folder`/FIELD.npy (N, ...), images.npy (N,H,W,3) u8; returns the folder.

    A finished folder of the same length is used as it is. Workers fill disjoint ranges; the folder gets its name when
    all are done, so that a killed run leaves nothing that looks finished.
    """
    count = len(frames)
    if (folder / "images.npy").exists() and len(np.load(folder / "images.npy", mmap_mode="r")) == count:
        return folder
    unfinished = folder.with_name(folder.name + ".unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    for name, (shape, kind) in {"images": ((*size, 3), "u1"), **FIELDS}.items():
        np.lib.format.open_memmap(unfinished / f"{name}.npy", "w+", kind, (count, *shape)).flush()
    chunks = [range(start, min(start + 500, count)) for start in range(0, count, 500)]
    with multiprocessing.get_context("spawn").Pool(workers, _open, (unfinished, frames)) as pool:
        for _ in pool.imap_unordered(_fill, chunks):
            pass
    os.replace(unfinished, folder)
    return folder


_worker: dict[str, object] = {}  # what one worker process writes from and to; sent once, not with every range


def _open(folder: Path, frames: Dataset) -> None:
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in ("images", *FIELDS)}
    _worker.update(frames=frames, arrays=arrays)


def _fill(indices: Sequence[int]) -> None:
    frames, arrays = _worker["frames"], _worker["arrays"]
    for i in indices:
        sample = frames[i]  # type: ignore[index]  # `_open` put them there
        arrays["images"][i] = sample.image  # type: ignore[index]  # as above
        for name in FIELDS:
            arrays[name][i] = getattr(sample, name)  # type: ignore[index]


class CachedFrames:
    """A folder that `cached_frames` wrote, read by index; `halved` pictures are averages over 2x2 pixels.

    `size` (height, width) is that of the pictures as they are read. Raises BadInput where a field is missing, lengths
    differ or the pictures have another size.
    """

    def __init__(self, folder: Path, size: tuple[int, int], halved: bool = False) -> None:
        try:
            self.arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("images", *FIELDS)}
        except (OSError, ValueError, tokenize.TokenError) as error:
            raise BadInput(f"{folder}: not a folder of rendered frames ({error})") from error
        stored = (2 * size[0], 2 * size[1], 3) if halved else (*size, 3)
        if self.arrays["images"].shape[1:] != stored:
            raise BadInput(f"{folder}: its pictures are {self.arrays['images'].shape[1:]}, wanted {stored}")
        if len({len(array) for array in self.arrays.values()}) != 1 or not len(self):
            raise BadInput(f"{folder}: its fields hold different numbers of frames, or none")
        patch = FAMILIES["hmr2"].patch
        self.grid, self.halved = (size[0] // patch, size[1] // patch), halved

    def __len__(self) -> int:
        return len(self.arrays["images"])

    def read(self, indices: np.ndarray, device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
        """Frames by index -> images (B, H, W, 3) float 0..255 and their targets, as `losses` takes them."""
        rows = {name: torch.from_numpy(array[indices]).to(device) for name, array in self.arrays.items()}
        target = {name: rows[name].float() for name in FIELDS}
        target["part"] = on_grid(rows["part"], self.grid).long()
        target["canonical"] = on_grid(target["canonical"], self.grid)
        images = rows["images"].float()
        if self.halved:
            images = F.avg_pool2d(images.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)  # (B, H/2, W/2, 3)
        return images, target


@lru_cache(maxsize=2)
def shuffled(count: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of range(count) that depends on nothing but its arguments."""
    return np.random.default_rng((seed, epoch)).permutation(count)


def order(count: int, batch: int, step: int, seed: int) -> np.ndarray:
    """Indices of the frames of one step, in file order: every epoch shows each frame once, in an order of its own."""
    batch = min(batch, count)
    epoch, place = divmod(step, count // batch)
    return np.sort(shuffled(count, seed, epoch)[place * batch : (place + 1) * batch])
