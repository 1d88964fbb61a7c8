"""SMPL rotations as 133 numbers per frame, and back by HybrIK's analytic inverse kinematics.

87 numbers are the 29 joints (24 of SMPL and five leaves) in metres from the pelvis, in the axes that the root rotation
leads to; 46 are (cos, sin) of how far each of the joints 1 to 23 twists about its bone. A joint's rotation is a swing,
the shortest turn from the resting bone to the posed one, after a twist about the resting bone; pelvis and spine3, which
have three children, turn as fits those best. Li et al., HybrIK (CVPR 2021); FastHMR (arXiv:2510.10868), Sec. 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from hmr.body.model import LEAF_PARENTS, PARENTS, BodyModel
from hmr.models.head import rotations_from_6d, sixd_from_rotations

Representation = Literal["hybrik", "6d"]  # 6d, two columns of each rotation, is what the paper's Tab. 7 compares with
JOINTS, TWISTS = 29, 23
WIDTH = 3 * JOINTS + 2 * TWISTS  # 133
WIDTHS: dict[Representation, int] = {"hybrik": WIDTH, "6d": 6 * len(PARENTS)}
_SMALLEST = 1e-8  # m; a shorter bone has no direction
_SQUARINGS = 14  # of a matrix: eigenvalues that differ by a thousandth are as e to the 16th then

_PARENTS29 = (*PARENTS, *LEAF_PARENTS)
_CHILDREN = [[child for child, parent in enumerate(_PARENTS29) if parent == joint] for joint in range(len(PARENTS))]
_TRUNK = 9  # spine3
_CHILD = [_CHILDREN[joint][0] for joint in range(1, len(PARENTS))]  # where the bone of joints 1 to 23 ends


def _groups() -> list[list[int]]:
    """Joints 1 to 23 in groups that are solved at once: those of one depth, spine3 by itself."""
    groups, above = [], [0]
    while level := [joint for joint, parent in enumerate(PARENTS) if parent in above]:
        groups.append([joint for joint in level if joint != _TRUNK])
        groups.extend([[_TRUNK]] if _TRUNK in level else [])
        above = level
    return groups


_GROUPS = _groups()


def numbers_of(rotations: Tensor, betas: Tensor, body: BodyModel, kind: Representation = "hybrik") -> Tensor:
    """Clips (B, F, 24, 3, 3) of bodies of betas (B, F, 10) -> (B, F, WIDTHS[kind])."""
    if kind == "6d":
        return sixd_from_rotations(rotations).flatten(2)
    return encode(rotations.flatten(0, 1), betas.flatten(0, 1), body).unflatten(0, rotations.shape[:2])


def rotations_of(numbers: Tensor, betas: Tensor, body: BodyModel, kind: Representation = "hybrik") -> Tensor:
    """Clips (B, F, WIDTHS[kind]) and betas (B, F, 10) -> (B, F, 24, 3, 3)."""
    if kind == "6d":
        return rotations_from_6d(numbers.unflatten(-1, (len(PARENTS), 6)))
    return decode(numbers.flatten(0, 1), betas.flatten(0, 1), body).unflatten(0, numbers.shape[:2])


def encode(rotations: Tensor, betas: Tensor, body: BodyModel) -> Tensor:
    """Local rotations (N, 24, 3, 3) and betas (N, 10) of `body` -> (N, 133).

    The twist of spine3 is (1, 0): its children determine it. Cosine and sine are read off the twist's
    matrix, so no angle is taken and none is lost near 0 or a half turn. Raises as BodyModel.
    """
    joints = body.skeleton29(rotations, betas)
    bone = _bones(body.rest_joints29(betas))
    local = rotations[:, 1:]
    twist = swing(bone, (local @ bone[..., None])[..., 0]).mT @ local  # (N, 23, 3, 3)
    cosine = (twist.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    sine = (_axial(twist) * bone).sum(-1) / 2
    angles = torch.stack((cosine, sine), -1)  # (N, 23, 2)
    angles[:, _TRUNK - 1, 0], angles[:, _TRUNK - 1, 1] = 1.0, 0.0
    return torch.cat(((joints - joints[:, :1]).flatten(1), angles.flatten(1)), 1)


def decode(numbers: Tensor, betas: Tensor, body: BodyModel) -> Tensor:
    """(N, 133) and betas (N, 10) of `body` -> local rotations (N, 24, 3, 3), finite and proper for all finite numbers.

    Each bone points from where the rotations found so far put its joint (HybrIK's adaptive solution), so that joints no
    body of these betas can reach are missed by the last bone alone and errors do not add up along a limb. What has no
    direction, a bone of length 0 or a twist of (0, 0), is not turned. Differentiable.
    """
    joints = numbers[:, : 3 * JOINTS].unflatten(1, (JOINTS, 3))
    twists = numbers[:, 3 * JOINTS :].unflatten(1, (TWISTS, 2))
    rest = body.rest_joints29(betas)
    bone, offset = _bones(rest), rest - _at(rest, [max(parent, 0) for parent in _PARENTS29])
    still = torch.zeros_like(twists)
    still[..., 0] = 1.0
    twist = _about(bone, _unit(twists, still))
    hips = _CHILDREN[0]
    place, world = {0: joints[:, 0]}, {0: _fitted(_at(offset, hips), _at(joints, hips) - joints[:, :1])}
    local = {0: world[0]}
    for group in _GROUPS:
        parents = [PARENTS[joint] for joint in group]
        above = torch.stack([world[parent] for parent in parents], 1)  # (N, n, 3, 3)
        here = torch.stack([place[parent] for parent in parents], 1) + _turned(above, _at(offset, group))
        if group == [_TRUNK]:
            ends = _at(joints, _CHILDREN[_TRUNK]) - here  # (N, 3, 3)
            found = _fitted(_at(offset, _CHILDREN[_TRUNK]), _turned(above.mT, ends))[:, None]
        else:
            which = [joint - 1 for joint in group]
            end = _turned(above.mT, _at(joints, [_CHILD[i] for i in which]) - here)
            found = swing(_at(bone, which), _unit(end, _at(bone, which))) @ _at(twist, which)
        new = above @ found
        for i, joint in enumerate(group):
            place[joint], world[joint], local[joint] = here[:, i], new[:, i], found[:, i]
    return torch.stack([local[joint] for joint in range(len(PARENTS))], 1)


def _at(values: Tensor, joints: Sequence[int]) -> Tensor:
    """Values (N, J, ...) of some joints (N, n, ...). A list would be copied to the device at every call."""
    return values.index_select(1, _places(tuple(joints), values.device))


@cache
def _places(joints: tuple[int, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # what is made in that mode is of no use to a training
        return torch.tensor(joints, device=device)


def _identity(like: Tensor) -> Tensor:
    """(3, 3), made on the device of `like`."""
    return torch.eye(3, device=like.device, dtype=like.dtype)


def swing(start: Tensor, end: Tensor) -> Tensor:
    """The shortest turn (..., 3, 3) from unit vectors `start` (..., 3) to `end`; of opposite ones, one of the shortest.

    c I + [v]x + v v^T / (1 + c) with v = start x end and c = start . end, where 1 + c = |start + end|^2 / 2 keeps its
    digits near opposite vectors.
    """
    half = start + end
    cross, scale = torch.linalg.cross(start, half, dim=-1), half.square().sum(-1)[..., None, None] / 2
    outer = cross[..., :, None] * cross[..., None, :] / scale.clamp_min(_SMALLEST)
    shortest = (scale - 1) * _identity(start) + _skew(cross) + outer
    across = torch.linalg.cross(start, _identity(start)[start.abs().argmin(-1)], dim=-1)
    across = across / across.norm(dim=-1, keepdim=True).clamp_min(_SMALLEST)
    opposite = 2 * across[..., :, None] * across[..., None, :] - _identity(start)
    return torch.where(scale > _SMALLEST, shortest, opposite)


def _about(axis: Tensor, angle: Tensor) -> Tensor:
    """Turns (..., 3, 3) about unit axes (..., 3) by the angles whose (cos, sin) are given (..., 2)."""
    cosine, sine = angle[..., :1, None], angle[..., 1:, None]
    outer = axis[..., :, None] * axis[..., None, :]
    return cosine * _identity(axis) + sine * _skew(axis) + (1 - cosine) * outer


def _fitted(rest: Tensor, posed: Tensor) -> Tensor:
    """Rotations (N, 3, 3) that bring vectors (N, 3, 3), one in a row, nearest to others: orthogonal Procrustes."""
    return nearest_rotation(posed.mT @ rest)


def nearest_rotation(matrix: Tensor) -> Tensor:
    """The rotations (..., 3, 3) R of the largest trace of R^T M for matrices M (..., 3, 3).

    The quaternion is the eigenvector of the largest eigenvalue of a symmetric 4 x 4 matrix (Horn, Closed-form solution
    of absolute orientation using unit quaternions, 1987), which squaring that matrix finds. NOTE: no SVD, which
    exporters do not know and for which CUDA waits.
    """
    matrix = matrix / matrix.abs().amax((-2, -1), True).clamp_min(_SMALLEST**2)
    trace, axial = matrix.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None], _axial(matrix)[..., None]  # (..., 3, 1)
    inner = matrix + matrix.mT - trace * _identity(matrix)
    power = torch.cat((torch.cat((trace, axial.mT), -1), torch.cat((axial, inner), -1)), -2)  # (..., 4, 4)
    most = (3 * matrix.square().sum((-2, -1), True).clamp_min(_SMALLEST**2)).sqrt()  # no eigenvalue is further from 0
    power = power + most * torch.eye(4, device=matrix.device, dtype=matrix.dtype)
    for _ in range(_SQUARINGS):
        power = power / power.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        power = power @ power
    longest = power.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None]
    quaternion = power.gather(-1, longest.expand(*longest.shape[:-2], 4, 1))[..., 0]  # (..., 4), real part first
    quaternion = quaternion / quaternion.norm(dim=-1, keepdim=True)
    real, others = quaternion[..., :1, None], quaternion[..., 1:]
    outer = others[..., :, None] * others[..., None, :]
    return (2 * real.square() - 1) * _identity(real) + 2 * (outer + real * _skew(others))


def _bones(rest: Tensor) -> Tensor:
    """Unit directions (N, 23, 3) of the bones of joints 1 to 23 in the zero pose (N, 29, 3)."""
    bone = _at(rest, _CHILD) - rest[:, 1 : len(PARENTS)]
    return bone / bone.norm(dim=-1, keepdim=True)


def _unit(vector: Tensor, otherwise: Tensor) -> Tensor:
    """Vectors (..., n) at length 1; `otherwise` where they have none."""
    length = vector.square().sum(-1, keepdim=True).clamp_min(_SMALLEST**2).sqrt()
    return torch.where(length > _SMALLEST, vector / length, otherwise)


def _turned(rotation: Tensor, vector: Tensor) -> Tensor:
    """Vectors (..., 3), each by its rotation (..., 3, 3)."""
    return (rotation @ vector[..., None])[..., 0]


def _skew(vector: Tensor) -> Tensor:
    """(..., 3) -> (..., 3, 3), the matrix of the cross product with it."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).unflatten(-1, (3, 3))


def _axial(matrix: Tensor) -> Tensor:
    """(..., 3, 3) -> (..., 3), of a turn its axis times twice the sine of its angle."""
    return torch.stack([matrix[..., i - 1, i - 2] - matrix[..., i - 2, i - 1] for i in range(3)], -1)
