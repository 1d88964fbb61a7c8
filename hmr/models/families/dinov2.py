"""DINOv2's ViT-S/14 under HMR2.0's head, a quarter as wide: a 224x168 crop has HMR2.0's grid of 16 x 12 tokens."""

from __future__ import annotations

from pydantic import Field

from hmr.models.dinov2 import DINOv2
from hmr.models.families.family import Family
from hmr.models.sizes import Sizes
from hmr.models.vit import Backbone


class DINOv2Sizes(Sizes):
    """Sizes of a model on DINOv2; the defaults are ViT-S/14's and of a head that fits it."""

    dim: int = Field(384, ge=8)
    depth: int = Field(12, ge=0, le=1000)
    heads: int = Field(6, ge=1)
    mlp_dim: int = Field(1536, ge=1)
    drop_path: float = Field(0.0, ge=0, lt=1)
    head_dim: int = Field(256, ge=1)
    head_depth: int = Field(4, ge=1, le=1000)  # x 8 heads: 32 places to look at, and a person has 24 joints
    head_dim_head: int = Field(32, ge=1)
    head_mlp_dim: int = Field(512, ge=1)


def _backbone(sizes: Sizes, grid: tuple[int, int], patch: int) -> Backbone:
    return DINOv2(sizes.dim, sizes.depth, sizes.heads, sizes.mlp_dim, sizes.drop_path, grid, patch)


FAMILY = Family(
    name="dinov2",
    mark="backbone.cls_token",
    licence="Apache-2.0",
    crop=(224, 168),
    patch=14,
    backbone=_backbone,
    sizes=DINOv2Sizes,
    turned=True,
    heads={384: 6, 768: 12, 1024: 16},
    unused=("backbone.mask_token",),
)
