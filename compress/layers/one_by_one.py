"""Blocks that change one after the other, from the lowest up: each by what goes into its layers on frames, where the
blocks below it have changed already."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from operator import add
from typing import Any

import torch
from torch import Tensor, nn

from compress.errors import BadInput
from compress.frames import Judge
from compress.late import LateStack, stack_of
from compress.layers.energies import person
from compress.layers.late_trials import finished
from compress.stack import Schedule, Stack, entering, evaluating, through
from compress.tokens import Tokens


@dataclass(frozen=True)
class Spread:
    """Sums over `count` tokens of what goes into a layer, x (U,), and of x x^T (U, U); float64."""

    count: int
    x: Tensor
    xx: Tensor

    @classmethod
    def of(cls, given: Tensor) -> Spread:
        """Of inputs (..., U), multiplied in their own type: rounding is far below the ridge."""
        x = given.flatten(0, -2)
        return cls(len(x), x.double().sum(0), (x.T @ x).double())

    def __add__(self, other: Spread) -> Spread:
        return Spread(self.count + other.count, self.x + other.x, self.xx + other.xx)


Watch = Callable[[nn.Module], Spread]  # what goes into a layer of the block that changes, on all frames, as it is now
Change = Callable[[nn.Module, Watch], None]  # of a block, in place


@torch.no_grad()
def changed(model: Any, name: str | None, judge: Judge, changes: Sequence[Change | None]) -> list[nn.Module]:
    """The blocks of a stack of a model after `changes`, one for each; those without one are the stack's own.

    Raises BadInput where the tokens of one that changes are not finite.
    """
    stack = stack_of(model, name)
    with evaluating(model):
        if isinstance(stack, LateStack):
            return changed_late(model, stack, judge, changes)
        every = enumerate(judge.crops)
        tokens = [entering(stack, crop, person(model, judge, i), model.schedule) for i, crop in every]
        return changed_blocks(stack, tokens, changes, model.schedule)


def changed_blocks(
    stack: Stack, tokens: Sequence[Tokens], changes: Sequence[Change | None], schedule: Schedule
) -> list[nn.Module]:
    """Blocks of an image encoder, given each batch's tokens as the first block takes them."""
    found = []
    for block, change, r in zip(stack.blocks, changes, (*schedule.merges, *[0] * len(changes)), strict=False):
        step, made = replace(schedule, merges=(r,), drop=0), block
        if change is not None:
            made = copy.deepcopy(block)
            change(made, partial(spread, [partial(through, stack, [made], one, step) for one in tokens]))
        tokens = [through(stack, [made], one, step) for one in tokens]
        found.append(made)
    return found


def changed_late(model: Any, stack: LateStack, judge: Judge, changes: Sequence[Change | None]) -> list[nn.Module]:
    """Blocks behind the image encoder, which runs once; the model's own code runs the others, in all of their calls."""
    blocks, tokens = list(stack.blocks), finished(model, judge)

    def read(index: int) -> None:
        with stack.holding(blocks):
            judge.errors(index, tokens[index], model)

    for i, change in enumerate(changes):
        if change is not None:
            blocks[i] = copy.deepcopy(blocks[i])
            change(blocks[i], partial(spread, [partial(read, index) for index in range(len(tokens))]))
    return blocks


def spread(runs: Iterable[Callable[[], object]], layer: nn.Module) -> Spread:
    """What goes into a layer while all batches run. Raises BadInput where nothing does, or what is not finite."""
    seen: list[Spread] = []
    watch = layer.register_forward_pre_hook(lambda _, given: seen.append(Spread.of(given[0])))
    try:
        for run in runs:
            run()
    finally:
        watch.remove()
    if not seen:
        raise BadInput(f"a {type(layer).__name__} layer is read and never called, so that nothing fits it anew")
    found = reduce(add, seen)
    if not found.xx.isfinite().all():
        raise BadInput("nothing fits these layers anew: their tokens are not finite on these frames")
    return found
