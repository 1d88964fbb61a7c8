"""Label-free recovery: after merging or pruning, a model learns the original's outputs.

The compressed model (student) follows the original's (teacher's) tokens, after some blocks and finished, and its output
on pictures without labels. FastHMR has no such step before its decoder. Blocks whose weights or inputs are no longer
the original's train, and so does everything above them, the last norm and the head. Frozen are the embedding and the
blocks below, which see what they always saw; and all modules stay in evaluation mode, so that BatchNorm keeps its
running statistics and no stochastic depth adds noise to a comparison of two functions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, cast

import torch
import torch.nn.functional as F
from accelerate.utils import send_to_device
from pydantic import Field
from torch import Tensor, nn

from compress.context import Context, fingerprint
from compress.cost.bfloat16 import warn_if_slow
from compress.errors import BadInput
from compress.frames import Pictures
from compress.policies.merge_layers import evaluating
from compress.policy import Compressible, MadeFor, Plan, Policy
from compress.stack import LinearBlock, after_each, entering
from compress.tokens import Tokens, taken
from compress.training.loop import Progress, train
from compress.training.task import Budget, OptimizerStep, TrainConfig, TrainingTask

WARMUP = 20  # steps
KEPT_BYTES = 4 << 30  # of the teacher's tokens


class Recoverable(Compressible, Protocol):
    """A model whose forward pass is `read` of what its stack makes of `crop`, around `person`."""

    def person(self, crop: Tensor, mask: Tensor | None) -> Tensor | None:
        """How far each patch of crops (B, 3, H, W) is the person's (B, N0), by masks (B, H, W); None where no token is
        reduced by those."""

    @property
    def read(self) -> Callable[..., Any]:
        """The model's output, from its finished tokens and whatever else it asks for."""


Distance = Callable[[Any, Any], Tensor]  # (student's output, teacher's output) -> scalar, 0 where they are equal


class Recover(Budget, Policy):
    """Distil the original into what is left of it, for `minutes` of wall clock or a number of `steps`."""

    stage: ClassVar[int] = 3
    policy: Literal["recover"] = "recover"
    # 3e-4, at which decoders train, undid pretrained weights that merging had left nearly right; 1e-5 left them there
    lr: float = Field(3e-5, gt=0, description="learning rate after warm-up; a cosine brings it down")

    @property
    def trains(self) -> bool:
        return True

    def check(self, model: Compressible) -> None:
        """Say where bfloat16 is slow."""
        if self.precision == "bfloat16":
            warn_if_slow(next(model.parameters()).device.type)  # type: ignore[attr-defined]  # it is a module

    def plan(self, model: Any, context: Context) -> RecoverPlan:
        """The training that was asked for; none where the model is the original still."""
        budget = self.model_dump()
        if identical(model, context.original):
            budget |= {"minutes": None, "steps": 0}
        return RecoverPlan(made_for=MadeFor.of(model), **budget)


class RecoverPlan(Budget, Plan):
    """A training: what it was allowed. What it learnt are weights, so an artefact comes back without it."""

    policy: Literal["recover"] = "recover"
    steps: int | None = Field(None, ge=0, description="0: there was nothing to recover")

    @property
    def empty(self) -> bool:
        return self.steps == 0

    def describe(self) -> str:
        if self.empty:
            return "Nothing had changed, so there was nothing to recover."
        if not self.measured:
            return "The model is trained to match the original, without labels."
        apart = "{before:.3f} to {after:.3f}".format(**self.measured["distance"])
        return (
            f"{self.measured['steps']} steps in {self.measured['seconds'] / 60:.1f} minutes brought the distance to "
            f"the original from {apart}, on pictures that were held out."
        )

    def shape(self, model: Any) -> Any:
        """No structure changes. Raises as `check`."""
        self.check(model)
        return model

    def apply(self, model: Any, context: Context) -> Any:
        """Train `model`, in place, to follow the original; a training that was killed goes on from its checkpoints.
        Raises as `distil`."""
        self.check(model)
        if self.empty:
            return model
        pictures = context.pictures
        mine = identity(self, model, context.original, pictures, context.seed)

        def show(now: Progress) -> None:
            done, total = (now.step, self.steps) if self.steps else (now.seconds, 60 * (self.minutes or 0))
            detail = f"step {now.step}" + (f": distance {now.scalars['loss']:.3f}" if now.scalars else "")
            context.observer("recovering", detail, round(done), round(total))

        with context.place("recover", json.dumps(mine, sort_keys=True)) as folder:
            measured = distil(self, model, context.original, pictures, folder, seed=context.seed, observe=show)
        context.measured.update(measured)
        return model


Recover.makes = RecoverPlan


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


def matched(student: Recoverable, teacher: Recoverable) -> tuple[int, ...]:
    """The blocks whose tokens are compared too, after a third and two thirds: none where blocks are missing, or only
    a few."""
    depth = len(teacher.stack.blocks)
    same = depth == len(student.stack.blocks)
    return (depth // 3 - 1, 2 * depth // 3 - 1) if same and depth >= 6 else ()


def seen(model: Recoverable, crop: Tensor, mask: Tensor | None, places: Sequence[int]) -> list[Tokens]:
    """A model's tokens after some blocks, and the finished ones."""
    tokens = entering(model.stack, crop, model.person(crop, mask), model.schedule)
    every = list(after_each(model.stack, model.stack.blocks, tokens, model.schedule))
    return [*(every[place] for place in places), model.stack.finish(every[-1])]


class Targets:
    """The teacher's tokens of each crop, computed once: half of a step's time where they are not kept.

    Crops go through the teacher in groups, always the same, since the last bit of a product may depend on the batch:
    so a training that goes on, with nothing kept, sees the same targets. Where they are more than KEPT_BYTES, each
    step computes its own.
    """

    def __init__(
        self, teacher: Recoverable, places: Sequence[int], crops: Pictures, groups: list[list[int]], bfloat16: bool
    ) -> None:
        self.teacher, self.places, self.crops, self.bfloat16 = teacher, places, crops, bfloat16
        self.device = next(cast(nn.Module, teacher).parameters()).device
        self.groups, self.kept = groups, dict[int, list[Tokens]]()
        self.group_of = {i: group for group, members in enumerate(groups) for i in members}

    def read(self, chosen: list[int]) -> tuple[tuple[Any, ...], list[Tokens]]:
        """What `Pictures.read` gives of some crops, and their tokens."""
        given = self.crops.read(chosen)
        if not self.fit:
            return given, self.of(given)
        for group in sorted({self.group_of[i] for i in chosen if i not in self.kept}):
            members = self.groups[group]
            found = self.of(given if members == chosen else self.crops.read(members))
            self.kept |= {i: [tokens.row(place) for tokens in found] for place, i in enumerate(members)}
        return given, [Tokens.joined(rows) for rows in zip(*(self.kept[i] for i in chosen), strict=True)]

    @torch.no_grad()
    def of(self, given: tuple[Any, ...]) -> list[Tokens]:
        """The tokens of what `Pictures.read` gave."""
        crop, mask, *_ = send_to_device(given, self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            return seen(self.teacher, crop, mask, self.places)

    @cached_property
    def fit(self) -> bool:
        """Whether the tokens of all crops may be kept, by those of one."""
        one = self.of(self.crops.read(self.groups[0][:1]))
        return len(self.group_of) * sum(tokens.x.nbytes for tokens in one) <= KEPT_BYTES


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
        return self.targets.read([chosen[i] for i in step.share(len(chosen))])

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


def token_distance(student: Tokens, teacher: Tokens) -> Tensor:
    """Mean squared distance between the student's tokens and what they stand for, in variances of the teacher's tokens.

    A token that holds some patches is compared with the mean of the teacher's tokens of these patches; each token
    counts the same, because the head's attention reads each the same. Prefix tokens are compared with the teacher's.
    """
    x, wanted = student.x.float(), averaged(student, teacher)
    return (x - wanted).square().mean() / teacher.x.float().var().clamp_min(1e-12)


def block_distance(student: Tokens, teacher: Tokens) -> Tensor:
    """The same after a block, each token normalised: within a network a few features of a few tokens are so large that
    nothing else would count."""
    width = student.x.shape[-1:]
    return F.mse_loss(F.layer_norm(student.x.float(), width), F.layer_norm(averaged(student, teacher), width))


def averaged(student: Tokens, teacher: Tokens) -> Tensor:
    """For each of the student's tokens (B, N, C), the mean of the teacher's over the patches it stands for.

    Raises ValueError where the teacher dropped tokens.
    """
    if teacher.dropped:
        raise ValueError("the teacher dropped tokens, and nothing can be learnt of those")
    patches = taken(teacher.x.float(), teacher.source)  # (B, N0, C)
    return torch.cat((teacher.x[:, : teacher.prefix].float(), student.averaged(patches)[:, student.prefix :]), 1)


def order(count: int, batch: int, step: int, seed: int) -> list[int]:
    """Indices of the crops of one step: every epoch shows each crop at most once, in an order of its own."""
    batch = min(batch, count)
    epoch, place = divmod(step, count // batch)
    generator = torch.Generator().manual_seed((seed << 32) + epoch)
    return torch.randperm(count, generator=generator)[place * batch : (place + 1) * batch].tolist()


# ---- what changed


def identical(student: Recoverable, teacher: Recoverable) -> bool:
    """Whether two models are the same function by structure, weights and token schedule."""
    if (student.schedule, student.protect) != (teacher.schedule, teacher.protect):
        return False
    return equal(cast(nn.Module, student), cast(nn.Module, teacher))


def equal(one: nn.Module, two: nn.Module) -> bool:
    """Whether two modules hold the same weights under the same names."""
    mine, theirs = one.state_dict(), two.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def untouched(student: Recoverable, teacher: Recoverable) -> int:
    """How many of the student's lowest blocks have the weights and the inputs that they have in the teacher.

    One less where blocks are missing: the operator `drop` leaves the lowest of a run as it was, and that block too has
    to learn what went. A linear map has what went itself.
    """
    mine, theirs = student.stack.blocks, teacher.stack.blocks
    pairs = enumerate(zip(mine, theirs, strict=False))
    same = next((i for i, (one, two) in pairs if not equal(one, two)), min(len(mine), len(theirs)))
    if len(mine) < len(theirs) and not any(isinstance(block, LinearBlock) for block in mine[same : same + 1]):
        same = max(0, same - 1)
    if student.schedule != teacher.schedule:
        merging = (i for i, r in enumerate(student.schedule.merges) if r)
        same = 0 if student.schedule.drop else min(same, next(merging, same))
    return same


@contextmanager
def training_above(student: Recoverable, teacher: Recoverable, crops: Pictures) -> Iterator[None]:
    """Gradients for what is not `untouched`, none for the teacher; each parameter as it was afterwards."""
    module = cast(nn.Module, student)
    everything = [*module.parameters(), *cast(nn.Module, teacher).parameters()]
    wanted = [p.requires_grad for p in everything]
    try:
        cast(nn.Module, teacher).requires_grad_(False)
        module.requires_grad_(True)
        for p in embedding(student, crops):
            p.requires_grad_(False)
        for block in list(student.stack.blocks)[: untouched(student, teacher)]:
            block.requires_grad_(False)
        yield
    finally:
        for p, want in zip(everything, wanted, strict=True):
            p.requires_grad_(want).grad = None


def embedding(model: Recoverable, crops: Pictures) -> list[nn.Parameter]:
    """The parameters that the first block's input depends on; they need gradients to be found."""
    parameters = list(cast(nn.Module, model).parameters())
    crop, *_ = crops.read([0])
    x = model.stack.embed(crop.to(parameters[0].device)).x
    found = torch.autograd.grad(x.sum(), parameters, allow_unused=True)
    return [p for p, gradient in zip(parameters, found, strict=True) if gradient is not None]


# ---- whose checkpoints they are


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
