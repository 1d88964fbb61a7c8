"""What all trainings share: a budget, a step, checkpoints that are whole or not there, averaged weights."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, cast

import torch
from accelerate import Accelerator
from pydantic import Field, model_validator
from torch import Tensor, nn

from compress.atomic import atomic_write, occupied, synced
from compress.errors import BadInput
from compress.policy import Data, misuse

Precision = Literal["float32", "bfloat16"]
CLIP = 1.0  # largest norm of a gradient
BETAS = (0.9, 0.98)
FLOOR = 0.01  # share of the learning rate that is left at the end
LONGEST_MEMORY = 0.999  # decay of averaged weights once the ramp is over


class Budget(Data):
    """How long to train, for `minutes` of wall clock or a number of `steps`, and how fast."""

    minutes: float | None = Field(None, gt=0, description="wall clock to train for")
    steps: int | None = Field(None, ge=1, description="optimizer steps, not minutes: repeats to the bit on a CPU")
    lr: float = Field(3e-4, gt=0, description="learning rate after warm-up; a cosine brings it down")
    batch: int = Field(16, ge=1, description="what a step learns from")
    precision: Precision = Field("float32", description="of products in training, not of weights")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.minutes is None) == (self.steps is None):
            field = "minutes" if self.steps else "policy"
            raise misuse(field, "a training needs either minutes or steps, and not both")
        return self


@dataclass
class Progress:
    """How far a training is: all that it remembers besides weights and optimizer."""

    step: int = 0
    seconds: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


class Training:
    """One training on its way: optimizer, clock, and checkpoints in `folder`, from the last of which it goes on.

    Every process has its own. Checkpoints also hold the modules that are `kept` beside the trainee.
    """

    def __init__(
        self, trainee: nn.Module, budget: Budget, folder: Path, progress: Progress, accelerator: Accelerator, *kept: Any
    ) -> None:
        self.budget, self.progress, self.accelerator = budget, progress, accelerator
        self.trained = [p for p in trainee.parameters() if p.requires_grad]
        # No weight decay: what is recovered is to stay near the original.
        optimizer = torch.optim.AdamW(self.trained, budget.lr, betas=BETAS, weight_decay=0.0)
        self.trainee, self.optimizer = accelerator.prepare(trainee, optimizer)
        accelerator.register_for_checkpointing(*kept, progress)
        self.resumed = resume(accelerator, folder)
        self.earlier, self.started = progress.seconds, time.monotonic()

    @property
    def seconds(self) -> float:
        """Wall clock of the whole training, earlier sessions included, as this process has it."""
        return self.earlier + time.monotonic() - self.started

    @property
    def fraction(self) -> float:
        """Share of the budget that is spent."""
        if self.budget.steps is not None:
            return self.progress.step / self.budget.steps
        return self.progress.seconds / (60 * cast(float, self.budget.minutes))

    def descend(self, loss: Tensor, warmup: int) -> None:
        """One optimizer step, with gradients averaged over all processes."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.budget.lr, self.progress.step, self.fraction, warmup)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.trained, CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.progress.step += 1


def claim(path: Path, mine: dict[str, Any], noun: str) -> None:
    """Make the folder of `path` that of a training which `mine`, JSON values, tells from all others of its `noun`.

    Raises BadInput where the folder holds another one, or something else, or cannot be written.
    """
    folder = path.parent
    if not occupied(folder):
        try:
            atomic_write(path, json.dumps(mine, indent=1).encode())
        except OSError as error:
            raise BadInput(f"{folder}: cannot be written ({error.strerror})") from error
        return
    if not path.is_file():
        raise BadInput(f"{folder}: it is there, not empty, and holds no {noun}; remove it or name another one")
    try:
        theirs = json.loads(path.read_bytes())
        unlike = [name for name in {**mine, **theirs} if theirs.get(name) != mine.get(name)]
    except (ValueError, AttributeError, TypeError) as error:
        raise BadInput(f"{path}: not what a {noun} wrote ({error}); remove {folder}") from error
    if unlike:
        raise BadInput(f"{folder}: the {noun} there has another {unlike[0]}; remove the folder to start a new one")


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("checkpoint-*") if path.suffix != ".part")


def save_checkpoint(accelerator: Accelerator, folder: Path, step: int) -> None:
    """Write checkpoint-STEP, complete or not there at all; earlier ones go. One that is there already stays: it is of
    the same step, and to replace it is to be without it for a moment. Every process has to call it."""
    final = folder / f"checkpoint-{step:08d}"
    beside = final.with_name(final.name + ".part")
    accelerator.wait_for_everyone()  # the main process may still be at the same step's
    if final.exists():
        return
    if accelerator.is_main_process:
        shutil.rmtree(beside, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(beside))
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        return
    for file in beside.iterdir():
        synced(file)
    os.replace(beside, final)
    for old in checkpoints(folder)[:-1]:
        shutil.rmtree(old)


def resume(accelerator: Accelerator, folder: Path) -> Path | None:
    """Load the last complete checkpoint; None where there is none."""
    found = checkpoints(folder)
    if found:
        accelerator.load_state(str(found[-1]))
    return found[-1] if found else None


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, step: int) -> None:
    """Exponential moving average of the weights, with a memory that grows with the run; buffers are copied."""
    decay = min(LONGEST_MEMORY, (1 + step) / (40 + step))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
    for mine, theirs in zip(average.buffers(), model.buffers(), strict=True):
        mine.copy_(theirs)


def learning_rate(peak: float, step: int, fraction: float, warmup: int) -> float:
    """Linear warm-up over steps times a cosine over the budget, down to FLOOR of the peak."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, fraction)))
    return peak * min(1.0, (step + 1) / max(1, warmup)) * (FLOOR + (1 - FLOOR) * cosine)
