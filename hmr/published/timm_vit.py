"""ViT, DINOv2 and DINOv3 of timm with a head of the user's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from hmr.published.headed import HeadedViT, package_of


class TimmViT(HeadedViT):
    """`network` as `timm.create_model` takes it: with `pretrained` timm gets its weights."""

    blocks = "vit.blocks"
    pretrained: ClassVar[bool] = True
    options: ClassVar[Mapping[str, Any]] = {}  # of `create_model`, as img_size

    def vit(self) -> nn.Module:
        timm: Any = package_of("timm")
        network: nn.Module = timm.create_model(self.network, pretrained=self.pretrained, num_classes=0, **self.options)
        return network
