"""What training does to pictures: another light, another camera, something in front; and masks as segmenters err."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

REACH = 0.04  # of the crop's height, by which a mask is grown, eroded or shifted at most


def augmented(images: Tensor) -> Tensor:
    """Pictures (B, H, W, 3) in 0..255 with other light, colour cast, noise, and a rectangle cut out, each its own."""
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


def blundered(masks: Tensor) -> Tensor:
    """Masks (B, H, W) bool as segmenters get them: grown or eroded by a random width, and shifted, each its own way.

    The width is one for the whole batch, so that this is two passes over it.
    """
    batch, height, width = masks.shape
    reach = max(1, round(REACH * height))
    by = int(torch.randint(1, reach + 1, ()))
    grown, eroded = dilated(masks, by), ~dilated(~masks, by)
    kind = torch.randint(0, 3, (batch, 1, 1), device=masks.device)
    masks = torch.where(kind == 0, masks, torch.where(kind == 1, grown, eroded))
    down, right = (torch.randint(-reach, reach + 1, (batch, 1), device=masks.device) for _ in range(2))
    rows = (torch.arange(height, device=masks.device) - down).clamp(0, height - 1)  # (B, H)
    columns = (torch.arange(width, device=masks.device) - right).clamp(0, width - 1)  # (B, W)
    masks = masks.gather(1, rows[:, :, None].expand(-1, -1, width))
    return masks.gather(2, columns[:, None].expand(-1, height, -1))


def dilated(masks: Tensor, by: int) -> Tensor:
    """Masks (B, H, W) bool, and all within `by` pixels of them along rows and columns. Counted by running sums: a
    pooling with so large a window takes longer than a small model's training step."""
    counts = masks.float()
    for axis in (1, 2):
        behind = F.pad(counts.movedim(axis, 2), (by + 1, by)).cumsum(2)
        counts = (behind[..., 2 * by + 1 :] - behind[..., : -2 * by - 1]).movedim(2, axis)
    return counts > 0
