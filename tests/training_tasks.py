"""Trainings that `test_training_loop` runs in this process, and as one of two under torch.distributed.

python -m tests.training_tasks OUT, in the environment that `accelerate launch` makes.
"""

from __future__ import annotations

import copy
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import roma
import torch
from torch import Tensor, nn

from compress.training.loop import train
from compress.training.task import OptimizerStep, TrainConfig, TrainingTask
from hmr.body.files import load_body
from hmr.data import dataset
from hmr.data.sample import Sample
from hmr.training import train as hmr_training
from hmr.training.config import HMRTrainConfig
from hmr.training.supervision import projected
from tests import sizes

STEPS, WARM, BATCH = 4, 0.5, 6


class Halves(nn.Module):
    """Two linear layers; the first can be frozen for a step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(5, 7), nn.Linear(7, 1)

    def forward(self, x: Tensor, y: Tensor, frozen: bool) -> dict[str, Tensor]:
        with torch.set_grad_enabled(not frozen):
            hidden = self.first(x).tanh()
        return {"loss": (self.second(hidden)[:, 0] - y).square().mean()}


class Regression(TrainingTask):
    """A task whose first layer, at a fifth of the learning rate, joins in after half of the budget."""

    noun = "regression"

    def __init__(self, batch: int = BATCH) -> None:
        self.size, self.module, self.seen = batch, Halves(), list[int]()
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(24, 5, generator=generator)
        self.y = torch.randn(24, generator=generator)

    def identity(self) -> dict[str, Any]:
        return {"batch": self.size}

    def batch(self, step: OptimizerStep) -> tuple[Tensor, Tensor, bool]:
        chosen = [(step.index * self.size + i) % len(self.x) for i in step.share(self.size)]
        self.seen += chosen
        return self.x[chosen], self.y[chosen], step.fraction < WARM

    def parameter_groups(self) -> list[dict[str, Any]]:
        first, second = (list(layer.parameters()) for layer in self.module.children())
        return [{"params": first, "lr": 2e-3, "weight_decay": 0.1}, {"params": second}]


class Chosen(Regression):
    """The same, whose losses held out are given, and which notes the weights that were looked at."""

    choose_every = 1
    losses: tuple[float, ...] = (3.0, 1.0, 2.0, 1.0)

    def __init__(self) -> None:
        super().__init__()
        self.looked: dict[int, dict[str, Tensor]] = {}

    def validate(self, module: nn.Module, step: OptimizerStep) -> dict[str, Any]:
        self.looked[step.index + 1] = copy.deepcopy(module.state_dict())
        return {"loss": self.losses[step.index]}


def regression(out: Path, **other: Any) -> TrainConfig:
    return TrainConfig(**{"out": out, "steps": STEPS, "lr": 1e-2, "warmup": 2, "ema": None, **other})


def hmr(out: Path) -> HMRTrainConfig:
    """Without what is random in a step, or read off a whole batch: stochastic depth."""
    stages: dict[str, Any] = {"head_until": 0.0, "half_until": 1.0, "drop_until": 1.0}
    shape = {**sizes.TINY, "drop_path": 0.0}
    more: dict[str, Any] = {"sizes": shape, "precision": "float32", "batch": 2 * BATCH, "workers": 0, "frozen": 1}
    return HMRTrainConfig(out=out, steps=3, warmup=1, **stages, **more)


class Frames(hmr_training.HMRTask):
    """A training of an HMR model that notes its samples by their first beta, and changes no picture and no mask."""

    def __init__(self, config: HMRTrainConfig) -> None:
        with noise_frames():
            super().__init__(config)
        self.seen = list[float]()

    def batch(self, step: OptimizerStep) -> tuple[Any, ...]:
        same: dict[str, Any] = {"augmented": lambda images: images, "blundered": lambda masks: masks}
        with mock.patch.multiple(hmr_training, **same):
            found = super().batch(step)
        betas = found[2]["betas"][:, 0].tolist()
        self.seen += betas[: len(betas) // 2]  # the others are mirror images
        return found


def noise_frames() -> Any:
    """In the place of the synthetic world: frames of noise with labels that are a body's."""
    return mock.patch.multiple(hmr_training, open_world=noise_world, MEAN_OF=4)


def noise_world(name: str, split: str, frames: int, seed: int = 0, mocap: Any = None, size: Any = (0, 0)) -> Any:
    return dataset.Frames(partial(noise_sample, seed, size), str, frames)


def noise_sample(seed: int, size: tuple[int, int], index: int) -> Sample:
    """One frame, seen by a camera that its joints agree with."""
    rng = np.random.default_rng((seed, index))
    rotations = roma.rotvec_to_rotmat(torch.from_numpy(rng.normal(0, 0.3, (24, 3)))).float()
    betas, camera = torch.from_numpy(rng.normal(size=10)).float(), torch.tensor([0.9, 0.1, 0.2])
    joints = load_body("open").skeleton(rotations[None], betas[None])
    keypoints = projected(joints, camera[None], torch.tensor([1.5]), 4 / 3)[0]
    return Sample(
        image=rng.integers(0, 256, (*size, 3), dtype=np.uint8),
        recording="noise",
        mask=rng.random(size) < 0.3,
        rotations=rotations.numpy(),
        betas=betas.numpy(),
        keypoints=keypoints.numpy(),
        camera=camera.numpy(),
        focal=1.5 * size[0],
        part=rng.integers(0, 25, (16, 12), dtype=np.uint8),
        canonical=rng.normal(size=(16, 12, 3)).astype(np.float32),
    )


def both(out: Path) -> dict[str, Any]:
    """The samples that this process saw in each training, in order, and the weights at its end."""
    found: dict[str, Any] = {}
    few, many = regression(out / "regression"), hmr(out / "hmr")
    tasks: dict[str, tuple[Any, TrainConfig]] = {"regression": (Regression(), few), "hmr": (Frames(many), many)}
    for name, (task, config) in tasks.items():
        train(task, config)
        found[name] = {"seen": task.seen, "weights": task.module.state_dict()}
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = both(Path(sys.argv[1]))
    torch.save(found, Path(sys.argv[1]) / f"{os.environ['RANK']}.pt")
