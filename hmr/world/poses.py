"""Poses that training sees: recorded ones and what lies between and beside them."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from hmr.body.model import JOINT_NAMES
from hmr.world.geometry import chain
from hmr.world.wardrobe import body

Array = NDArray[np.float32]
LIMBS = (  # joints of each leg, the trunk with the head, each arm
    (1, 4, 7, 10),
    (2, 5, 8, 11),
    (3, 6, 9, 12, 15),
    (13, 16, 18, 20, 22),
    (14, 17, 19, 21, 23),
)
J = {name: i for i, name in enumerate(JOINT_NAMES)}
LOWER = [J[f"{side}_{part}"] for side in ("left", "right") for part in ("hip", "knee", "ankle", "foot")]
# limbs that may not enter the trunk, the head or each other: pairs of joints and radius in m
OUTER = [
    *((J[f"{s}_elbow"], J[f"{s}_wrist"], 0.04) for s in ("left", "right")),
    *((J[f"{s}_wrist"], J[f"{s}_hand"], 0.035) for s in ("left", "right")),
    *((J[f"{s}_knee"], J[f"{s}_ankle"], 0.05) for s in ("left", "right")),
]
SOLID = [
    (J["pelvis"], J["spine2"], 0.10),
    (J["spine2"], J["neck"], 0.10),
    (J["head"], J["head"], 0.09),
    (J["left_hip"], J["left_knee"], 0.065),
    (J["right_hip"], J["right_knee"], 0.065),
]


def varied(rng: np.random.Generator, rotations: Array, another: Array, lower: Array) -> Array:
    """A training pose (24,3,3), or motion (T,24,3,3): between `rotations` and `another` frame of its recording, for at
    most half with the legs of `lower`, joints turned a little, the person tipped over, the same in all frames.

    A pose whose limbs enter the body is refused, and the recorded one taken instead.
    """
    weight = rng.uniform(0, 1) * (rng.random() < 0.3)
    out = slerped(rotations, another, weight) if weight else rotations.copy()
    if rng.random() < 0.5:
        out[..., LOWER, :, :] = lower[..., LOWER, :, :]
    out = out @ rotation_vectors(rng.normal(0, rng.choice([0.0, 0.05, 0.12, 0.2]), (24, 3)))
    if out.ndim == 3 and penetrates(out):
        out = rotations.copy()
    if rng.random() < 0.15:  # few recordings show people lie down
        axis = rng.normal(size=3) * (1, 0.3, 1)
        tip = axis / np.linalg.norm(axis) * rng.uniform(0, 0.6 * np.pi)
        out[..., 0, :, :] = rotation_vectors(tip[None])[0] @ out[..., 0, :, :]
    return np.ascontiguousarray(out, np.float32)


def slerped(start: Array, end: Array, weight: float) -> Array:
    """Rotations (..., 3, 3) on the shortest arc from `start` (weight 0) to `end` (1)."""
    turn = np.swapaxes(start, -1, -2) @ end
    cosine = np.clip((np.trace(turn, axis1=-2, axis2=-1) - 1) / 2, -1, 1)
    angle = np.arccos(cosine)
    skew = np.stack(
        [turn[..., 2, 1] - turn[..., 1, 2], turn[..., 0, 2] - turn[..., 2, 0], turn[..., 1, 0] - turn[..., 0, 1]], -1
    )
    length = np.linalg.norm(skew, axis=-1)
    clear = (length > 1e-4) & (angle < 3.0)  # a half turn has no shortest arc: it stays at `start`
    vectors = np.where(clear[..., None], skew / np.maximum(length, 1e-9)[..., None] * (angle * weight)[..., None], 0)
    return (start @ rotation_vectors(vectors.reshape(-1, 3)).reshape(start.shape)).astype(np.float32)


def rotation_vectors(vectors: NDArray[np.floating]) -> Array:
    """Rodrigues' formula, (N,3) rad -> (N,3,3); numpy, because roma's tensors cost more than the pose itself here."""
    angle = np.linalg.norm(vectors, axis=1)[:, None, None] + 1e-12
    x, y, z = (vectors / angle[:, 0]).T
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).reshape(-1, 3, 3)  # (N, 9) -> (N, 3, 3)
    return (np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross).astype(np.float32)


def penetrates(rotations: Array) -> bool:
    """Whether forearms, hands or shins of a pose (24,3,3) enter the trunk, the head, a thigh or each other."""
    naked = body()
    _, joints = chain(rotations, naked.joints, naked.parents)
    return bool(_touch(joints, naked.parents, _BONES, _RADII))


_BONES = np.array([pair[:2] for pair in (*OUTER, *SOLID)])
_RADII = np.array([pair[2] for pair in (*OUTER, *SOLID)], np.float32)


@numba.njit(cache=True)
def _touch(joints: Array, parents: NDArray[np.int64], bones: NDArray[np.int64], radii: Array) -> bool:
    """Whether one of the first six bones (joint, joint) comes nearer to another than their radii; bones that share a
    joint, as a shin and its thigh, may."""
    for i in range(6):
        a, b = bones[i]
        for j in range(i + 1, len(bones)):
            c, d = bones[j]
            if a in (c, d) or b in (c, d) or parents[a] == c:
                continue
            if gap(joints[a], joints[b], joints[c], joints[d]) < radii[i] + radii[j]:
                return True
    return False


@numba.njit(cache=True)
def gap(a: Array, b: Array, c: Array, d: Array) -> float:
    """Distance between the segments a-b and c-d (Ericson 2005, 5.1.9)."""
    u, v, w = b - a, d - c, a - c
    uu, vv, uv = (u * u).sum(), (v * v).sum(), (u * v).sum()
    uw, vw = (u * w).sum(), (v * w).sum()
    rest = uu * vv - uv * uv
    s = min(max((uv * vw - uw * vv) / rest, 0.0), 1.0) if rest > 1e-9 else 0.0
    t = (uv * s + vw) / vv if vv > 1e-9 else 0.0
    if t < 0.0 or t > 1.0 or vv <= 1e-9:
        t = min(max(t, 0.0), 1.0)
        s = min(max((t * uv - uw) / max(uu, 1e-9), 0.0), 1.0)
    away = w + s * u - t * v
    return np.sqrt((away * away).sum())
