"""Rotary positions (RoPE) at the places of merged tokens, for kinds whose angles are linear in row and column: the mean
over the patches of a token then needs no more than its mean row and column.

Held against the module's own angles on whole patches; any other kind is refused.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from compress.errors import BadInput
from compress.tokens import Tokens

NAMES = ("rope_embed", "rope", "rotary_emb", "rope_embeddings")
TRIED = ((3, 5), (4, 2))  # grids that a kind is held against the module itself on

RANGES: dict[str, Callable[[int, int], tuple[int, int]]] = {
    "separate": lambda rows, columns: (rows, columns),
    "max": lambda rows, columns: (max(rows, columns),) * 2,
    "min": lambda rows, columns: (min(rows, columns),) * 2,
}


@dataclass(frozen=True)
class Rope(ABC):
    """A backbone's own module of rotary positions, asked for any place. d is the width of a head."""

    module: Any
    name: ClassVar[str]

    @property
    def half(self) -> bool:
        """Whether channel i turns with channel i + d / 2, and not with its neighbour."""
        return True

    @classmethod
    @abstractmethod
    def knows(cls, module: Any) -> bool:
        """Whether `module` is of this kind."""

    @abstractmethod
    def angles(self, place: Tensor, grid: tuple[int, int]) -> Tensor:
        """Angles (..., d / 2) at places (..., 2), row and column counted in patches from the first one's middle."""

    @abstractmethod
    def whole(self, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The module's own sine and cosine (rows * columns, d)."""

    @abstractmethod
    def given(self, sin: Tensor, cos: Tensor, dtype: torch.dtype) -> Any:
        """What a block of its own takes beside tokens of this type."""

    def at(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Sine and cosine (B, 1, N - prefix, d) at each token's own place. Computed as the module itself computes:
        tokens of one patch are then where they were, to the bit."""
        angles = self.angles(tokens.positions()[:, tokens.prefix :], tokens.grid)[:, None]
        angles = torch.cat((angles, angles), -1) if self.half else angles.repeat_interleave(2, -1)
        return angles.sin(), angles.cos()

    def rotated(self, x: Tensor, sin: Tensor, cos: Tensor, prefix: int) -> Tensor:
        """Queries or keys (B, H, N, d) turned to their places; prefix tokens have none."""
        still, moving = x[:, :, :prefix], x[:, :, prefix:].to(sin.dtype)
        if self.half:
            low, high = moving.chunk(2, -1)
            across = torch.cat((-high, low), -1)
        else:
            across = torch.stack((-moving[..., 1::2], moving[..., ::2]), -1).flatten(-2)
        return torch.cat((still, (moving * cos + across * sin).to(x.dtype)), 2)


def centred(place: Tensor, lengths: tuple[int, int], dtype: torch.dtype, offset: float = 0.0) -> Tensor:
    """Coordinates (..., 2) that run from -1 to 1 over so many rows and columns."""
    return 2.0 * ((place + 0.5 + offset).to(dtype) / pair(lengths, place, dtype)) - 1.0


def pair(values: Sequence[float], like: Tensor, dtype: torch.dtype) -> Tensor:
    """Two numbers on the device of `like`, which does not wait for them to be copied there."""
    return torch.stack([like.new_full((), value, dtype=dtype) for value in values])


class Dinov3(Rope):
    """rope_position_encoding.py of DINOv3's authors."""

    name = "DINOv3"

    @classmethod
    def knows(cls, module: Any) -> bool:
        return hasattr(module, "periods") and getattr(module, "normalize_coords", None) in RANGES

    def angles(self, place: Tensor, grid: tuple[int, int]) -> Tensor:
        dtype = getattr(self.module, "dtype", None) or self.module.periods.dtype
        at = centred(place, RANGES[self.module.normalize_coords](*grid), dtype)
        return (2 * math.pi * at[..., None] / self.module.periods).flatten(-2)

    def whole(self, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        sin, cos = self.module(H=grid[0], W=grid[1])
        return sin, cos

    def given(self, sin: Tensor, cos: Tensor, dtype: torch.dtype) -> Any:
        return sin, cos


class TransformersDinov3(Rope):
    """DINOv3ViTRopePositionEmbedding of transformers."""

    name = "transformers' DINOv3"

    @classmethod
    def knows(cls, module: Any) -> bool:
        return hasattr(module, "inv_freq") and hasattr(module, "num_patches_h")

    def angles(self, place: Tensor, grid: tuple[int, int]) -> Tensor:
        return (2 * math.pi * centred(place, grid, torch.float32)[..., None] * self.module.inv_freq).flatten(-2)

    def whole(self, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        patch, like = self.module.config.patch_size, self.module.inv_freq
        high, wide = patch if isinstance(patch, list | tuple) else (patch, patch)
        cos, sin = self.module(like.new_zeros(1, 3, grid[0] * high, grid[1] * wide))
        return sin, cos

    def given(self, sin: Tensor, cos: Tensor, dtype: torch.dtype) -> Any:
        return cos.to(dtype), sin.to(dtype)


class Timm(Rope):
    """What timm's modules have in common: sine and cosine in one tensor."""

    @property
    def half(self) -> bool:
        return bool(self.module.rotate_half)

    def ordered(self, at: Tensor) -> Tensor:
        """Row and column, or the other way round where the module counts x first."""
        return at.flip(-1) if self.module.grid_indexing == "xy" else at

    def whole(self, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        sin, cos = self.module.get_embed(list(grid)).chunk(2, -1)
        return sin, cos

    def given(self, sin: Tensor, cos: Tensor, dtype: torch.dtype) -> Any:
        return torch.cat((sin, cos), -1)


class TimmDinov3(Timm):
    """RotaryEmbeddingDinoV3 of timm."""

    name = "timm's DINOv3"

    @classmethod
    def knows(cls, module: Any) -> bool:
        return hasattr(module, "get_embed") and Dinov3.knows(module)

    def angles(self, place: Tensor, grid: tuple[int, int]) -> Tensor:
        module = self.module
        at = centred(place, RANGES[module.normalize_coords](*grid), torch.float32, module.grid_offset)
        return (2 * math.pi * self.ordered(at)[..., None].to(module.periods.dtype) / module.periods).flatten(-2)


class TimmAxial(Timm):
    """RotaryEmbeddingCat of timm, as EVA02 has it: places count patches, of the grid it was trained on."""

    name = "EVA02"

    @classmethod
    def knows(cls, module: Any) -> bool:
        return isinstance(getattr(module, "bands", None), Tensor) and getattr(module, "grid_type", "index") == "index"

    def angles(self, place: Tensor, grid: tuple[int, int]) -> Tensor:
        at = place + self.module.grid_offset
        if self.module.ref_feat_shape is not None:
            own = self.module.ref_feat_shape
            at = at / pair(grid, place, place.dtype) * pair(own, place, place.dtype)
        return (self.ordered(at)[..., None] * self.module.bands).flatten(-2)


KINDS: tuple[type[Rope], ...] = (TimmDinov3, TimmAxial, TransformersDinov3, Dinov3)


def rope_of(owners: list[nn.Module], block: str) -> Rope | None:
    """The rotary positions of a backbone; None without. Raises BadInput for those of another kind, and where the
    module's own angles on whole patches are others."""
    for owner in owners:
        for name in NAMES:
            if (module := getattr(owner, name, None)) is None:
                continue
            what = f"{block} blocks: rotary positions of {name}, a {type(module).__name__},"
            if (kind := next((kind for kind in KINDS if kind.knows(module)), None)) is None:
                raise BadInput(f"{what} are none of those known here: {', '.join(kind.name for kind in KINDS)}")
            rope = kind(module)
            fixed = getattr(module, "feat_shape", None)  # timm's may know one grid alone
            if not all(same_angles(rope, grid) for grid in ([tuple(fixed)] if fixed else TRIED)):
                raise BadInput(f"{what} look like those of {kind.name}, but its angles are others")
            return rope
    return None


@torch.no_grad()
def same_angles(rope: Rope, grid: tuple[int, int]) -> bool:
    """Whether whole patches are turned as the module itself does it; on the meta device there is nothing to compare."""
    module, mode = rope.module, rope.module.training
    if any(value.is_meta for value in module.buffers()):
        return True
    module.eval()  # training moves the grid about
    try:
        own = rope.whole(grid)
    finally:
        module.train(mode)
    sin, cos = own
    found = rope.at(Tokens.of(sin.new_zeros(1, grid[0] * grid[1], 1), grid, 0))
    limit = 1e-4 if sin.dtype in (torch.float32, torch.float64) else 5e-2
    return all(
        one[0, 0].shape == other.shape and torch.allclose(one[0, 0].to(other.dtype), other, rtol=0, atol=limit)
        for one, other in zip(found, (sin, cos), strict=True)
    )
