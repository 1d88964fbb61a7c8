"""Frames rendered once and memory-mapped by every training that uses them."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from hmr.data.scene import Sample

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


def cached_frames(folder: Path, frames: Dataset[Sample], size: tuple[int, int], workers: int = 1) -> Path:
    """Render every frame of a data set into `folder`/FIELD.npy (N, ...), images.npy (N,H,W,3) u8; returns the folder.

    A finished folder of the same length is used as it is. Workers fill disjoint ranges; the folder gets its name when
    all are done, so that a killed run leaves nothing that looks finished.
    """
    count = len(frames)  # type: ignore[arg-type]  # torch's Dataset declares no __len__
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


def _open(folder: Path, frames: Dataset[Sample]) -> None:
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in ("images", *FIELDS)}
    _worker.update(frames=frames, arrays=arrays)


def _fill(indices: Sequence[int]) -> None:
    frames, arrays = _worker["frames"], _worker["arrays"]
    for i in indices:
        sample = frames[i]  # type: ignore[index]
        arrays["images"][i] = sample.image  # type: ignore[index]
        for name in FIELDS:
            arrays[name][i] = getattr(sample, name)  # type: ignore[index]
