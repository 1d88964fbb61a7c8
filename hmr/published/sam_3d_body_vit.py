"""SAM 3D Body with ViTPose's ViT-H in the place of DINOv3: it sees the middle 384 columns of 512 x 512 pixels."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from hmr.published.parts.vitpose import ViTPose
from hmr.published.parts.weights import count
from hmr.published.sam_3d_body import PATCH, SAM3DBody

EPS = 1e-5  # of its norms, where ViTPose has 1e-6


def sam_vit(dim: int, depth: int, heads: int, hidden: int, grid: tuple[int, int]) -> ViTPose:
    """ViTPose's ViT with these norms."""
    backbone = ViTPose(dim, depth, heads, hidden, 0.0, grid, PATCH)
    for part in backbone.modules():
        if isinstance(part, nn.LayerNorm):
            part.eps = EPS
    return backbone


class SAM3DBodyViT(SAM3DBody):
    """The released model with ViT-H."""

    size, blocks = (512, 384), "backbone.blocks"
    backbone_heads = 16

    def backbone(self, state: Mapping[str, Tensor]) -> nn.Module:
        hidden, dim = state["backbone.blocks.0.mlp.fc1.weight"].shape
        grid = (self.size[0] // PATCH, self.size[1] // PATCH)
        return sam_vit(dim, count(state, "backbone.blocks"), self.backbone_heads, hidden, grid)
