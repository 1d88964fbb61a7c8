"""A short recovery by outputs alone, for models whose tokens are nobody's counterpart: the material of `levers.py`."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compress.context import Context, fingerprint
from compress.distillation.training import WARMUP, Distance, order
from compress.frames import Pictures
from compress.policies.recover import Learning
from compress.stack import Schedule, evaluating
from compress.training.loop import Progress, train
from compress.training.task import OptimizerStep, TrainConfig, TrainingTask
from hmr.models.head import HMROutput

BATCH = 8
PICTURES = 256  # that all recoveries learn from
RATE = float(Learning.model_fields["lr"].default)
RING = 1  # of patches around the person, dropped last


def dropping(model: Any, keep: int) -> Any:
    """`model` itself, made to drop to `keep` patches by the mask: as `merge_tokens` with `mode: drop, dilate: 1`."""
    model.schedule = Schedule(drop=model.grid[0] * model.grid[1] - keep, dilate=RING)
    model.protect = 0.0
    return model


class Answers:
    """What the original says of each picture, computed once; crops go through it in the same batches always."""

    def __init__(self, original: Any, pictures: Pictures) -> None:
        self.original, self.pictures, self.kept = original, pictures, dict[int, dict[str, Tensor]]()

    @torch.no_grad()
    def of(self, chosen: Sequence[int]) -> dict[str, Tensor]:
        """The fields of its output for some pictures, by name, each (B, ...)."""
        for start in sorted({i - i % BATCH for i in chosen if i not in self.kept}):
            members = range(start, min(start + BATCH, len(self.pictures)))
            said = vars(self.original(*self.pictures.read(members)))
            self.kept |= {i: {name: value[k] for name, value in said.items()} for k, i in enumerate(members)}
        return {name: torch.stack([self.kept[i][name] for i in chosen]) for name in self.kept[chosen[0]]}


class OutputDistance(nn.Module):
    """A student, and how far what it says is from given answers."""

    def __init__(self, student: nn.Module, distance: Distance) -> None:
        super().__init__()
        self.student, self.distance = student, distance

    def forward(self, seen: tuple[Tensor, ...], answers: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": self.distance(self.student(*seen), HMROutput(**answers))}


class OutputRecovery(TrainingTask):
    """Training of every weight of a student to say what the original says, on PICTURES pictures without labels."""

    noun = "recovery by outputs"

    def __init__(self, facts: dict[str, Any], student: nn.Module, answers: Answers, pictures: Pictures) -> None:
        self.facts, self.answers, self.pictures = facts, answers, pictures
        self.module = OutputDistance(student.requires_grad_(True), pictures.distance)

    def identity(self) -> dict[str, Any]:
        return self.facts

    def batch(self, step: OptimizerStep) -> tuple[Any, ...]:
        chosen = order(min(PICTURES, len(self.pictures)), BATCH, step.index, 0)
        return self.pictures.read(chosen), self.answers.of(chosen)


def recovered(
    name: str, student: nn.Module, answers: Answers, context: Context, steps: int, show: Callable[[Progress], None]
) -> Any:
    """A copy of a student after so many steps; a recovery that was killed goes on from its checkpoint."""
    facts = {"name": name, "student": fingerprint(student), "steps": steps, "batch": BATCH, "pictures": PICTURES}
    made = copy.deepcopy(student)
    task = OutputRecovery(facts, made, answers, context.pictures)
    with context.place("levers", json.dumps(facts, sort_keys=True)) as folder, evaluating(made):
        config = TrainConfig(
            out=folder, steps=steps, batch=BATCH, lr=RATE, warmup=WARMUP, ema=None, checkpoint_minutes=5.0
        )
        train(task, config, show, device_placement=False)
    return made.requires_grad_(False)
