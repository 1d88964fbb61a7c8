"""An adapter for the parity table: a small DINOv3 of transformers, with rotary positions, of random weights."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor, nn

import hmr

JOINTS, DIM = 17, 64
SIZES: dict[str, Any] = {"hidden_size": DIM, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}


class Pose(nn.Module):
    """Crops (B, 3, 224, 224) -> places of the joints (B, 51), read off the class token."""

    def __init__(self) -> None:
        super().__init__()
        config = transformers.DINOv3ViTConfig(**SIZES, image_size=224, patch_size=16, num_register_tokens=4)
        self.vit, self.head = transformers.DINOv3ViTModel(config), nn.Linear(DIM, 3 * JOINTS)

    def forward(self, crops: Tensor) -> Tensor:
        return self.head(self.vit(crops).last_hidden_state[:, 0])


class Dinov3(hmr.Adapter):
    """Its tokens turn to the places that they stand for, merged ones too."""

    size, blocks, licence = (224, 224), "vit.model.layer", "Apache-2.0"

    def load(self) -> nn.Module:
        torch.manual_seed(0)
        return Pose()

    def read(self, model: Any, tokens: Any) -> Any:
        return model.head(tokens.x[:, 0])

    def joints(self, outputs: Any) -> Tensor:
        return outputs.unflatten(1, (JOINTS, 3))
