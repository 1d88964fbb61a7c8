"""The vision transformer of DINOv2 (Oquab et al. 2023, arXiv:2304.07193) without registers, under its own keys.

Pre-norm blocks with LayerScale, one class token, and positions that are resized where a crop has another grid.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.tokens import Tokens
from hmr.models.vit import Backbone, PatchEmbed


class DINOv2(Backbone):
    """Crop (B, 3, H, W) -> tokens (B, 1 + rows * columns, C) after the last norm, the class token first."""

    def __init__(
        self, dim: int, depth: int, heads: int, mlp_dim: int, drop_path: float, grid: tuple[int, int], patch: int = 14
    ) -> None:
        patch_embed = PatchEmbed(dim, patch, padding=0)
        super().__init__(patch_embed, dim, depth, heads, mlp_dim, drop_path, grid, scaled=True)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.apply(_initialise)
        for learned in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(learned, std=0.02)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Position embedding (1, 1 + rows * columns, C), resized where it is another grid than the model's."""
        return on_grid(self.pos_embed, self.grid, grid)

    def embed(self, crop: Tensor) -> Tokens:
        """Crop (B, 3, H, W) -> the class token and a token a patch, as the first block takes them."""
        x = self.patch_embed(crop)  # (B, C, rows, columns)
        grid = (x.shape[2], x.shape[3])
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x.flatten(2).transpose(1, 2)), 1)
        return Tokens.of(x + self.positions(grid), grid, prefix=1)

    def finish(self, tokens: Tokens) -> Tokens:
        """The tokens after the last norm."""
        return replace(tokens, x=self.norm(tokens.x))


def on_grid(positions: Tensor, grid: tuple[int, int], wanted: tuple[int, int]) -> Tensor:
    """Position embedding (1, 1 + rows * columns, C) of `grid`, resized to that of the grid `wanted`.

    Bicubic, as DINOv2 does it; the class token's stays as it is.
    """
    if grid == wanted:
        return positions
    table = positions[:, 1:].transpose(1, 2).unflatten(2, grid)  # (1, C, rows, columns)
    table = F.interpolate(table, size=wanted, mode="bicubic", align_corners=False)
    return torch.cat((positions[:, :1], table.flatten(2).transpose(1, 2)), 1)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
