"""From crops as pictures to crops as networks take them."""

from __future__ import annotations

import torch
from torch import Tensor

IMAGE_MEAN = (0.485, 0.456, 0.406)  # ImageNet, RGB in 0..1
IMAGE_STD = (0.229, 0.224, 0.225)


def normalised(images: Tensor) -> Tensor:
    """RGB (B, H, W, 3), uint8 or float in 0..255 -> ImageNet-normalised float (B, 3, H, W)."""
    mean = torch.tensor(IMAGE_MEAN, device=images.device) * 255
    std = torch.tensor(IMAGE_STD, device=images.device) * 255
    return ((images.float() - mean) / std).permute(0, 3, 1, 2)
