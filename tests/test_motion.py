"""Laws of motion clips, of those that ship and of a folder of them."""

from __future__ import annotations

import io
import os
import pickle
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from compress.errors import BadInput
from hmr.body.model import JOINT_NAMES
from hmr.motion.clip import (
    MotionClip,
    blended,
    family_of,
    looped,
    mirrored,
    plausible_parts,
    resampled,
    splits_file,
    without_reference_pose,
)
from hmr.motion.recordings import load_clips, pack_clips, read_clip, shipped_clips, split_of, unpack_clips
from tests.motion_clips import (
    J,
    Trap,
    check_skeleton,
    check_standing,
    clip_of,
    deepmimic_row,
    joints_of,
    shipped,
    write_deepmimic,
)


def degrees_between(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    turn = (np.swapaxes(first, -1, -2) @ second).reshape(-1, 3, 3).astype(np.float64)
    return np.degrees(Rotation.from_matrix(turn).magnitude()).reshape(first.shape[:-2])


def speeds(clip: MotionClip) -> np.ndarray:
    """Degrees from each frame to the next (T - 1, 24)."""
    return degrees_between(clip.rotations[:-1], clip.rotations[1:])


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("humanoid3d_long_walk2", "walk"),
        ("humanoid3d_stealthy_walk1", "stealthy_walk"),
        ("humanoid3d_kick_mirror", "kick"),
        ("cmu_01_14_mirror", "playground"),
        ("cmu_006_02_mirror", "basketball"),
        ("cmu_06_02", "basketball"),
        ("cmu_99_01", "cmu"),
        ("humanoid3d_long_zombie", "zombie"),
        ("humanoid3d_dance_b", "dance_b"),
    ],
)
def test_family_is_the_name_without_prefixes_and_numbers(name, family):
    assert family_of(name) == family


def test_mirroring_reflects_the_joints_and_undoes_itself():
    clip = shipped("cartwheel")
    twice = mirrored(mirrored(clip))
    assert np.array_equal(twice.rotations, clip.rotations) and twice.name == clip.name
    swap = [J[n.replace("left", "x").replace("right", "left").replace("x", "right")] for n in JOINT_NAMES]
    assert np.abs(joints_of(mirrored(clip)) - joints_of(clip)[:, swap] * [-1, 1, 1]).max() < 0.002


@pytest.mark.parametrize("fps", [30.0, 50.0, 120.0])
def test_resampling_a_constant_turn_is_exact(fps):
    axes = np.random.default_rng(0).normal(size=(24, 3))

    def at(seconds: np.ndarray) -> np.ndarray:
        turns = seconds[:, None, None] * axes
        return Rotation.from_rotvec(turns.reshape(-1, 3)).as_matrix().reshape(-1, 24, 3, 3)

    times = np.arange(61) / 120
    clip = resampled(clip_of(at(times), np.outer(times, [1, 2, 3]), fps=120.0), fps)
    expected = np.arange(int(0.5 * fps) + 1) / fps
    assert clip.fps == fps and len(clip) == len(expected)
    assert degrees_between(clip.rotations, at(expected).astype(np.float32)).max() < 0.05
    assert np.allclose(clip.translation, np.outer(expected, [1, 2, 3]), atol=1e-6)


def test_looping_adds_no_jump_to_any_cyclic_clip():
    for clip in (resampled(clip) for clip in shipped_clips() if clip.cyclic):
        loop = looped(clip, 4 * len(clip) + 3)
        assert len(loop) == 4 * len(clip) + 3
        assert np.array_equal(loop.rotations[: len(clip) // 2], clip.rotations[: len(clip) // 2])
        assert speeds(loop).max() < 2 * speeds(clip).max(), clip.name
        steps, own = (np.linalg.norm(np.diff(c.translation, axis=0), axis=1).max() for c in (loop, clip))
        assert steps < 2 * own + 0.01, clip.name


def test_looping_goes_on_turning_and_walking():
    cycle = np.arange(31)
    turns = Rotation.from_rotvec(np.outer(np.radians(cycle / 30 * 40), [0, 1, 0])).as_matrix()
    rotations = np.tile(np.eye(3), (31, 24, 1, 1))
    rotations[:, 0] = turns
    headings = np.radians(np.arange(301) / 30 * 40)
    circle = np.stack([np.sin(headings), np.ones(301), np.cos(headings)], -1)
    loop = looped(clip_of(rotations, circle[:31], cyclic=True), 301)
    expected = Rotation.from_rotvec(np.outer(headings, [0, 1, 0])).as_matrix().astype(np.float32)
    assert degrees_between(loop.rotations[:, 0], expected).max() < 0.1
    assert np.abs(loop.translation - circle).max() < 1e-3


def test_a_clip_that_is_not_cyclic_is_cut_but_never_looped():
    clip = shipped("kick")
    assert len(looped(clip, 10)) == 10
    with pytest.raises(ValueError, match="not cyclic"):
        looped(clip, len(clip) + 1)


@pytest.mark.parametrize("seconds", [0.5, 1.0])
def test_blending_joins_clips_without_a_jump(seconds):
    clips = [shipped(name) for name in ("walk", "kick", "jump", "dance_a", "run")]
    for first, second in pairwise(clips):
        both = blended(first, second, seconds)
        overlap = min(round(seconds * 30), len(first), len(second))
        assert len(both) == len(first) + len(second) - overlap
        start, tail = len(first) - overlap, len(second) - overlap
        assert np.array_equal(both.rotations[:start], first.rotations[:start])
        assert np.array_equal(both.rotations[len(first) :, 1:], second.rotations[overlap:, 1:])
        own = max(speeds(first).max(), speeds(second).max())
        half_turn = 1.5 * 240 / overlap  # the steepest part of the change between poses a little over half a turn apart
        assert speeds(both)[max(0, start - 1) : len(both) - tail + 1].max() < own + half_turn
        assert np.abs(np.diff(both.translation, axis=0)).max() < 0.2


def test_the_second_clip_goes_on_in_the_heading_and_place_of_the_first():
    walk = shipped("walk")
    turn = Rotation.from_euler("y", 130, degrees=True).as_matrix()
    elsewhere = walk.rotations.copy()
    elsewhere[:, 0] = turn @ walk.rotations[:, 0]
    other = replace(walk, rotations=elsewhere, translation=(walk.translation @ turn.T + [5, 0, 3]).astype(np.float32))
    straight, joined = blended(walk, walk), blended(walk, other)
    assert degrees_between(straight.rotations, joined.rotations).max() < 0.1
    assert np.abs(straight.translation - joined.translation).max() < 1e-3


def test_tracking_errors_are_cut_out():
    walk = shipped("walk")
    rotations = np.concatenate([walk.rotations, walk.rotations])
    rotations[20, J["right_wrist"]] = Rotation.from_euler("x", 150, degrees=True).as_matrix()
    rotations[60:, J["left_hip"]] = Rotation.from_euler("y", 170, degrees=True).as_matrix()
    parts = plausible_parts(clip_of(rotations, cyclic=True))
    assert [len(part) for part in parts] == [20, 39, len(rotations) - 60]
    assert np.array_equal(parts[1].rotations, rotations[21:60]) and not any(part.cyclic for part in parts)
    assert [len(part) for part in plausible_parts(walk)] == [len(walk)] and plausible_parts(walk)[0].cyclic


def test_a_reference_pose_before_the_motion_is_left_out():
    walk = shipped("walk")
    t_pose = np.tile(np.eye(3, dtype=np.float32), (3, 24, 1, 1))
    clip = without_reference_pose(clip_of(np.concatenate([t_pose, walk.rotations])))
    assert np.array_equal(clip.rotations, walk.rotations)
    assert len(without_reference_pose(walk)) == len(walk)


def test_clips_of_every_family_that_the_splits_list_ship_with_their_licence():
    clips = shipped_clips()
    acrobats = [clip for clip in clips if clip.name.startswith("humanoid3d_")]
    assert all(clip.source and "MIT" in clip.licence for clip in acrobats)
    theirs = [clip for clip in clips if clip.name.startswith("cmu_")]
    assert theirs and all("mocap.cs.cmu.edu" in clip.source for clip in theirs) and len(acrobats + theirs) == len(clips)
    listed = {family for families in splits_file()["splits"].values() for family in families}
    assert {clip.family for clip in clips} == listed - {"cmu"}  # a recording of CMU's that the splits do not name
    for clip in map(resampled, clips):
        assert clip.fps == 30 and clip.rotations.dtype == np.float32
        assert np.abs(np.linalg.det(clip.rotations) - 1).max() < 1e-4


def test_packing_keeps_rotations_to_a_hundredth_of_a_degree():
    turns = Rotation.random(5 * 24, rng=np.random.default_rng(1)).as_matrix().reshape(5, 24, 3, 3)
    clips = [clip_of(turns[:3], name="a", cyclic=True), clip_of(turns[3:], name="b", fps=24.0)]
    for before, after in zip(clips, unpack_clips(pack_clips(clips)), strict=True):
        assert degrees_between(before.rotations, after.rotations).max() < 0.01
        assert (before.name, before.fps, before.cyclic) == (after.name, after.fps, after.cyclic)


@pytest.mark.parametrize("name", ["walk", "run", "getup_faceup", "dance_a"])
def test_bones_keep_their_length_and_feet_stand_under_the_hips(name):
    clip = shipped(name)
    check_skeleton(clip)
    joints = joints_of(clip)
    check_standing(joints[joints[:, J["pelvis"], 1] > 0.7])


def array_file() -> bytes:
    """An array that is no archive, under the name of one."""
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    return stream.getvalue()


def test_files_of_other_kinds_are_refused(tmp_path):
    for name, content in (
        ("a.npz", b"PK\x03\x04rubbish"),
        ("b.npz", pickle.dumps(Trap())),
        ("f.npz", array_file()),
        ("c.bvh", b"\xff\xfe"),
        ("d.fbx", b""),
        ("e.amc", b"\x00\xff"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInput, match=name):
            read_clip(tmp_path / name)


def test_a_folder_adds_clips_to_the_split_of_their_family(tmp_path):
    rows = [deepmimic_row()] * 20
    for name in ("humanoid3d_walk", "humanoid3d_kick7", "humanoid3d_juggle"):
        write_deepmimic(tmp_path / f"{name}.txt", rows)
    (tmp_path / "README.txt").write_text("no motion")
    before, after = load_clips(None), load_clips(None, tmp_path)
    assert {clip.name for clip in after} - {clip.name for clip in before} == {"humanoid3d_kick7", "humanoid3d_juggle"}
    assert len(after) == len(before) + 2
    assert len(shipped("walk")) > len(rows)  # not the one of the same name in the folder
    assert "humanoid3d_kick7" in {clip.name for clip in load_clips("test", tmp_path)}
    assert "humanoid3d_juggle" in {clip.name for clip in load_clips("train", tmp_path)}


def test_a_folder_that_is_missing_or_empty_is_named(tmp_path):
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(BadInput, match=str(folder)):
            load_clips("train", folder)


def test_every_clip_at_hand_is_sound():
    """The shipped clips and, when $FASTHMR_MOCAP names a folder, all of that: recordings behave as made files do."""
    clips = load_clips(None, os.environ.get("FASTHMR_MOCAP"))
    for clip in clips:
        check_skeleton(clip)
        assert np.isfinite(clip.rotations).all() and split_of(clip.family) in ("train", "calib", "val", "test")
        if clip.family == "walk" or clip.name.startswith("cmu_007"):
            check_standing(joints_of(clip))
