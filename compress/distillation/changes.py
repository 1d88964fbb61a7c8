"""What compression has changed of a model, and so has to learn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import nn

from compress.distillation.targets import Recoverable
from compress.frames import Pictures
from compress.stack import LinearBlock


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
