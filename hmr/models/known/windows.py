"""Attention within square windows of the grid, as some blocks of ViTDet have it (Li et al. 2022, arXiv:2203.16527)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from compress.tokens import Tokens
from hmr.models.vit import attention

NAME = "window_size"  # what blocks call the side of their windows


def takes_grid(block: nn.Module) -> bool:
    """Whether a block is of a kind that has windows, and so is handed a grid of tokens and no list, windows or not."""
    return hasattr(block, NAME)


def window_of(block: nn.Module) -> int:
    """The side of a block's windows in patches; 0 where each token sees all."""
    side: Any = getattr(block, NAME, 0)
    return side if isinstance(side, int) else 0


def listed(x: Tensor, width: int) -> Tensor:
    """A grid of tokens, (B, rows, columns, C) or (B, C, rows, columns), as a list (B, N, C); a list as it is."""
    if x.ndim < 4:
        return x
    return x.flatten(1, 2) if x.shape[-1] == width else x.flatten(2).transpose(1, 2)


def grids(x: Tensor, grid: tuple[int, int]) -> list[Tensor]:
    """A list of tokens (B, N, C) as both of the grids that blocks may take: (B, rows, columns, C), (B, C, rows,
    columns)."""
    last = x.unflatten(1, grid)
    return [last, last.permute(0, 3, 1, 2)]


def attend_within(q: Tensor, k: Tensor, v: Tensor, tokens: Tokens, side: int, bias: Tensor | None = None) -> Tensor:
    """`attention` of q, k, v (B, H, N, d) where each token sees those of its own window; 0: all of them.

    A merged token is in the window that its mean place lies in. Windows then hold unlike numbers of tokens, so that all
    pairs are computed, and counted, and those of two windows masked. There are no prefix tokens where there are
    windows.
    """
    if not side:
        return attention(q, k, v, bias)
    rows, columns = tokens.grid
    if q.shape[2] < rows * columns:
        place = (tokens.positions() / side).floor()  # (B, N, 2)
        window = place[..., 0] * math.ceil(columns / side) + place[..., 1]
        apart = (window[:, :, None] != window[:, None]).to(q.dtype)  # (B, N, N)
        mask = apart.masked_fill(apart > 0, -torch.inf)
        return attention(q, k, v, mask if bias is None else mask + bias[:, None])
    parts = (rows // side, side, columns // side, side)
    order = torch.arange(rows * columns, device=q.device).view(parts).transpose(1, 2).flatten()
    folded = (x[:, :, order].unflatten(2, (-1, side**2)).transpose(1, 2).flatten(0, 1) for x in (q, k, v))
    seen = attention(*folded).unflatten(0, (len(q), -1)).transpose(1, 2).flatten(2, 3)  # (B, H, N, d)
    return seen[:, :, order.argsort()]
