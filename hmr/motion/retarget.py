"""From the global bone rotations of another skeleton to SMPL's local joint rotations."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch

from hmr.body.files import load_body
from hmr.body.model import JOINT_NAMES, PARENTS
from hmr.motion.clip import MotionClip, clip_name, family_of, without_reference_pose

JOINT = {name: index for index, name in enumerate(JOINT_NAMES)}
SIDES = ("left", "right")
TRUNK = ("pelvis", "spine1", "spine2", "spine3", "neck", "head")
LIMBS = ("hip", "knee", "ankle", "foot", "collar", "shoulder", "elbow", "wrist", "hand")  # of each side
# The limb joints and the joint their bone leads to; the trunk keeps the pose of the source instead.
CHILD = {
    f"{side}_{joint}": f"{side}_{child}"
    for side in SIDES
    for joint, child in (("hip", "knee"), ("knee", "ankle"), ("shoulder", "elbow"), ("elbow", "wrist"))
}
# Legs bend about SMPL's x axis. Arms in the T-pose bend about y: the left one about -y, the right one about +y.
HINGE = {
    "hip": np.array([1.0, 0, 0]),
    "knee": np.array([1.0, 0, 0]),
    "shoulder": np.array([0.0, -1, 0]),
    "elbow": np.array([0.0, -1, 0]),
}


def bone_names(trunk: str, limbs: str, on_side: Callable[[str, str], str]) -> dict[str, str]:
    """By SMPL's joints, the bones of another skeleton: its words for TRUNK, and for LIMBS with their side."""
    named = dict(zip(TRUNK, trunk.split(), strict=True))
    sided = [(side, *pair) for side in SIDES for pair in zip(LIMBS, limbs.split(), strict=True)]
    return named | {f"{side}_{joint}": on_side(side, bone) for side, joint, bone in sided}


@cache
def rest_joints() -> np.ndarray:
    """Joints (24, 3) m of the open body in its zero pose: the skeleton that clips are fitted to."""
    with torch.no_grad():
        return load_body("open").skeleton(torch.eye(3).expand(1, 24, 3, 3), torch.zeros(1, 10))[0].double().numpy()


def rest_bone(joint: str) -> np.ndarray:
    """Unit direction (3,) from a limb joint of the resting body to the next one."""
    bone = rest_joints()[JOINT[CHILD[joint]]] - rest_joints()[JOINT[joint]]
    return bone / np.linalg.norm(bone)


def hinge(joint: str) -> np.ndarray:
    """The axis (3,) about which a limb joint's bones bend towards each other in SMPL's zero pose."""
    side, kind = joint.split("_")
    mirror = -1.0 if side == "right" and kind in ("shoulder", "elbow") else 1.0
    return HINGE[kind] * mirror


def axes(primary: np.ndarray, secondary: np.ndarray) -> np.ndarray:
    """Right-handed orthonormal axes as columns (3, 3): the first along `primary`, the second nearest to `secondary`."""
    first = primary / np.linalg.norm(primary)
    second = secondary - (secondary @ first) * first
    second = second / np.linalg.norm(second)
    return np.stack([first, second, np.cross(first, second)], -1)


def limb_alignment(joint: str, bone: np.ndarray, bend: np.ndarray) -> np.ndarray:
    """The rotation (3, 3) from SMPL's resting limb to a source bone of direction `bone` that bends about `bend`."""
    return axes(bone, bend) @ axes(rest_bone(joint), hinge(joint)).T


def local_rotations(globals_: np.ndarray) -> np.ndarray:
    """Rotations relative to the parent joint (T, 24, 3, 3) float32 from rotations in the world."""
    local = globals_.copy()
    parents = np.array(PARENTS[1:])
    local[:, 1:] = np.swapaxes(globals_[:, parents], -1, -2) @ globals_[:, 1:]
    return local.astype(np.float32)


def pelvis_path(root: np.ndarray, hips: np.ndarray) -> np.ndarray:
    """Where SMPL's pelvis joint is (T, 3) float32 when the middle of its hips is at `hips` (T, 3), in metres.

    `root` (T, 3, 3) is SMPL's global orientation.
    """
    rest = rest_joints()
    above = rest[JOINT["pelvis"]] - (rest[JOINT["left_hip"]] + rest[JOINT["right_hip"]]) / 2
    return (hips + root @ above).astype(np.float32)


def clip_of(path: Path, globals_: np.ndarray, hips: np.ndarray, fps: float, *, source: str, licence: str) -> MotionClip:
    """The clip of a file: rotations (T, 24, 3, 3) in the world, the middle of the hips (T, 3) in metres."""
    name = clip_name(path)
    rotations, translation = local_rotations(globals_), pelvis_path(globals_[:, 0], hips)
    clip = MotionClip(rotations, translation, fps, name, family_of(name), source=source, licence=licence)
    return without_reference_pose(clip)
