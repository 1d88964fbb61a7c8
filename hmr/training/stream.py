"""Training frames that other processes draw as they are needed: no picture is seen twice, and none is stored."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from compress.training.task import OptimizerStep
from hmr.data.dataset import Frames
from hmr.data.sample import Sample, known

FIELDS = ("image", "mask", "rotations", "betas", "keypoints", "camera", "part", "canonical")
AHEAD = 4  # batches that each process has ready


class BatchStream:
    """Batches of a data set in its order, beginning anywhere: step i takes frames i * size to (i + 1) * size."""

    def __init__(self, frames: Frames, size: int, workers: int = 1) -> None:
        self.frames, self.size, self.workers = frames, size, workers
        self.last: tuple[int, dict[str, Tensor]] | None = None
        self.batches: Iterator[dict[str, Tensor]] | None = None

    def batch(self, step: OptimizerStep) -> dict[str, Tensor]:
        """This process's share of a step's frames, see `labels_of`: (size / processes, ...) each. Steps in a row are
        drawn ahead."""
        if self.last is not None and self.last[0] == step.index:
            return self.last[1]
        if self.batches is None or self.last is None or self.last[0] + 1 != step.index:
            self.batches = iter(self.loader(step))
        self.last = step.index, next(self.batches)
        return self.last[1]

    def loader(self, step: OptimizerStep) -> DataLoader[dict[str, Any]]:
        """This process's batches from a step on."""
        share = step.share(self.size)
        places = range(step.index * self.size + share.start, len(self.frames), share.step)
        # a generator of its own: from the global one it would take a number, and a resumed run would not repeat
        many: dict[str, Any] = {"sampler": places, "num_workers": self.workers, "generator": torch.Generator()}
        if self.workers:
            many |= {"multiprocessing_context": "spawn", "prefetch_factor": AHEAD, "worker_init_fn": step_back}
        return DataLoader(Labels(self.frames), len(share), **many)


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
