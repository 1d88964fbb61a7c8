"""Clips of motion that tests make, and what is true of every sound one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hmr.body.files import load_body
from hmr.body.model import JOINT_NAMES
from hmr.motion.clip import (
    MotionClip,
    resampled,
)
from hmr.motion.recordings import shipped_clips

J = {name: index for index, name in enumerate(JOINT_NAMES)}

LIMBS = [
    (f"{side}_{a}", f"{side}_{b}")
    for side in ("left", "right")
    for a, b in (("hip", "knee"), ("knee", "ankle"), ("shoulder", "elbow"), ("elbow", "wrist"))
]


def clip_of(rotations: np.ndarray, translation: np.ndarray | None = None, **fields) -> MotionClip:
    translation = np.zeros((len(rotations), 3)) if translation is None else translation
    known = {"fps": 30.0, "name": "made", "family": "made", "source": "", "licence": "", **fields}
    return MotionClip(rotations.astype(np.float32), translation.astype(np.float32), **known)


def joints_of(clip: MotionClip) -> np.ndarray:
    """Joints (T, 24, 3) m of the open body in the world."""
    with torch.no_grad():
        joints = load_body("open").skeleton(torch.tensor(clip.rotations), torch.zeros(len(clip), 10)).numpy()
    return joints - joints[:, :1] + clip.translation[:, None]


def angle(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    cosine = (first * second).sum(-1) / np.linalg.norm(first, axis=-1) / np.linalg.norm(second, axis=-1)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def shipped(name: str) -> MotionClip:
    """A shipped clip at 30 fps."""
    return next(resampled(clip) for clip in shipped_clips() if clip.name == f"humanoid3d_{name}")


def check_skeleton(clip: MotionClip) -> None:
    joints = joints_of(clip)
    for child, parent in ((4, 1), (7, 4), (10, 7), (18, 16), (20, 18), (12, 9), (15, 12)):
        lengths = np.linalg.norm(joints[:, child] - joints[:, parent], axis=-1)
        assert np.ptp(lengths) < 1e-4


def check_standing(joints: np.ndarray) -> None:
    feet, hips = joints[:, [J["left_ankle"], J["right_ankle"]]], joints[:, [J["left_hip"], J["right_hip"]]]
    assert len(joints) and (feet[..., 1].min(1) < hips[..., 1].min(1) - 0.3).all()
    apart = feet.mean(1) - hips.mean(1)
    assert np.linalg.norm(apart[:, [0, 2]].mean(0)) < 0.25
    assert np.median(np.linalg.norm(apart[:, [0, 2]], axis=1)) < 0.3


class Trap:
    def __reduce__(self):
        return pytest.fail, ("a pickle was opened",)


def edited(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def deepmimic_row(**parts: list[float]) -> list[float]:
    """One frame of DeepMimic's zero pose, standing and looking along +x, with some columns replaced."""
    row = (
        [1 / 30, 0, 0.9, 0]
        + [1, 0, 0, 0] * 4
        + [0]
        + [1, 0, 0, 0] * 2
        + [0]
        + [1, 0, 0, 0]
        + [0]
        + [1, 0, 0, 0] * 2
        + [0]
    )
    for column, values in parts.items():
        start = int(column.removeprefix("c"))
        row[start : start + len(values)] = values
    return row


def write_deepmimic(path: Path, rows: list[list[float]], loop: str = "wrap") -> Path:
    path.write_text(json.dumps({"Loop": loop, "Frames": rows}))
    return path
