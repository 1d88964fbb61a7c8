"""HaMeR (Pavlakos et al. 2024): HMR2.0's network for one hand, in MANO's 16 joints."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from hmr.models.families.family import Box, Family
from hmr.models.head import HMROutput, SMPLHead

JOINTS = 16  # wrist and three of each finger


class MANOHead(SMPLHead):
    """SMPLHead for MANO: `global_orient` is the wrist, `body_pose` the fingers (B, 15, 3, 3)."""

    joints = JOINTS
    pose_buffer = "init_hand_pose"


def unmirrored(output: HMROutput, left: Tensor) -> HMROutput:
    """Outputs of pictures that were flipped because they show left hands, left (B,) bool, as those of left hands.

    A reflection in x turns a rotation R into MRM with M = diag(-1, 1, 1), and the camera's tx around. Pose a left MANO
    by them, or the right one and turn its x around.
    """
    mirror = torch.where(left[:, None], output.camera.new_tensor([-1.0, 1, 1]), 1.0)  # (B, 3)
    both = mirror[:, None, :, None] * mirror[:, None, None, :]  # (B, 1, 3, 3)
    sign = torch.where(left[:, None], output.camera.new_tensor([1.0, -1, 1]), 1.0)  # (B, 3) of (s, tx, ty)
    return replace(
        output,
        global_orient=output.global_orient * both,
        body_pose=output.body_pose * both,
        camera=output.camera * sign,
    )


FAMILY = Family(
    name="hamer",
    mark="mano_head.decpose.weight",
    licence="MIT",
    head=MANOHead,
    head_name="mano_head",
    token_dims=(1, 109),
    box=Box(factor=2.0),
)
