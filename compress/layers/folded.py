"""A run of blocks as its lowest one, into whose last layer a map is folded: by least squares, that layer is fitted anew
for the block to give most nearly what the whole run gave. It costs what one block costs.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from functools import reduce
from operator import add

import torch
from torch import Tensor, nn

from compress.layers.least_squares import RIDGE, Moments, least_squares
from compress.layers.units import units_of, with_bias
from compress.stack import Stack, through
from compress.tokens import Tokens


@torch.no_grad()
def folded(stack: Stack, block: nn.Module, pairs: Iterable[tuple[Tokens, Tensor]], ridge: float = RIDGE) -> nn.Module:
    """A copy of `block` whose last layer is changed, as little as need be, so that it makes of tokens what is wanted
    (B, N, C), over all `pairs` of them, each looked at once. Raises BadInput for a block of a kind that has no units.
    """
    made = copy.deepcopy(block)
    down = units_of(stack, made).down
    sums, seen = [], list[tuple[Tensor, Tensor]]()
    watch = down.register_forward_hook(lambda layer, given, said: seen.append((given[0], said)))
    try:
        for before, wanted in pairs:
            seen.clear()
            now = through(stack, [made], before)
            ((given, _),) = seen
            lacking = (wanted - now.x) / scale(stack, made, before, seen)
            sums.append(Moments.of(given, lacking))
    finally:
        watch.remove()
    weight, bias = least_squares(reduce(add, sums), ridge)
    down.weight += weight.to(down.weight)
    with_bias(down).add_(bias.to(down.weight))
    return made


def scale(stack: Stack, block: nn.Module, before: Tokens, seen: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The factors (C,) between what a block's last layer says, which `seen` watches, and what its MLP adds: those of
    LayerScale, whatever the block calls it."""
    seen.clear()
    update = stack.feed(block, replace(before, x=before.x[:1]).x)
    said = seen[0][1]
    return (update * said).sum((0, 1)) / said.square().sum((0, 1)).clamp_min(torch.finfo(said.dtype).tiny)
