"""An adapter for the parity table: a small ViT of timm, of random weights."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn

import hmr

JOINTS = 17


class TimmViT(hmr.Adapter):
    """Its joints are those of the class token."""

    size, licence = (224, 224), "Apache-2.0"
    mean = std = (0.5, 0.5, 0.5)

    def load(self) -> nn.Module:
        torch.manual_seed(0)
        sizes = {"embed_dim": 64, "depth": 4, "num_heads": 4}
        return timm.create_model("vit_tiny_patch16_224", num_classes=3 * JOINTS, **sizes)

    def read(self, model: Any, tokens: Any) -> Any:
        return model.forward_head(tokens.x)

    def joints(self, outputs: Any) -> Tensor:
        return outputs.unflatten(1, (JOINTS, 3))
