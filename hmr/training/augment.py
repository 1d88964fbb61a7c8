"""What training does to pictures: another light, another camera, something in front."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def augmented(images: Tensor) -> Tensor:
    """Pictures (B, H, W, 3) in 0..255 with other light, colour cast, noise, and a rectangle cut out, each its own.

    No mirroring: clothes, faces and a watch are what tells left from right.
    """
    batch, device = len(images), images.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(batch, *shape, device=device).uniform_(low, high)

    mean = images.mean((1, 2, 3), keepdim=True)
    images = (images - mean) * uniform(0.85, 1.15, 1, 1, 1) + mean  # contrast
    images = images * uniform(0.85, 1.15, 1, 1, 1) * uniform(0.95, 1.05, 1, 1, 3)  # light and its colour
    noise = torch.randn_like(images)
    hole = rectangles(images.shape[1], images.shape[2], uniform)
    images = torch.where(hole, uniform(0, 255, 1, 1, 3) + noise * uniform(0, 60, 1, 1, 1), images)
    return (images + noise * uniform(0, 8, 1, 1, 1)).clamp(0, 255)


def rectangles(height: int, width: int, uniform: Callable[..., Tensor]) -> Tensor:
    """(B, H, W, 1) bool: in a third of the pictures, one rectangle of up to a third of each side."""
    inside = []
    for length in (height, width):
        places = (torch.arange(length) + 0.5) / length  # (L,)
        centre, half = uniform(0, 1, 1), uniform(0.03, 0.17, 1)  # (B, 1)
        inside.append((places.to(centre.device) - centre).abs() < half)  # (B, L)
    shown = uniform(0, 1, 1, 1) < 1 / 3
    return (inside[0][:, :, None] & inside[1][:, None, :] & shown)[..., None]
