"""SMPL-format bodies as plain arrays: posing and the kinematic chain.

A body is six arrays in SMPL's names and layout (`v_template`, `shapedirs`, `weights`, `J_regressor`, `kintree_table`,
`f`) plus `posedirs` where they are not zero. Metres, y up, zero pose a T-pose facing +z. MANO's hands are in the same
format (Romero et al. 2017, "Embodied Hands"): 16 joints, of which the wrist is the root, and a flat hand as zero pose.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import roma
import torch
from torch import Tensor, nn

from compress.errors import BadInput

JOINT_NAMES: tuple[str, ...] = (
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle", "right_ankle",
    "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head", "left_shoulder",
    "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hand", "right_hand",
)  # fmt: skip
PARENTS: tuple[int, ...] = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
LEAF_VERTICES: tuple[int, ...] = (411, 2445, 5905, 3216, 6617)  # head top, left hand, right hand, left foot, right foot
LEAF_PARENTS: tuple[int, ...] = (15, 22, 23, 10, 11)

HAND_JOINT_NAMES: tuple[str, ...] = (
    "wrist", *(f"{finger}{i}" for finger in ("index", "middle", "pinky", "ring", "thumb") for i in (1, 2, 3))
)  # fmt: skip
HAND_PARENTS: tuple[int, ...] = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)


@dataclass(frozen=True)
class BodyLayout:
    """What the files of one body model hold, and where its authors give them out."""

    name: str
    vertices: int
    joints: tuple[str, ...]
    parents: tuple[int, ...]
    register_at: str
    leaf_vertices: tuple[int, ...] = ()
    leaf_parents: tuple[int, ...] = ()


SMPL = BodyLayout("SMPL", 6890, JOINT_NAMES, PARENTS, "https://smpl.is.tue.mpg.de", LEAF_VERTICES, LEAF_PARENTS)
MANO = BodyLayout("MANO", 778, HAND_JOINT_NAMES, HAND_PARENTS, "https://mano.is.tue.mpg.de")

BETAS = 10


class BodyOutput(NamedTuple):
    """A posed batch, in metres: vertices (B, V, 3), joints (B, 24, 3), joints29 (B, 29, 3) = joints + five leaves.

    Of a hand, both are (B, 16, 3): it has no leaves."""

    vertices: Tensor
    joints: Tensor
    joints29: Tensor


class People(NamedTuple):
    """Whom a batch shows, for a truth that is not posed on one body alone: see `hmr.body.conventions`."""

    genders: tuple[str, ...]  # of each frame: neutral, female or male
    landmarks: Tensor | None = None  # (B, R, 3) m, in the place of poses where a data set annotates positions


class Positions(NamedTuple):
    """What errors are measured on, in metres: joints (B, J, 3) from the pelvis; vertices (B, V, 3), None where nobody
    knows them, and the pelvis (B, 3), both as posed."""

    joints: Tensor
    vertices: Tensor | None
    pelvis: Tensor


class BodyModel(nn.Module):
    """Linear blend skinning of one SMPL-format body (Loper et al. 2015, "SMPL"), on plain arrays of any vertex count.

    Shapes are written for SMPL's 24 joints; a hand has 16, and 135 pose directions.
    Buffers: v_template (V, 3), shapedirs (V, 3, 10), posedirs (207, V*3) or None where zero, J_regressor (24, V),
    lbs_weights (V, 24), parents (24,), faces (F, 3) int64. Attributes: `name`, `layout`,
    `sha256` (of the arrays, see `digest`).
    """

    v_template: Tensor
    shapedirs: Tensor
    posedirs: Tensor | None
    J_regressor: Tensor
    lbs_weights: Tensor
    parents: Tensor
    faces: Tensor
    rest_template: Tensor
    rest_shapedirs: Tensor
    leaf_parents: Tensor
    leaf_vertices: Tensor
    joint_slots: Tensor

    def __init__(self, arrays: Mapping[str, np.ndarray], *, name: str = "open") -> None:
        super().__init__()
        self.name = name
        self.sha256 = digest(arrays)
        self.layout = layout_of(arrays)
        levels = _tree_levels(self.layout.parents)
        order = [0, *(joint for children, _, _ in levels for joint in children)]
        self.depth = len(levels)
        indices: dict[str, Any] = {f"level{i}": level for i, level in enumerate(levels)}
        indices |= {"joint_slots": np.argsort(order), "leaf_vertices": self.layout.leaf_vertices}
        for key, places in indices.items():  # on the body's device: a list would be copied there on every call
            self.register_buffer(key, torch.tensor(places, dtype=torch.long), persistent=False)
        regressor = arrays["J_regressor"].astype(np.float64)
        rest_shapedirs = np.einsum("jv,vck->jck", regressor, arrays["shapedirs"].astype(np.float64))
        floats = {
            "v_template": arrays["v_template"],
            "shapedirs": arrays["shapedirs"],
            "J_regressor": regressor,
            "lbs_weights": arrays["weights"],
            # the regressor is linear, so resting joints need no vertices
            "rest_template": regressor @ arrays["v_template"],
            "rest_shapedirs": rest_shapedirs,
        }
        for key, value in floats.items():
            self.register_buffer(key, torch.tensor(value, dtype=torch.float32))
        posedirs = _posedirs(arrays)
        self.register_buffer("posedirs", None if posedirs is None else torch.tensor(posedirs, dtype=torch.float32))
        self.register_buffer("parents", torch.tensor(self.layout.parents))
        leaf_parents = torch.tensor(self.layout.leaf_parents, dtype=torch.long)  # which none would not be by itself
        self.register_buffer("leaf_parents", leaf_parents, persistent=False)
        self.register_buffer("faces", torch.tensor(arrays["f"].astype(np.int64)))

    def forward(self, rotations: Tensor, betas: Tensor) -> BodyOutput:
        """Pose the body.

        rotations: local rotations, matrices (B, 24, 3, 3) or axis-angle in radians (B, 24, 3) or (B, 72).
        betas: (B, 10) or (1, 10), in standard deviations. Returns metres; the pelvis stays where the shape puts it.
        Leaves are vertices of the *resting* shape moved rigidly with their parent joint (HybrIK's convention).

        Raises: BadInput for any other shape.
        """
        matrices, betas = _pose(rotations, betas, len(self.parents))
        shaped, rest = self.v_template + offsets(self.shapedirs, betas), self.rest_joints(betas)
        joints, turned = self._chain(matrices, rest)  # (B, 24, 3), (B, 24, 3, 3)
        shift = joints - _turn(turned, rest)  # what each joint adds to a point that it turns
        parents = self.leaf_parents
        leaves = _turn(turned[:, parents], shaped[:, self.leaf_vertices]) + shift[:, parents]
        if self.posedirs is not None:
            bend = (matrices[:, 1:] - torch.eye(3, device=matrices.device, dtype=matrices.dtype)).flatten(1)
            shaped = shaped + (bend @ self.posedirs).view_as(shaped)
        blended = (self.lbs_weights @ turned.flatten(2)).unflatten(2, (3, 3))  # (B, V, 3, 3)
        vertices = _turn(blended, shaped) + self.lbs_weights @ shift
        return BodyOutput(vertices, joints, torch.cat([joints, leaves], dim=1))

    def skeleton(self, rotations: Tensor, betas: Tensor) -> Tensor:
        """Joints (B, 24, 3) in metres, equal to `forward(...).joints`, from the kinematic chain alone: one matrix
        product per level of the tree (nine), whatever the batch. Same arguments and errors as `forward`."""
        matrices, betas = _pose(rotations, betas, len(self.parents))
        return self._chain(matrices, self.rest_joints(betas))[0]

    def chain(self, rotations: Tensor, betas: Tensor) -> tuple[Tensor, Tensor]:
        """Joints (B, 24, 3) in metres, and how each turns what hangs on it (B, 24, 3, 3). Arguments as `forward`."""
        matrices, betas = _pose(rotations, betas, len(self.parents))
        return self._chain(matrices, self.rest_joints(betas))

    def skeleton29(self, rotations: Tensor, betas: Tensor) -> Tensor:
        """Joints and leaves (B, 29, 3) in metres, equal to `forward(...).joints29`, without the other vertices."""
        matrices, betas = _pose(rotations, betas, len(self.parents))
        rest, count, parents = self.rest_joints29(betas), len(self.parents), self.leaf_parents
        joints, turned = self._chain(matrices, rest[:, :count])
        offset = (rest[:, count:] - rest[:, parents]).unsqueeze(-1)
        leaves = joints[:, parents] + (turned[:, parents] @ offset).squeeze(-1)
        return torch.cat([joints, leaves], dim=1)

    def positions(self, rotations: Tensor, betas: Tensor, people: People | None = None) -> Positions:
        """What errors are measured on: here the 24 joints, from the first one. Arguments and errors as `forward`.

        `people` are whom the truth is about, and None where this is a prediction; on this body all are alike.
        """
        posed = self(rotations, betas)
        return Positions(posed.joints - posed.joints[:, :1], posed.vertices, posed.joints[:, 0])

    def joints_from_pelvis(self, rotations: Tensor, betas: Tensor, people: People | None = None) -> Tensor:
        """The joints (B, J, 3) of `positions` alone, which costs less."""
        joints = self.skeleton(rotations, betas)
        return joints - joints[:, :1]

    @property
    def identity(self) -> dict[str, str]:
        """The identity of this body, for reports."""
        return {"name": self.name, "sha256": self.sha256}

    def rest_joints(self, betas: Tensor) -> Tensor:
        """Joints (B, 24, 3) of the zero pose in metres, for betas (B, 10)."""
        return self.rest_template + offsets(self.rest_shapedirs, betas)

    def rest_joints29(self, betas: Tensor) -> Tensor:
        """Joints and leaves (B, 29, 3) of the zero pose in metres, for betas (B, 10)."""
        leaves = self.v_template[self.leaf_vertices] + offsets(self.shapedirs[self.leaf_vertices], betas)
        return torch.cat([self.rest_joints(betas), leaves], dim=1)

    def _chain(self, matrices: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        """Joints (B, 24, 3) m and their rotations in the world (B, 24, 3, 3), of local ones on resting joints."""
        rotation, position = matrices[:, :1], rest[:, :1]
        positions, rotations = [position], [rotation]
        for i in range(self.depth):
            children, parents, slots = self.get_buffer(f"level{i}")  # (3, joints of this level)
            offset = (rest[:, children] - rest[:, parents]).unsqueeze(-1)
            position = position[:, slots] + (rotation[:, slots] @ offset).squeeze(-1)
            rotation = rotation[:, slots] @ matrices[:, children]
            positions.append(position)
            rotations.append(rotation)
        return torch.cat(positions, dim=1)[:, self.joint_slots], torch.cat(rotations, dim=1)[:, self.joint_slots]


def _tree_levels(tree: Sequence[int]) -> list[tuple[list[int], list[int], list[int]]]:
    """Per depth below the root of a tree of parents: joints, their parents, and each parent's place in the level
    above."""
    levels, above = [], [0]
    while children := [joint for joint, parent in enumerate(tree) if parent in above]:
        parents = [tree[joint] for joint in children]
        levels.append((children, parents, [above.index(parent) for parent in parents]))
        above = children
    return levels


def _pose(rotations: Tensor, betas: Tensor, joints: int) -> tuple[Tensor, Tensor]:
    """Matrices (B, joints, 3, 3) and betas (B, 10) from whatever `BodyModel` accepts."""
    if rotations.ndim == 2 and rotations.shape[1] == 3 * joints:
        rotations = rotations.unflatten(1, (joints, 3))
    if rotations.shape[1:] == (joints, 3):
        rotations = roma.rotvec_to_rotmat(rotations)
    if rotations.shape[1:] != (joints, 3, 3):
        shape, flat = tuple(rotations.shape), 3 * joints
        raise BadInput(f"body: rotations have shape {shape}; give (B, {joints}, 3, 3), (B, {joints}, 3) or (B, {flat})")
    # no `len`, which is a number to a tracer, nor a set, which hashes: both would fix the batch of an exported model
    batch = rotations.shape[0]
    if betas.shape not in ((batch, BETAS), (1, BETAS)):
        raise BadInput(f"body: betas have shape {tuple(betas.shape)}; give ({batch}, 10) or (1, 10)")
    return rotations, betas.expand(batch, BETAS)


def offsets(directions: Tensor, betas: Tensor) -> Tensor:
    """How betas (B, 10) move points along their directions (N, 3, 10): (B, N, 3)."""
    return torch.einsum("nkl,bl->bnk", directions, betas)


def _turn(rotations: Tensor, points: Tensor) -> Tensor:
    """Points (B, N, 3), each turned by its own matrix (B, N, 3, 3)."""
    return (rotations @ points.unsqueeze(-1)).squeeze(-1)


def _posedirs(arrays: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """SMPL's (V, 3, 207) as (207, V*3); None where there is nothing to add."""
    posedirs = arrays.get("posedirs")
    if posedirs is None or not posedirs.any():
        return None
    return posedirs.reshape(-1, posedirs.shape[-1]).T


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """sha256 over names, shapes and values: the body's identity, whatever a file's number types and compression."""
    total = hashlib.sha256()
    for key in sorted(set(arrays) - {"sha256"}):
        value = arrays[key].astype("<i8" if arrays[key].dtype.kind in "iu" else "<f4")
        total.update(f"{key} {value.shape}\n".encode())
        total.update(value.tobytes())
    return total.hexdigest()


def layout_of(arrays: Mapping[str, object]) -> BodyLayout:
    """MANO where the tree of joints is a hand's, else SMPL."""
    return MANO if getattr(arrays.get("kintree_table"), "shape", None) == (2, len(MANO.parents)) else SMPL
