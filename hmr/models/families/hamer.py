"""HaMeR (Pavlakos et al. 2024): HMR2.0's network for one hand, in MANO's 16 joints."""

from __future__ import annotations

from hmr.models.families.family import Box, Family
from hmr.models.head import SMPLHead

JOINTS = 16  # wrist and three of each finger


class MANOHead(SMPLHead):
    """SMPLHead for MANO: `global_orient` is the wrist, `body_pose` the fingers (B, 15, 3, 3)."""

    joints = JOINTS
    pose_buffer = "init_hand_pose"


FAMILY = Family(
    name="hamer",
    mark="mano_head.decpose.weight",
    licence="MIT",
    head=MANOHead,
    head_name="mano_head",
    token_dims=(1, 109),
    box=Box(factor=2.0),
)
