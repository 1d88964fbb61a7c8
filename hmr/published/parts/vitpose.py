"""ViTPose's vision transformer, whose own forward runs its blocks one by one."""

from __future__ import annotations

from torch import Tensor

from hmr.models.vit import ViT


class ViTPose(ViT):
    """Crops (B, 3, 16 h, 16 w) -> tokens (B, h * w, C), after the last norm."""

    def forward(self, crop: Tensor) -> Tensor:
        x = self.embed(crop).x
        for block in self.blocks:
            x = block(x)
        return self.last_norm(x)
