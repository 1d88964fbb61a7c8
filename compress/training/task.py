"""What a training is asked for, one step of it, and the task: what is trained on what, at which learning rate."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import nn

from compress.errors import BadInput
from compress.policy import FrozenModel, misuse

Precision = Literal["float32", "bfloat16"]
FLOOR = 0.01  # share of the learning rate that is left at the end


class Budget(FrozenModel):
    """How long to train, for `minutes` of wall clock or a number of `steps`, and how fast."""

    minutes: float | None = Field(None, gt=0, description="wall clock to train for")
    steps: int | None = Field(None, ge=1, description="optimizer steps, not minutes: repeats to the bit on a CPU")
    lr: float = Field(3e-4, gt=0, description="learning rate after warm-up; a cosine brings it down")
    batch: int = Field(16, ge=1, description="what a step learns from")
    precision: Precision = Field("float32", description="of products in training, not of weights")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.minutes is None) == (self.steps is None):
            where = "minutes" if self.steps else "policy"
            raise misuse(where, "a training needs either minutes or steps, and not both")
        return self


class TrainConfig(Budget):
    """How to train, and the folder `out` of the run. What is excluded from its JSON does not change the weights."""

    out: Path = Field(exclude=True)
    precision: Precision | Literal["auto"] = "float32"  # type: ignore[assignment]  # auto: bfloat16 where it is faster
    warmup: int = Field(100, ge=0)  # steps
    ema: float | None = Field(0.999, gt=0, lt=1)  # decay of the averaged weights; None: no average is kept
    seed: int = Field(0, ge=0)
    log_minutes: float = Field(0.2, ge=0, exclude=True)  # 0 here and below: after every step
    checkpoint_minutes: float = Field(2.0, ge=0, exclude=True)
    val_minutes: float = Field(5.0, ge=0, exclude=True)


@dataclass(frozen=True)
class OptimizerStep:
    """One optimizer step, as one of the processes takes it."""

    index: int
    fraction: float = 0.0  # of the budget, spent before this step
    process: int = 0
    processes: int = 1

    def share(self, batch: int) -> range:
        """Which samples of a batch are this process's.

        All shares are of one size, so that the mean over processes is the mean over the batch; raises BadInput where
        that cannot be.
        """
        if batch % self.processes:
            raise BadInput(
                f"{batch} samples cannot be divided equally among {self.processes} processes: "
                "choose a batch that is a multiple of their number"
            )
        return range(self.process, batch, self.processes)


class TrainingTask(ABC):
    """What is trained: `module(*batch)` gives scalars by name, and training minimises the one called "loss"."""

    noun: ClassVar[str]  # in messages: "training of a motion VAE"
    module: nn.Module
    choose_every: int | None = None  # steps; a training gives the weights, of those looked at, whose loss in `validate`
    # is least. By steps and not by the clock, so that a run that was killed chooses the same. None: the last weights.
    patience: int | None = None  # steps without less of that loss, after which a training ends before its budget does

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What distinguishes this training from others, as JSON values: its data, sizes and initial weights."""

    @abstractmethod
    def batch(self, step: OptimizerStep) -> tuple[Any, ...]:
        """This process's share of the samples of a step: tensors, or tuples and dicts of them."""

    def validate(self, module: nn.Module, step: OptimizerStep) -> dict[str, Any]:
        """Errors of `module`, with averaged weights, on data that is not trained on; part of a row of curve.jsonl."""
        return {}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters as torch.optim takes them; a group may have an `lr` of its own, as in layer-wise decay.

        A parameter without a gradient, as in a phase whose forward pass runs a part under `no_grad`, stays as it is.
        The default has no weight decay.
        """
        return [{"params": [p for p in self.module.parameters() if p.requires_grad]}]

    def learning_rate(self, group: dict[str, Any], step: OptimizerStep, warmup: int) -> float:
        """The learning rate of a parameter group, whose highest is group["initial_lr"]."""
        return cosine(group["initial_lr"], step, warmup)


def cosine(peak: float, step: OptimizerStep, warmup: int) -> float:
    """Linear warm-up over steps times a cosine over the budget, down to FLOOR of the peak."""
    share = 0.5 * (1 + math.cos(math.pi * min(1.0, step.fraction)))
    return peak * min(1.0, (step.index + 1) / max(1, warmup)) * (FLOOR + (1 - FLOOR) * share)


def linear(peak: float, step: OptimizerStep, warmup: int, decay: float) -> float:
    """Linear warm-up over steps, then constant, then linear down to FLOOR of the peak over the last `decay` of the
    budget."""
    share = min(1.0, (1 - step.fraction) / decay)
    return peak * min(1.0, (step.index + 1) / max(1, warmup)) * (FLOOR + (1 - FLOOR) * share)
