"""From BlazePose's landmarks to the joints of the body: where one network puts an elbow another body has a point of its
own. The offsets were measured on rendered bodies (`experiments/build/landmark_offsets.py`), never on real people.
"""

from __future__ import annotations

import json
from importlib.resources import files

import torch
from torch import Tensor

from hmr.body.limbs import LIMBS, bone_axes
from hmr.data.blazepose import NAMES

LIMB_LANDMARKS = [NAMES.index(name) for name in LIMBS]  # BlazePose's number of each joint
FILE = "landmark_offsets.json"
AXES = ("outward", "up", "forward", "bone_in", "bone_out")  # of `hmr.body.limbs.bone_axes`
KINDS = ("hip", "knee", "ankle", "shoulder", "elbow", "wrist")  # left and right are mirrored
ROUNDS = 20


def read_offsets() -> Tensor:
    """(12, 5): offset of each joint's landmark from the joint, in units of its bone axes."""
    found = json.loads(files("hmr.assets").joinpath(FILE).read_bytes())["offsets"]
    kinds = {kind: [found[kind][axis] for axis in AXES] for kind in KINDS}
    return torch.tensor([kinds[name.partition("_")[2]] for name in LIMBS], dtype=torch.float64)


def landmarks_of(joints: Tensor, offsets: Tensor) -> Tensor:
    """Where BlazePose has its landmarks (..., 12, 3) of a body with joints (..., 12, 3) m."""
    return joints + torch.einsum("ja,...jac->...jc", offsets, bone_axes(joints))


def joints_of(landmarks: Tensor, offsets: Tensor) -> Tensor:
    """The joints (..., 12, 3) m of a body whose landmarks are (..., 12, 3), by fixed-point iteration: axes of joints
    and of landmarks are nearly the same."""
    joints = landmarks
    for _ in range(ROUNDS):
        joints = joints - (landmarks_of(joints, offsets) - landmarks)
    return joints
