"""DeepMimic's clips: the zero pose stands, limbs bend the right way, and what is wrong is named."""

from __future__ import annotations

import json

import numpy as np
import pytest

from compress.errors import BadInput
from hmr.motion.recordings import read_clip
from tests.motion_clips import (
    J,
    angle,
    check_standing,
    deepmimic_row,
    joints_of,
    write_deepmimic,
)


def test_deepmimic_zero_pose_faces_forward_with_hanging_arms_and_bends_the_right_way(tmp_path):
    knee, elbow = deepmimic_row(c20=[-1.2]), deepmimic_row(c43=[1.2])  # right knee, left elbow
    clip = read_clip(write_deepmimic(tmp_path / "humanoid3d_made2.txt", [deepmimic_row(), knee, elbow]))
    assert (clip.fps, clip.family, clip.cyclic) == (30.0, "made", True)
    stand, kneel, hold = joints_of(clip)
    check_standing(stand[None])
    assert angle(stand[J["left_wrist"]] - stand[J["left_shoulder"]], np.array([0, -1.0, 0])) < 10
    assert stand[J["left_foot"], 2] > stand[J["left_ankle"], 2] + 0.05
    assert kneel[J["right_ankle"], 2] < stand[J["right_ankle"], 2] - 0.2
    assert np.allclose(kneel[J["left_ankle"]], stand[J["left_ankle"]], atol=1e-4)
    assert hold[J["left_wrist"], 2] > stand[J["left_wrist"], 2] + 0.15


def test_deepmimic_frames_of_unequal_length_are_put_on_one_clock(tmp_path):
    times = np.array([0, 1, 2, 4, 5]) / 60
    rows = [deepmimic_row(c0=[step], c1=[time]) for step, time in zip([*np.diff(times), 0], times, strict=True)]
    clip = read_clip(write_deepmimic(tmp_path / "uneven.txt", rows, "none"))
    assert clip.fps == 60 and not clip.cyclic
    assert np.allclose(clip.translation[:, 2], np.arange(6) / 60, atol=1e-5)


def test_malformed_deepmimic_names_file_and_key(tmp_path):
    path = tmp_path / "a.txt"
    for content, said in (
        ("{", "JSON"),
        ("[]", "'Frames'"),
        ('{"Frames": []}', "'Frames'"),
        ('{"Frames": [[1, 2]]}', "row 0"),
        (json.dumps({"Frames": [deepmimic_row(), [*deepmimic_row()[:-1], "x"]]}), "number"),
        (json.dumps({"Frames": [deepmimic_row(), deepmimic_row(c5=[float("nan")])]}), "row 1"),
        (json.dumps({"Frames": [deepmimic_row(c0=[0]), deepmimic_row()]}), "column 0"),
    ):
        path.write_text(content)
        with pytest.raises(BadInput, match=said) as caught:
            read_clip(path)
        assert str(path) in str(caught.value)
