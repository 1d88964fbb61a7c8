"""Narrower blocks whose last layers are fitted anew: by least squares, the units that are left give most nearly what
all of them gave (He et al. 2017, arXiv:1707.06168, Sec. 3.1, without its choice of units).

Blocks are fitted from the lowest up, each on the tokens that the blocks below it, fitted already, leave.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compress.layers.least_squares import RIDGE
from compress.layers.one_by_one import Spread, Watch
from compress.layers.units import units_of, with_bias
from compress.layers.widths import BlockWidth, Kept, columns_of, narrow_heads, narrow_hidden
from compress.stack import Stack


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


def refitted(stack: Stack, width: BlockWidth, block: nn.Module, watch: Watch) -> None:
    """Make a block narrower, in place: first its heads go, then its hidden units, which read what those leave."""
    units = units_of(stack, block)
    for heads, kept in zip(units.heads, width.every[:-1], strict=True):
        if kept.removed:
            refit(heads.out, watch(heads.out), kept)
            narrow_heads(heads, kept)
    if width.hidden.removed:
        refit(units.down, watch(units.down), width.hidden)
        narrow_hidden(units, width.hidden)
