"""The twelve joints of arms and legs, which nearly every skeleton has, and the trunk that follows from them.

Points are (..., 12, 3) in the order of LIMBS, in metres and in any axes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from hmr.body.model import JOINT_NAMES

LIMBS = (
    "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
    "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
)  # fmt: skip
ROWS = tuple(JOINT_NAMES.index(name) for name in LIMBS)  # of the body's 24 joints
HIPS, SHOULDERS = (0, 1), (6, 7)
BONES = (HIPS, SHOULDERS, (0, 6), (1, 7), *((i - 2, i) for i in range(12) if i % 6 > 1))  # and the sides of the trunk


def trunk(joints: Tensor) -> Tensor:
    """Axes of the trunk (..., 3, 3), of hips and shoulders alone: its columns point to the person's left, up from
    between the hips to between the shoulders, and forward."""
    left_hip, right_hip, left_shoulder, right_shoulder = (joints[..., i, :] for i in (*HIPS, *SHOULDERS))
    up = normalize(left_shoulder + right_shoulder - left_hip - right_hip, dim=-1)
    across = left_hip - right_hip + left_shoulder - right_shoulder
    left = normalize(across - (across * up).sum(-1, keepdim=True) * up, dim=-1)
    return torch.stack([left, up, torch.linalg.cross(left, up)], -1)


def bone_axes(joints: Tensor) -> Tensor:
    """Five vectors (..., 12, 5, 3) that move and grow with each joint's bones: out to its own side, up and forward with
    the trunk, as long as the trunk and only at hips and shoulders; the bone that ends at the joint, from its start; the
    bone that starts there. 0 for what a joint does not have."""
    frame = trunk(joints).mT  # (..., 3, 3): left, up, forward
    middles = [joints[..., list(pair), :].mean(-2) for pair in (SHOULDERS, HIPS)]
    frame = frame * (middles[0] - middles[1]).norm(dim=-1)[..., None, None]
    rows = []
    for i in range(len(LIMBS)):
        place, root = i % 6, i - i % 6  # hip, hip, knee, knee, ankle, ankle; then the arms alike
        side = frame.new_tensor([1 - 2 * (i % 2), 1, 1])[:, None] * (place < 2)
        into = joints[..., i, :] - joints[..., i - 2, :] if place > 1 else torch.zeros_like(joints[..., i, :])
        out = joints[..., i + 2, :] - joints[..., i, :] if i + 2 < root + 6 else torch.zeros_like(into)
        rows.append(torch.cat([frame * side, torch.stack([into, out], -2)], -2))
    return torch.stack(rows, -3)
