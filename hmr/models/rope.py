"""DINOv3's rotary positions at the places of merged tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from compress.errors import BadInput
from compress.tokens import Tokens


def rope_of(owners: list[nn.Module], block: str) -> Any:
    """The module with DINOv3's RoPE; None without. Raises BadInput for rotary positions of another kind."""
    for owner in owners:
        for name in ("rope_embed", "rope", "rotary_emb"):
            if (rope := getattr(owner, name, None)) is None:
                continue
            if not hasattr(rope, "periods") or getattr(rope, "normalize_coords", None) not in RANGES:
                raise BadInput(f"{block} blocks: rotary positions of {name}, a {type(rope).__name__}, are not DINOv3's")
            return rope
    return None


RANGES: dict[str, Callable[[int, int], tuple[int, int]]] = {
    "separate": lambda rows, columns: (rows, columns),
    "max": lambda rows, columns: (max(rows, columns),) * 2,
    "min": lambda rows, columns: (min(rows, columns),) * 2,
}


def rope_at(rope: Any, tokens: Tokens) -> tuple[Tensor, Tensor]:
    """Sine and cosine (B, 1, N - prefix, d) at each token's own place (DINOv3's rope_position_encoding).

    Coordinates run linearly from -1 to 1, so that the place of a merged token, the mean over its patches, needs no more
    than the mean row and column. Computed in the type that the module itself computes in: tokens of one patch are then
    where they were, to the bit.
    """
    dtype = getattr(rope, "dtype", None) or rope.periods.dtype
    length = torch.tensor(RANGES[rope.normalize_coords](*tokens.grid), device=tokens.x.device, dtype=dtype)
    place = (tokens.positions()[:, tokens.prefix :] + 0.5).to(dtype)  # (B, N - prefix, 2)
    angles = 2 * math.pi * (2.0 * (place / length) - 1.0)[..., None] / rope.periods  # (B, N - prefix, 2, d / 4)
    angles = angles.flatten(2).repeat(1, 1, 2)[:, None]  # (B, 1, N - prefix, d)
    return angles.sin(), angles.cos()


def rotated(x: Tensor, sin: Tensor, cos: Tensor, prefix: int) -> Tensor:
    """Queries or keys (B, H, N, d) turned to their places; prefix tokens have none."""
    still, moving = x[:, :, :prefix], x[:, :, prefix:].to(sin.dtype)
    low, high = moving.chunk(2, -1)
    moving = moving * cos + torch.cat((-high, low), -1) * sin
    return torch.cat((still, moving.to(x.dtype)), 2)
