"""Person masks as segmenters get them wrong, for a student that is to bear with them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

REACH = 0.04  # of a mask's height, by which it is eroded or grown at most
HOLE = 0.3  # of its height and width, the largest rectangle that is missing


def mistaken(masks: Tensor, share: float) -> Tensor:
    """Masks (B, H, W), bool or 0 to 1, a random `share` of which are wrong, each in one of four ways: eroded, grown,
    the box around the person, or without a rectangle of it. The others are as they were."""
    told = masks.float()
    ways = torch.stack((eroded(told), grown(told), boxes(told), holed(told))).to(masks.dtype)  # (4, B, H, W)
    batch = torch.arange(len(masks), device=masks.device)
    wrong = ways[torch.randint(4, (len(masks),)).to(masks.device), batch]
    chosen = (torch.rand(len(masks)) < share).to(masks.device)
    return torch.where(chosen[:, None, None], wrong, masks)


def grown(masks: Tensor) -> Tensor:
    """Masks (B, H, W) of 0 to 1 grown by up to REACH of their height, all alike."""
    by = int(torch.randint(1, max(2, round(REACH * masks.shape[1]) + 1), ()))
    return F.max_pool2d(masks[:, None], 2 * by + 1, 1, by)[:, 0]


def eroded(masks: Tensor) -> Tensor:
    """Masks (B, H, W) of 0 to 1 without what lies within up to REACH of their height of an edge."""
    return 1 - grown(1 - masks)


def boxes(masks: Tensor) -> Tensor:
    """The smallest upright box around each of masks (B, H, W), all of it; nothing where a mask is empty."""
    sides = masks.amax(2, keepdim=True), masks.amax(1, keepdim=True)
    spans = (torch.minimum(s.cummax(i)[0], s.flip(i).cummax(i)[0].flip(i)) for i, s in enumerate(sides, 1))
    return torch.minimum(*spans)


def holed(masks: Tensor) -> Tensor:
    """Masks (B, H, W), each without a rectangle of up to HOLE of its sides whose middle is a pixel of the person."""
    count, height, width = masks.shape
    flat = masks.flatten(1)  # (B, H W)
    middle = torch.multinomial((flat + 1e-6).cpu(), 1).to(masks.device)  # (B, 1)
    inside = []
    for length, place in ((height, middle // width), (width, middle % width)):
        half = (HOLE / 2 * length * torch.rand(count, 1)).to(masks.device)
        inside.append((torch.arange(length, device=masks.device) - place).abs() <= half)  # (B, L)
    return masks * ~(inside[0][:, :, None] & inside[1][:, None, :])
