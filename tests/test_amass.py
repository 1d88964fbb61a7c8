"""AMASS: turned upright, the pose as it is; what is wrong is named, and nothing of a file runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from compress.errors import BadInput
from hmr.motion.recordings import read_clip
from tests.motion_clips import (
    Trap,
)


def amass_arrays(width: int = 156, rate: str = "mocap_framerate", frames: int = 4) -> dict[str, Any]:
    poses = np.random.default_rng(4).normal(0, 0.3, (frames, width))
    poses[:, :3] = [np.pi / 2, 0, 0]  # upright in a z-up world
    return {
        "poses": poses,
        "trans": np.tile([1.0, 2.0, 0.9], (frames, 1)),
        "betas": np.zeros(16),
        "gender": np.array("neutral"),
        rate: np.array(120.0),
    }


@pytest.mark.parametrize(
    ("width", "rate"), [(156, "mocap_framerate"), (165, "mocap_frame_rate"), (72, "mocap_framerate")]
)
def test_amass_is_turned_upright_and_keeps_its_body_pose(tmp_path, width, rate):
    arrays = amass_arrays(width, rate)
    np.savez(tmp_path / "Dance_03_poses.npz", **arrays)
    clip = read_clip(tmp_path / "Dance_03_poses.npz")
    assert (clip.fps, clip.name, clip.family) == (120.0, "Dance_03", "Dance")
    assert np.allclose(clip.rotations[:, 0], np.eye(3), atol=1e-6)
    assert np.allclose(clip.translation, [1, 0.9, -2])
    expected = Rotation.from_rotvec(arrays["poses"][:, 3:66].reshape(-1, 3)).as_matrix().reshape(-1, 21, 3, 3)
    assert np.allclose(clip.rotations[:, 1:22], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"poses": None}, "'poses' is missing"),
        ({"trans": None}, "'trans' is missing"),
        ({"mocap_framerate": None}, "mocap_framerate"),
        ({"mocap_framerate": np.array(0.0)}, "mocap_framerate"),
        ({"poses": np.zeros((4, 150))}, "'poses' has shape"),
        ({"trans": np.zeros((3, 3))}, "'trans' has shape"),
        ({"poses": np.full((4, 156), np.nan)}, "finite"),
        ({"poses": np.array([Trap()], dtype=object)}, "wants to run"),
    ],
)
def test_malformed_amass_names_file_and_key_and_runs_nothing(tmp_path, change, said):
    path = tmp_path / "a_poses.npz"
    np.savez(path, **{key: value for key, value in (amass_arrays() | change).items() if value is not None})
    with pytest.raises(BadInput, match=said) as caught:
        read_clip(path)
    assert str(path) in str(caught.value)
