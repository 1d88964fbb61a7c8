"""Training frames that other processes draw as they are needed: no picture is seen twice, and none is stored."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hmr.data.dataset import Frames
from hmr.data.sample import Sample, known

FIELDS = ("image", "mask", "rotations", "betas", "keypoints", "camera", "part", "canonical")
AHEAD = 4  # batches that each process has ready


class Stream:
    """Batches of a data set in its order, beginning anywhere; `batch(i)` is frames i * size to (i + 1) * size."""

    def __init__(self, frames: Frames, size: int, workers: int = 1) -> None:
        self.frames, self.size, self.workers = frames, size, workers
        self.last: tuple[int, dict[str, Tensor]] | None = None
        self.batches: Iterator[dict[str, Tensor]] | None = None

    def batch(self, index: int) -> dict[str, Tensor]:
        """The frames of a batch, see `labels_of`: (size, ...) each. Batches in a row are drawn ahead."""
        if self.last is not None and self.last[0] == index:
            return self.last[1]
        if self.batches is None or self.last is None or self.last[0] + 1 != index:
            self.batches = iter(self.loader(index))
        self.last = index, next(self.batches)
        return self.last[1]

    def loader(self, first: int) -> DataLoader[dict[str, Any]]:
        """Batches from `first` on."""
        many: dict[str, Any] = {}
        if self.workers:
            many = {"multiprocessing_context": "spawn", "prefetch_factor": AHEAD, "worker_init_fn": step_back}
        places = range(first * self.size, len(self.frames))
        return DataLoader(Labels(self.frames), self.size, sampler=places, num_workers=self.workers, **many)


class Labels(Dataset[dict[str, Any]]):
    """Frames as arrays by name."""

    def __init__(self, frames: Frames) -> None:
        self.frames = frames

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return labels_of(self.frames[index])


def labels_of(sample: Sample) -> dict[str, Any]:
    """What training knows of a frame: FIELDS of `Sample`, and its focal length in heights of the crop."""
    found = {name: np.asarray(known(getattr(sample, name), f"labels '{name}'")) for name in FIELDS}
    return {**found, "focal": np.float32(known(sample.focal, "focal lengths") / len(sample.image))}


def step_back(worker: int) -> None:
    """Drawing yields to training, and does not compute in several threads."""
    os.nice(4)
    torch.set_num_threads(1)
