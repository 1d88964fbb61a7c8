"""Training frames and their mirror images, whose labels change sides.

DINOv2 was trained on flipped pictures and knows left from right badly: a batch that holds both teaches the difference.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from hmr.body.model import JOINT_NAMES

OTHER = {"left": "right", "right": "left"}
SWAP = [JOINT_NAMES.index(re.sub("left|right", lambda side: OTHER[side[0]], name)) for name in JOINT_NAMES]
PART_SWAP = [0, *(joint + 1 for joint in SWAP)]  # 0 is background


def mirrored(frames: dict[str, Tensor]) -> dict[str, Tensor]:
    """Frames as a mirror at the crop's middle column shows them; twice gives the same frames.

    image (B, H, W, 3), mask (B, H, W), part (B, rows, columns), canonical (B, rows, columns, 3), rotations
    (B, 24, 3, 3), keypoints (B, 24, 2) and camera (B, 3) change; what else there is stays.
    """
    x = frames["rotations"].new_tensor([-1.0, 1.0, 1.0])
    changed = {
        "image": lambda image: image.flip(2),
        "mask": lambda mask: mask.flip(2),
        "part": lambda part: torch.tensor(PART_SWAP, device=part.device, dtype=part.dtype)[part.long()].flip(2),
        "canonical": lambda place: place.flip(2) * x,
        # a reflection M = diag(-1, 1, 1) turns a rotation R into M R M
        "rotations": lambda turn: turn[:, SWAP] * x[:, None] * x,
        "keypoints": lambda place: place[:, SWAP] * x[:2],
        "camera": lambda camera: camera * camera.new_tensor([1.0, -1.0, 1.0]),
    }
    return {name: changed[name](value) if name in changed else value for name, value in frames.items()}


def with_mirrors(frames: dict[str, Tensor]) -> dict[str, Tensor]:
    """B frames, then their mirror images: 2 B."""
    other = mirrored(frames)
    return {name: torch.cat((value, other[name])) for name, value in frames.items()}
