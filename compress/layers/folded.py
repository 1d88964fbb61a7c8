"""A run of blocks as its lowest one, into whose last layer a map is folded: by least squares, that layer is fitted anew
for the block to give most nearly what the whole run gave. It costs what one block costs.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from operator import add

import torch
from torch import Tensor, nn

from compress.errors import BadInput
from compress.layers.least_squares import RIDGE, Moments, least_squares
from compress.layers.units import units_of, with_bias
from compress.stack import Stack, through
from compress.tokens import Tokens

EXACT = 1e-3  # what rounding may leave of a difference of outputs, as a share of it


@torch.no_grad()
def folded(stack: Stack, block: nn.Module, pairs: Iterable[tuple[Tokens, Tensor]], ridge: float = RIDGE) -> nn.Module:
    """A copy of `block` whose last layer is changed, as little as need be, so that it makes of tokens what is wanted
    (B, N, C), over all `pairs` of them, each looked at once. Raises BadInput for a block of a kind that has no units.
    """
    made = copy.deepcopy(block)
    down = units_of(stack, made).down
    sums: list[Moments] = []
    with watched(down) as seen:
        for before, wanted in pairs:
            seen.clear()
            now = through(stack, [made], before)
            ((given, _),) = seen
            lacking = (wanted - now.x) / scale(stack, made, before, seen)
            sums.append(Moments.of(given, lacking))
    mend(down, sums, ridge)
    return made


@contextmanager
def watched(layer: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """What goes into a layer and what it says, of each call."""
    seen: list[tuple[Tensor, Tensor]] = []
    watch = layer.register_forward_hook(lambda layer, given, said: seen.append((given[0], said)))
    try:
        yield seen
    finally:
        watch.remove()


@contextmanager
def doubled(layer: nn.Module) -> Iterator[None]:
    """The layer says everything twice as loud."""
    watch = layer.register_forward_hook(lambda layer, given, said: 2 * said)
    try:
        yield
    finally:
        watch.remove()


@torch.no_grad()
def mend(layer: nn.Linear, sums: Sequence[Moments], ridge: float = RIDGE) -> None:
    """Add to a layer the map that least squares finds: what it lacks, of what goes into it."""
    weight, bias = least_squares(reduce(add, sums), ridge)
    layer.weight += weight.to(layer.weight)
    with_bias(layer).add_(bias.to(layer.weight))


def scale(stack: Stack, block: nn.Module, before: Tokens, seen: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The factors (C,) between what a block's last layer says, which `seen` watches, and what its MLP adds: those of
    LayerScale, whatever the block calls it."""
    seen.clear()
    update = stack.feed(block, replace(before, x=before.x[:1]).x)
    return factors(seen[0][1], update)


def factors(said: Tensor, update: Tensor) -> Tensor:
    """Those (C,) by which `update` (B, N, C) is most nearly what was `said` (B, N, C)."""
    smallest = torch.finfo(said.dtype).tiny
    return (update * said).sum((0, 1)) / said.square().sum((0, 1)).clamp_min(smallest)


def exact_factors(said: Tensor, update: Tensor, kind: str) -> Tensor:
    """The same of a block called `kind`, whose own code adds what its last layer said. Raises BadInput where it does
    more with it, as a norm behind the sum does: then no change of that layer is a map behind the block."""
    found = factors(said, update)
    if (update - found * said).norm() > EXACT * update.norm():
        raise BadInput(
            f"{kind} blocks do more with what their last layer says than to add it, so that no map can be folded into "
            "it: use another operator"
        )
    return found
