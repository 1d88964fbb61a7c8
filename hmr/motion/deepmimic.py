"""Reader of the clips that DeepMimic (Peng et al. 2018) and pybullet ship: JSON, 44 numbers a frame."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import roma
import torch

from compress.errors import BadInput
from hmr.body.model import JOINT_NAMES
from hmr.motion.clip import MotionClip, clip_name, family_of, slerp

# A row: seconds to the next frame, root position, then these joints, quaternions w first, hinges as angles about z.
_QUATERNIONS = {
    "root": 4,
    "chest": 8,
    "neck": 12,
    "right_hip": 16,
    "right_ankle": 21,
    "right_shoulder": 25,
    "left_hip": 30,
    "left_ankle": 35,
    "left_shoulder": 39,
}
_HINGES = {"right_knee": 20, "right_elbow": 29, "left_knee": 34, "left_elbow": 43}
_COLUMNS = 44
_SMPL_NAMES = {"root": "pelvis", "chest": "spine2"}  # the other joints are called as SMPL's
# DeepMimic's humanoid looks along +x, SMPL's along +z.
_TO_SMPL = np.array([[0.0, 0, -1], [0, 1, 0], [1, 0, 0]])
# DeepMimic's arms hang in the zero pose, SMPL's are spread: this turns the spread arm down.
_ARM_DOWN = {
    "left": np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]),
    "right": np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]),
}


def read_deepmimic(path: Path, source: str = "DeepMimic", licence: str = "MIT") -> MotionClip:
    """Read one clip. Raises BadInput that names the file and the key or frame that is wrong."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: not a readable DeepMimic JSON file ({error})") from error
    if not isinstance(content, dict) or not content.get("Frames"):
        raise BadInput(f"{path}: key 'Frames' is missing or empty; expected a DeepMimic motion file")
    frames = _frames(Path(path), content["Frames"])
    name = clip_name(Path(path))
    durations, local = frames[:, 0], _local_rotations(frames)
    translation = frames[:, 1:4] @ _TO_SMPL.T
    fps, local, translation = _even(path, durations, local, translation)
    return MotionClip(
        rotations=local.astype(np.float32),
        translation=translation.astype(np.float32),
        fps=fps,
        name=name,
        family=family_of(name),
        source=source,
        licence=licence,
        cyclic=content.get("Loop") == "wrap",
    )


def _frames(path: Path, rows: object) -> np.ndarray:
    if not isinstance(rows, list):
        raise BadInput(f"{path}: key 'Frames' must be a list of rows of {_COLUMNS} numbers")
    for number, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != _COLUMNS:
            raise BadInput(f"{path}: key 'Frames', row {number}: expected {_COLUMNS} numbers")
    try:
        frames = np.array(rows, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{path}: key 'Frames' holds something that is not a number ({error})") from error
    if not np.isfinite(frames).all():
        raise BadInput(f"{path}: key 'Frames', row {np.argwhere(~np.isfinite(frames))[0, 0]}: not a finite number")
    return frames


def _source_rotation(path_frames: np.ndarray, joint: str) -> np.ndarray:
    if joint in _HINGES:
        angle = torch.as_tensor(path_frames[:, _HINGES[joint]])
        rotation = roma.rotvec_to_rotmat(angle[:, None] * torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    else:
        start = _QUATERNIONS[joint]
        quaternion = torch.as_tensor(path_frames[:, [start + 1, start + 2, start + 3, start]])
        rotation = roma.unitquat_to_rotmat(torch.nn.functional.normalize(quaternion, dim=-1))
    return _TO_SMPL @ rotation.numpy() @ _TO_SMPL.T


def _local_rotations(frames: np.ndarray) -> np.ndarray:
    local = np.tile(np.eye(3), (len(frames), 24, 1, 1))
    for joint in (*_QUATERNIONS, *_HINGES):
        rotation = _source_rotation(frames, joint)
        if joint.endswith("_shoulder"):
            rotation = rotation @ _ARM_DOWN[joint.split("_")[0]]
        if joint.endswith("_elbow"):
            down = _ARM_DOWN[joint.split("_")[0]]
            rotation = down.T @ rotation @ down
        local[:, JOINT_NAMES.index(_SMPL_NAMES.get(joint, joint))] = rotation
    return local


def _even(
    path: Path, durations: np.ndarray, local: np.ndarray, translation: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Frames at one rate. The last duration means nothing (files hold 0 there); a few files mix two durations."""
    steps = durations[:-1]
    if len(steps) == 0 or (steps <= 0).any():
        raise BadInput(f"{path}: key 'Frames', column 0: needs two frames or more, each but the last lasting above 0 s")
    step = float(np.median(steps))
    if np.allclose(steps, step, rtol=0.02):
        return _rate(step), local, translation
    times = np.concatenate([[0.0], np.cumsum(steps)])
    at = np.arange(int(times[-1] / step + 1e-6) + 1) * step
    low = np.clip(np.searchsorted(times, at, side="right") - 1, 0, len(times) - 2)
    part = np.clip((at - times[low]) / steps[low], 0, 1)
    moved = translation[low] + part[:, None] * (translation[low + 1] - translation[low])
    return _rate(step), slerp(local[low], local[low + 1], part[:, None]), moved


def _rate(step: float) -> float:
    """Frames per second; files round 1/60 s to five digits, so a whole number is meant where one is near."""
    whole = round(1 / step)
    return float(whole) if abs(whole * step - 1) < 1e-3 else 1 / step
