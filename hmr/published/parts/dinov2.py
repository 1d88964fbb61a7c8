"""DINOv2 as its authors publish it: positions are resized as their code does it, a tenth of a patch off."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from hmr.models.dinov2 import DINOv2
from hmr.published.parts.weights import count

OFFSET = 0.1  # of a patch, which their scale factors have more; released weights learned with it


class DINOv2Hub(DINOv2):
    """Pictures (B, 3, 14 h, 14 w) -> tokens (B, 1 + h * w, C), after the last norm; `side`: of the grid that its table
    of positions was learned on."""

    def __init__(self, dim: int, depth: int, heads: int, mlp_dim: int, side: int) -> None:
        super().__init__(dim, depth, heads, mlp_dim, 0.0, (side, side))

    def positions(self, grid: tuple[int, int]) -> Tensor:
        if grid == self.grid:
            return self.pos_embed
        table = self.pos_embed[:, 1:].transpose(1, 2).unflatten(2, self.grid)  # (1, C, rows, columns)
        scale = [(int(wanted) + OFFSET) / side for wanted, side in zip(grid, self.grid, strict=True)]
        table = F.interpolate(table, scale_factor=scale, mode="bicubic", align_corners=False)
        return torch.cat((self.pos_embed[:, :1], table.flatten(2).transpose(1, 2)), 1)

    def prepare_tokens_with_masks(self, crop: Tensor) -> Tensor:
        """Tokens as the first block takes them."""
        return self.embed(crop).x

    def forward(self, crop: Tensor) -> Tensor:
        x = self.prepare_tokens_with_masks(crop)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def hub_backbone(state: Mapping[str, Tensor], prefix: str, heads: int | None) -> DINOv2Hub:
    """A backbone of the sizes of a file; heads are 64 wide where they are not given."""
    dim, hidden = state[f"{prefix}.blocks.0.mlp.fc2.weight"].shape
    side = math.isqrt(state[f"{prefix}.pos_embed"].shape[1] - 1)
    return DINOv2Hub(dim, count(state, f"{prefix}.blocks"), heads or dim // 64, hidden, side)
