"""Which joints the evaluations of 3DPW and EMDB measure, from which pelvis, and on whose body.

Code bases differ, and by several millimetres: a table keeps to one convention. In all of them positions are linear in
the vertices of a posed body, the truth's body has the person's gender, and a prediction's body is the neutral one.
"""

from __future__ import annotations

import tokenize
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from compress.errors import BadInput
from hmr.body.files import body_arrays, load_body
from hmr.body.limbs import LIMBS, ROWS
from hmr.body.model import HAND_JOINT_NAMES, JOINT_NAMES, BodyModel, People, Positions
from hmr.checkpoints.safe_pickle import read_pickle
from hmr.home import fasthmr_home

J14: tuple[str, ...] = (
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "right_wrist", "right_elbow",
    "right_shoulder", "left_shoulder", "left_elbow", "left_wrist", "neck", "head",
)  # fmt: skip
NAMES = {len(names): names for names in (JOINT_NAMES, J14, HAND_JOINT_NAMES, LIMBS)}  # of joints, by how many there are
H36M_TO_J14 = (6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10)
J19_TO_J14 = (*range(13), 18)  # 4D-Humans' 44 joints are 25 of OpenPose and these 19: [25..37, 43]
BODIES = {"neutral": "smpl", "female": "smpl-female", "male": "smpl-male"}


@dataclass(frozen=True)
class JointRegressor:
    """A file of weights (R, V) that make positions of vertices; it comes with other people's code and not with ours."""

    file: str  # in $FASTHMR_HOME/regressors
    rows: int
    source: str


H36M = JointRegressor("J_regressor_h36m.npy", 17, "the body files of WHAM and the evaluation files of CameraHMR")
J19 = JointRegressor("SMPL_to_J19.pkl", 19, "the data that 4D-Humans downloads")


@dataclass(frozen=True)
class Convention:
    """Rows of a regressor's positions that are the joints, and those whose mean is the pelvis.

    The regressor is a file, or the `J_regressor` of the body: each body's "own", or the "neutral" one for all. Where it
    is "skeleton", positions are the 24 joints that a body is posed by, and any model's body has them.
    `landmarks`: the data set annotates the regressor's positions, and poses of unknown bodies.
    """

    name: str
    used_by: str
    rows: tuple[int, ...]
    pelvis: tuple[int, ...]
    regressor: JointRegressor | Literal["own", "neutral", "skeleton"]
    landmarks: bool = False

    def placed(self, positions: Tensor, vertices: Tensor | None) -> Positions:
        """Regressed positions (B, R, 3) -> joints from the pelvis."""
        pelvis = positions[:, list(self.pelvis)].mean(1)
        return Positions(positions[:, list(self.rows)] - pelvis[:, None], vertices, pelvis)


ALL24 = tuple(range(24))
CONVENTIONS = {
    one.name: one
    for one in (
        Convention("h36m14-hips", "WHAM and PromptHMR on 3DPW", H36M_TO_J14, (4, 1), H36M),
        Convention("h36m14-pelvis", "CameraHMR on 3DPW", H36M_TO_J14, (0,), H36M),
        Convention("j19-mpii", "4D-Humans and TokenHMR on 3DPW", J19_TO_J14, (14,), J19, landmarks=True),
        Convention("smpl24-hips", "WHAM and PromptHMR on EMDB", ALL24, (1, 2), "own"),
        Convention("smpl24-hips-neutral", "CameraHMR on EMDB", ALL24, (1, 2), "neutral"),
        Convention("limbs12-hips", "fasthmr on people by several cameras", ROWS, (1, 2), "skeleton", landmarks=True),
    )
}


class ConventionBody(BodyModel):
    """The neutral SMPL, whose errors are measured by a convention against people of their own gender.

    Raises BadInput where a body was not imported or the regressor is missing, with where it was looked for.
    """

    regressor: Tensor | None

    def __init__(self, convention: Convention) -> None:
        arrays, name = body_arrays(BODIES["neutral"])
        super().__init__(arrays, name=name)
        self.convention = convention
        others = () if convention.landmarks else ("female", "male")
        self.gendered = nn.ModuleDict({gender: load_body(BODIES[gender]) for gender in others})
        weights = read_regressor(convention.regressor) if isinstance(convention.regressor, JointRegressor) else None
        self.register_buffer("regressor", weights)

    @property
    def identity(self) -> dict[str, str]:
        bodies = {gender: cast(BodyModel, body).sha256 for gender, body in self.gendered.items()}
        return {**super().identity, **bodies}

    def positions(self, rotations: Tensor, betas: Tensor, people: People | None = None) -> Positions:
        """A prediction's on the neutral body; the truth's on the bodies of `people`, or at their landmarks."""
        if people is None:
            return self.convention.placed(*self.posed("neutral", rotations, betas))
        if people.landmarks is not None:
            return self.convention.placed(people.landmarks, None)
        order, parts = [], []
        for gender in sorted(set(people.genders)):  # three at most, and known without asking the device
            frames = [i for i, other in enumerate(people.genders) if other == gender]
            parts.append(self.posed(gender, rotations[frames], betas[frames]))
            order += frames
        back = torch.tensor(order, device=rotations.device).argsort()
        positions, vertices = (torch.cat(kind)[back] for kind in zip(*parts, strict=True))
        return self.convention.placed(positions, vertices)

    def joints_from_pelvis(self, rotations: Tensor, betas: Tensor, people: People | None = None) -> Tensor:
        return self.positions(rotations, betas, people).joints

    def posed(self, gender: str, rotations: Tensor, betas: Tensor) -> tuple[Tensor, Tensor]:
        """Regressed positions (B, R, 3) and vertices (B, V, 3) of people of one gender."""
        body = self if gender == "neutral" else cast(BodyModel, self.gendered[gender])
        vertices = body(rotations, betas).vertices
        own = body.J_regressor if self.convention.regressor == "own" else self.J_regressor
        return (own if self.regressor is None else self.regressor) @ vertices, vertices


def read_regressor(regressor: JointRegressor) -> Tensor:
    """Its weights (R, 6890). Raises BadInput with where the file was looked for and where it comes from."""
    path = fasthmr_home() / "regressors" / regressor.file
    if not path.is_file():
        raise BadInput(
            f"the joints of this data set need {regressor.file}: looked at {path}; it comes with {regressor.source}: "
            "copy it there"
        )
    found, shape = _weights(path), (regressor.rows, 6890)
    if not isinstance(found, np.ndarray) or found.dtype.kind != "f" or found.shape != shape:
        raise BadInput(f"{path}: not weights of shape {shape}, which {regressor.file} holds")
    if not (np.abs(found.sum(1) - 1) < 0.1).all():  # they were fitted to data: about one, and false for NaN
        raise BadInput(f"{path}: rows do not sum to one, so they give no positions")
    return torch.tensor(found, dtype=torch.float32)


def _weights(path: Path) -> object:
    if path.suffix == ".pkl":
        return read_pickle(path)
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, tokenize.TokenError) as error:
        raise BadInput(f"{path}: not an array of numbers ({error})") from error
