"""What is known about a network that is not ours."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hmr.models.own_model import OwnModel

PATCH = 4
CROP = (32, 24)  # 8 x 6 patches


@dataclass(frozen=True)
class Network:
    """How to make one, and what is known about it; all have `networks.DEPTH` blocks of tokens `networks.DIM` wide."""

    make: Callable[[], nn.Module]
    blocks: str
    prefix: int
    crop: tuple[int, int] = CROP
    patch: int = PATCH
    tokens: Callable[[nn.Module, Tensor], Tensor] = lambda module, crop: module(crop)  # after its last norm
    # What its authors' code may not do: take fewer heads in a block's own forward; sum over heads and hidden units
    # with no norm before it, so that a unit at zero is as good as gone; keep modules free of hooks that are closures.
    runs_narrow: bool = True
    sums_units: bool = True
    pickles: bool = True
    known: Mapping[str, Any] = field(default_factory=dict)  # what `OwnModel` has to be told

    @property
    def grid(self) -> tuple[int, int]:
        return self.crop[0] // self.patch, self.crop[1] // self.patch

    @property
    def patches(self) -> int:
        return math.prod(self.grid)

    def module(self) -> nn.Module:
        torch.manual_seed(0)
        return self.make().eval()

    def own(self, **asked) -> OwnModel:
        return OwnModel(
            self.module(), lambda own, tokens: tokens, self.crop, blocks=self.blocks, **self.known, **asked
        ).eval()

    def images(self, count: int = 3) -> Tensor:
        return torch.randn(count, 3, *self.crop, generator=torch.Generator().manual_seed(1))

    def masks(self, count: int = 3) -> Tensor:
        """Of whole patches: a column of people, twelve patches."""
        out = torch.zeros(count, *self.grid, dtype=torch.bool)
        out[:, 1:7, 2:4] = True
        return out.repeat_interleave(self.patch, 1).repeat_interleave(self.patch, 2)
