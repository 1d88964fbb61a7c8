"""Narrower blocks whose last layers are fitted anew: by least squares, the units that are left give most nearly what
all of them gave (He et al. 2017, arXiv:1707.06168, Sec. 3.1, without its choice of units).

Blocks are fitted from the lowest up, each on the tokens that the blocks below it, fitted already, leave.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from operator import add

import torch
from torch import Tensor, nn

from compress.layers.least_squares import RIDGE
from compress.layers.units import units_of, with_bias
from compress.layers.widths import BlockWidth, Kept, columns_of, narrow_heads, narrow_hidden
from compress.stack import Schedule, Stack, through
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


def correction(sums: Spread, weight: Tensor, left: Tensor, ridge: float = RIDGE) -> tuple[Tensor, Tensor]:
    """W (C, left) and c (C,), float64: what to add to the `left` columns of a layer's `weight` (C, U), and to its bias,
    for it to give most nearly what it gave with all columns.

    Ridge regression as `compress.layers.least_squares`, of what the others gave.
    """
    gone = torch.ones(len(sums.x), dtype=torch.bool, device=sums.x.device)
    gone[left] = False
    mean, lost = sums.x / sums.count, weight.detach().double()[:, gone]
    gram = sums.xx[left][:, left] - torch.outer(sums.x[left], mean[left])
    cross = sums.xx[left][:, gone] - torch.outer(sums.x[left], mean[gone])
    least = 1e-12 * sums.xx.diagonal().mean() + torch.finfo(gram.dtype).tiny
    gram.diagonal().add_(torch.maximum(ridge * gram.diagonal().mean(), least))
    factor, _ = torch.linalg.cholesky_ex(gram)  # unchecked: it is positive definite, or tokens are not finite
    found = torch.cholesky_solve(cross @ lost.T, factor).T
    return found, lost @ mean[gone] - found @ mean[left]


@torch.no_grad()
def refit(layer: nn.Linear, sums: Spread, kept: Kept) -> None:
    """Change a layer, which reads all units, so that it may lose those that are not `kept`. Columns of those that go
    are left as they are."""
    left = columns_of(kept, layer).to(layer.weight.device)
    weight, bias = correction(sums, layer.weight, left)
    layer.weight[:, left] += weight.to(layer.weight)
    with_bias(layer).add_(bias.to(layer.weight))


@torch.no_grad()
def refitted_blocks(
    stack: Stack, tokens: Sequence[Tokens], widths: Sequence[BlockWidth | None], schedule: Schedule
) -> list[nn.Module]:
    """The blocks of a stack, cut to `widths` and fitted anew, given each batch's tokens as the first block takes them.
    Those of which nothing goes are the stack's own."""
    found = []
    merges = (*schedule.merges, *[0] * len(widths))
    for block, width, r in zip(stack.blocks, widths, merges, strict=False):
        step = replace(schedule, merges=(r,), drop=0)
        made = block if width is None or not width.removes else refitted(stack, block, width, tokens, step)
        tokens = [through(stack, [made], one, step) for one in tokens]
        found.append(made)
    return found


def refitted(
    stack: Stack, block: nn.Module, width: BlockWidth, tokens: Sequence[Tokens], schedule: Schedule
) -> nn.Module:
    """A narrower copy of a block: first its heads go, then its hidden units, which read what those leave."""
    made = copy.deepcopy(block)
    units = units_of(stack, made)
    (heads,) = units.heads
    if width.heads.removed:
        refit(heads.out, spread(heads.out, partial(stack.attend, made), tokens), width.heads)
        narrow_heads(heads, width.heads)
    if width.hidden.removed:
        refit(units.down, spread(units.down, lambda one: through(stack, [made], one, schedule), tokens), width.hidden)
        narrow_hidden(units, width.hidden)
    return made


def spread(layer: nn.Linear, run: Callable[[Tokens], object], tokens: Sequence[Tokens]) -> Spread:
    """What goes into a layer while all batches run."""
    seen: list[Spread] = []
    watch = layer.register_forward_pre_hook(lambda _, given: seen.append(Spread.of(given[0])))
    try:
        for one in tokens:
            run(one)
    finally:
        watch.remove()
    return reduce(add, seen)
