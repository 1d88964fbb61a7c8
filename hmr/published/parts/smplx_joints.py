"""The joints of SMPL-X (Pavlakos et al. 2019, "Expressive body capture"), from the file of its authors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from compress.errors import BadInput
from hmr.checkpoints.safe_pickle import read_arrays
from hmr.published.parts.weights import found

JOINTS = 55  # pelvis, 21 of the body, jaw, eyes, 15 of each hand
EXPRESSION = 10
SHAPES = 300  # directions of shape in the newer files, before those of expression


class SMPLXJoints(nn.Module):
    """Rotations (B, J, 3, 3) of the first joints, the others' at rest -> places of all (B, 55, 3) m. `betas`: how many
    directions of shape a network knows."""

    rest: Tensor  # (55, 3) m
    shape: Tensor  # (55, 3, betas + 10)

    def __init__(self, arrays: Mapping[str, np.ndarray], betas: int = 10) -> None:
        super().__init__()
        directions = np.asarray(arrays["shapedirs"], np.float64)
        first = SHAPES if directions.shape[2] >= SHAPES + EXPRESSION else 10  # of the expression
        kept = [*range(betas), *range(first, first + EXPRESSION)]
        regressor = np.asarray(arrays["J_regressor"], np.float64)[:JOINTS]
        for name, value in (
            ("rest", regressor @ arrays["v_template"]),
            ("shape", np.einsum("jv,vck->jck", regressor, directions[:, :, kept])),
        ):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32))
        self.parents = [int(parent) for parent in np.asarray(arrays["kintree_table"])[0, :JOINTS].astype(np.int32)]

    def forward(self, rotations: Tensor, betas: Tensor, expression: Tensor | None = None) -> Tensor:
        if expression is None:
            expression = betas.new_zeros(betas.shape[0], EXPRESSION)
        rest = self.rest + torch.einsum("jck,bk->bjc", self.shape, torch.cat((betas, expression), 1))
        turned, places = [rotations[:, 0]], [rest[:, 0]]
        for joint in range(1, JOINTS):
            parent = self.parents[joint]
            places.append(places[parent] + (turned[parent] @ (rest[:, joint] - rest[:, parent])[..., None])[..., 0])
            still = joint >= rotations.shape[1]
            turned.append(turned[parent] if still else turned[parent] @ rotations[:, joint])
        return torch.stack(places, 1)


def smplx_joints(name: str, betas: int = 10) -> SMPLXJoints:
    """The skeleton of a file of SMPL-X, of which nothing is run. Raises BadInput where there is none."""
    path = found(name, "https://smpl-x.is.tue.mpg.de", "smplx")
    arrays = read_arrays(path)
    lacking = [key for key in ("v_template", "shapedirs", "J_regressor", "kintree_table") if key not in arrays]
    if lacking or np.asarray(arrays["kintree_table"]).shape != (2, JOINTS):
        raise BadInput(f"{path}: no SMPL-X body: {', '.join(lacking) or 'its kintree_table is of another tree'}")
    return SMPLXJoints(arrays, betas)
