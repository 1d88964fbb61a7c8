"""Trainings that `test_training_loop` runs in this process, and as one of two under torch.distributed.

python -m tests.training_tasks FRAMES OUT, in the environment that `accelerate launch` makes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from compress.training.loop import train
from compress.training.task import Step, TrainConfig, TrainingTask
from hmr.training import train as hmr_training
from hmr.training.config import HMRTrainConfig
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

    def batch(self, step: Step) -> tuple[Tensor, Tensor, bool]:
        chosen = [(step.index * self.size + i) % len(self.x) for i in step.share(self.size)]
        self.seen += chosen
        return self.x[chosen], self.y[chosen], step.fraction < WARM

    def parameter_groups(self) -> list[dict[str, Any]]:
        first, second = (list(layer.parameters()) for layer in self.module.children())
        return [{"params": first, "lr": 2e-3, "weight_decay": 0.1}, {"params": second}]


def regression(out: Path, **other: Any) -> TrainConfig:
    return TrainConfig(**{"out": out, "steps": STEPS, "lr": 1e-2, "warmup": 2, "ema": None, **other})


def hmr(frames: Path, out: Path) -> HMRTrainConfig:
    """Without what is random in a step, or read off a whole batch: stochastic depth, BatchNorm."""
    shape = {**sizes.TINY, "stem": "patch", "drop_path": 0.0}
    more: dict[str, Any] = {"sizes": shape, "precision": "float32", "half_batch": BATCH, "quarter_share": 0.0}
    return HMRTrainConfig(out=out, half_cache=frames, steps=3, warmup=1, **more)


class Frames(hmr_training.HMRTask):
    """A training of an HMR model that notes its samples by their first beta, and does not augment them."""

    def __init__(self, config: HMRTrainConfig) -> None:
        super().__init__(config)
        self.seen = list[float]()

    def batch(self, step: Step) -> tuple[Tensor, dict[str, Tensor], float]:
        with mock.patch.object(hmr_training, "augmented", lambda images: images):
            found = super().batch(step)
        self.seen += found[1]["betas"][:, 0].tolist()
        return found


def both(frames: Path, out: Path) -> dict[str, Any]:
    """The samples that this process saw in each training, in order, and the weights at its end."""
    found: dict[str, Any] = {}
    few, many = regression(out / "regression"), hmr(frames, out / "hmr")
    tasks: dict[str, tuple[Any, TrainConfig]] = {"regression": (Regression(), few), "hmr": (Frames(many), many)}
    for name, (task, config) in tasks.items():
        train(task, config)
        found[name] = {"seen": task.seen, "weights": task.module.state_dict()}
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = both(Path(sys.argv[1]), Path(sys.argv[2]))
    torch.save(found, Path(sys.argv[2]) / f"{os.environ['RANK']}.pt")
