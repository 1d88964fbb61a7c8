"""Reader of AMASS: npz files of SMPL, SMPL-H or SMPL-X poses, in a world whose z axis points up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import roma
import torch

from compress.errors import BadInput
from hmr.checkpoints.safe_pickle import read_arrays
from hmr.motion.clip import MotionClip, clip_name, family_of

_WIDTHS = (72, 156, 165)  # SMPL, SMPL-H, SMPL-X: axis-angle, the first 22 joints are the same in all three
_BODY_JOINTS = 22
_RATES = ("mocap_framerate", "mocap_frame_rate")
_Y_UP = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # z up, facing -y -> y up, facing +z


def read_amass(path: Path) -> MotionClip:
    """Read one AMASS file; hands are left at rest in SMPL-H and SMPL-X poses, whose finger joints SMPL lacks.

    `trans` is where the body's origin is; the pelvis joint is close to it and is put there. Raises BadInput that names
    the file and the key that is wrong. Never unpickles.
    """
    path = Path(path)
    arrays = _arrays(path)
    poses, translation = arrays["poses"], arrays["trans"]
    if poses.ndim != 2 or poses.shape[1] not in _WIDTHS or len(poses) < 1:
        raise BadInput(
            f"{path}: key 'poses' has shape {poses.shape}, expected (frames, {' | '.join(map(str, _WIDTHS))})"
        )
    if translation.shape != (len(poses), 3):
        raise BadInput(f"{path}: key 'trans' has shape {translation.shape}, expected {(len(poses), 3)}")
    joints = 24 if poses.shape[1] == 72 else _BODY_JOINTS
    rotations = np.tile(np.eye(3), (len(poses), 24, 1, 1))
    axis_angle = torch.as_tensor(poses[:, : joints * 3].reshape(-1, joints, 3))
    rotations[:, :joints] = roma.rotvec_to_rotmat(axis_angle).numpy()
    rotations[:, 0] = _Y_UP @ rotations[:, 0]
    name = clip_name(path)
    return MotionClip(
        rotations=rotations.astype(np.float32),
        translation=(translation @ _Y_UP.T).astype(np.float32),
        fps=float(arrays["rate"]),
        name=name,
        family=family_of(name),
        source=f"AMASS {path.name}",
        licence="AMASS: non-commercial research, registration required",
    )


def betas_of(path: Path) -> np.ndarray:
    """The first ten shape numbers (10,) of an AMASS file, zero where it has fewer; raises BadInput as `read_amass`."""
    found = np.zeros(10, np.float32)
    stored = read_arrays(path, ("betas",))
    if "betas" in stored:
        some = _numbers(path, "betas", stored).ravel()[:10]
        found[: len(some)] = some
    return found


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """`poses`, `trans` and `rate` as finite float64."""
    stored = read_arrays(path, ("poses", "trans", *_RATES))
    rate = next((key for key in _RATES if key in stored), _RATES[0])
    return {name: _numbers(path, key, stored) for name, key in (("poses", "poses"), ("trans", "trans"), ("rate", rate))}


def _numbers(path: Path, key: str, stored: Mapping[str, Any]) -> np.ndarray:
    if key not in stored:
        raise BadInput(
            f"{path}: key '{key}' is missing; expected an AMASS file with poses, trans and {' or '.join(_RATES)}"
        )
    try:
        values = np.asarray(stored[key]).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{path}: key '{key}' does not hold plain numbers ({error})") from error
    if not np.isfinite(values).all() or (key in _RATES and (values.size != 1 or values.item() <= 0)):
        raise BadInput(f"{path}: key '{key}' must hold finite numbers, rates one above zero")
    return values.reshape(()) if key in _RATES else values
