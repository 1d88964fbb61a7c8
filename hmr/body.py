"""SMPL-format bodies posed with plain arrays."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import roma
import torch
from smplx.lbs import lbs
from torch import Tensor, nn

JOINT_NAMES = (
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle", "right_ankle",
    "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head", "left_shoulder",
    "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hand", "right_hand",
)  # fmt: skip
PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
LEAF_VERTICES = (411, 2445, 5905, 3216, 6617)
LEAF_PARENTS = (15, 22, 23, 10, 11)


@dataclass(frozen=True)
class BodyOutput:
    vertices: Tensor
    joints: Tensor
    joints29: Tensor


class BodyModel(nn.Module):
    def __init__(self, arrays, name: str = "open", sha256: str = "") -> None:
        super().__init__()
        self.name, self.sha256 = name, sha256
        for key, value in dict(
            v_template=arrays["v_template"], shapedirs=arrays["shapedirs"], J_regressor=arrays["J_regressor"], lbs_weights=arrays["weights"]
        ).items():
            self.register_buffer(key, torch.tensor(np.asarray(value, np.float32)))
        self.register_buffer("posedirs", torch.zeros(207, self.v_template.numel()))
        self.register_buffer("parents", torch.tensor(PARENTS))
        self.register_buffer("faces", torch.tensor(arrays["f"].astype(np.int64)))

    def forward(self, rotations: Tensor, betas: Tensor) -> BodyOutput:
        if rotations.shape[-2:] != (3, 3):
            rotations = roma.rotvec_to_rotmat(rotations.reshape(len(betas), 24, 3))
        v, j = lbs(betas, rotations, self.v_template[None], self.shapedirs, self.posedirs, self.J_regressor, self.parents, self.lbs_weights, pose2rot=False)
        return BodyOutput(v, j, j)

    def skeleton(self, rotations: Tensor, betas: Tensor) -> Tensor:
        rest = self.J_regressor @ self.v_template + torch.einsum("jv,vkl,bl->bjk", self.J_regressor, self.shapedirs, betas)
        glob, place = [rotations[:, 0]], [rest[:, 0]]
        for j in range(1, 24):
            p = PARENTS[j]
            glob.append(glob[p] @ rotations[:, j])
            place.append((glob[p] @ (rest[:, j] - rest[:, p])[..., None])[..., 0] + place[p])
        return torch.stack(place, 1)


def load_body(name: str | Path = "open") -> BodyModel:
    with files("hmr").joinpath("assets", "open_body.npz").open("rb") as stream:
        return BodyModel(dict(np.load(stream)))
