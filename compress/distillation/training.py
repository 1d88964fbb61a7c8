"""Training of a student to follow its teacher, without labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from compress.context import fingerprint
from compress.distillation.changes import training_above
from compress.distillation.distances import block_distance, token_distance
from compress.distillation.masks import mistaken
from compress.distillation.targets import Recoverable, Targets, matched, seen
from compress.errors import BadInput
from compress.frames import Pictures
from compress.stack import evaluating
from compress.tokens import Tokens
from compress.training.loop import Progress, train
from compress.training.task import Budget, OptimizerStep, TrainConfig, TrainingTask

if TYPE_CHECKING:
    from compress.policies.recover import RecoverPlan

WARMUP = 20  # steps
Distance = Callable[[Any, Any], Tensor]  # (student's output, teacher's output) -> scalar, 0 where they are equal


class DistillationLoss(nn.Module):
    """A student and its distance to a teacher, whose weights are neither trained nor saved."""

    def __init__(self, student: Recoverable, teacher: Recoverable, distance: Distance) -> None:
        super().__init__()
        self.student: Any = student
        self.distance = distance
        self.teacher = (teacher,)  # in a tuple it is no submodule
        self.places = matched(student, teacher)

    def forward(self, given: tuple[Any, ...], wanted: Sequence[Tokens]) -> dict[str, Tensor]:
        """What `Pictures.read` gives, and the teacher's tokens of it -> the distance of output and finished tokens, and
        with that of the tokens after matched blocks the loss."""
        crop, mask, *rest = given
        with torch.no_grad():
            target = self.teacher[0].read(wanted[-1], *rest)
        *within, last = seen(self.student, crop, mask, self.places)
        output = self.student.read(last, *rest)
        with torch.autocast(crop.device.type, enabled=False):
            apart = token_distance(last, wanted[-1]) + self.distance(output, target)
            blocks = [block_distance(*pair) for pair in zip(within, wanted, strict=False)]
            return {"loss": apart + sum(blocks) / max(1, len(blocks)), "distance": apart}


class Distillation(TrainingTask):
    """Training of a student to follow its teacher on all crops but the last fifth, of which at most a batch is held
    out."""

    noun = "recovery"

    def __init__(
        self, plan: RecoverPlan, student: Recoverable, teacher: Recoverable, crops: Pictures, seed: int
    ) -> None:
        self.plan, self.crops, self.seed = plan, crops, seed
        self.known = identity(plan, student, teacher, crops, seed)  # while the student is as it was
        self.module = DistillationLoss(student, teacher, crops.distance)
        self.device = next(self.module.parameters()).device
        self.trained_on = len(crops) - max(1, min(plan.batch, len(crops) // 5))
        groups, bfloat16 = self.groups(plan.batch), plan.precision == "bfloat16"
        self.targets = Targets(teacher, self.module.places, crops, groups, bfloat16)

    def groups(self, size: int) -> list[list[int]]:
        """The batches of the first epoch, and what they leave."""
        shown = order(self.trained_on, self.trained_on, 0, self.seed)
        return [shown[i : i + size] for i in range(0, len(shown), size)]

    def identity(self) -> dict[str, Any]:
        return self.known

    def batch(self, step: OptimizerStep) -> tuple[Any, ...]:
        chosen = order(self.trained_on, self.plan.batch, step.index, self.seed)
        given, wanted = self.targets.read([chosen[i] for i in step.share(len(chosen))])
        crop, mask, *rest = given
        if self.plan.wrong_masks and mask is not None:  # the student's alone: its teacher has seen the true ones
            mask = mistaken(mask, self.plan.wrong_masks)
        return (crop, mask, *rest), wanted

    @torch.no_grad()
    def held_out_distance(self) -> float:
        """The distance on the crops that are held out."""
        given = send_to_device(self.crops.read(range(self.trained_on, len(self.crops))), self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.plan.precision == "bfloat16"):
            return self.module(given, self.targets.of(given))["distance"].item()


def distil(
    plan: RecoverPlan,
    student: Recoverable,
    teacher: Recoverable,
    crops: Pictures,
    folder: Path,
    *,
    seed: int = 0,
    checkpoint_minutes: float = 1.0,
    observe: Callable[[Progress], None] = lambda progress: None,
) -> dict[str, Any]:
    """Train `student`, in place, to follow `teacher` until the plan's budget is spent; returns what was measured.

    Checkpoints lie in `folder`: a run that was killed goes on from the last one, with a budget in steps and on a CPU to
    the same bits; the caller removes the folder when the weights are safe. Some of the crops are held out and measure
    by how much the distance fell.

    Raises BadInput where the folder holds another recovery, with less than two crops, and where training diverges.
    """
    if len(crops) < 2:
        raise BadInput(f"recover needs two crops at least, to learn from and to measure on: there are {len(crops)}")
    budget = {name: getattr(plan, name) for name in Budget.model_fields}
    more: dict[str, Any] = {"warmup": WARMUP, "ema": None, "seed": seed, "checkpoint_minutes": checkpoint_minutes}
    with evaluating(student), evaluating(teacher), training_above(student, teacher, crops):
        task = Distillation(plan, student, teacher, crops, seed)
        before = task.held_out_distance()
        run = train(task, TrainConfig(out=folder, **budget, **more), observe, device_placement=False)
        return {
            "steps": run.progress.step,
            "seconds": run.progress.seconds,
            "distance": {"before": before, "after": task.held_out_distance()},
            # without what no forward pass reaches, as a network beside the backbone
            "trained_params": run.trained_params,
        }


def order(count: int, batch: int, step: int, seed: int) -> list[int]:
    """Indices of the crops of one step: every epoch shows each crop at most once, in an order of its own."""
    batch = min(batch, count)
    epoch, place = divmod(step, count // batch)
    generator = torch.Generator().manual_seed((seed << 32) + epoch)
    return torch.randperm(count, generator=generator)[place * batch : (place + 1) * batch].tolist()


def identity(
    plan: RecoverPlan, student: Recoverable, teacher: Recoverable, crops: Pictures, seed: int
) -> dict[str, str | int]:
    """What a checkpoint has to agree with, as JSON values; `student` as it is before its first step."""
    return {
        "plan": json.dumps(plan.decided(), sort_keys=True),
        "student": fingerprint(cast(nn.Module, student), student.schedule, student.protect),
        "teacher": fingerprint(cast(nn.Module, teacher), teacher.schedule, teacher.protect),
        "crops": len(crops),
        "seed": seed,
    }
