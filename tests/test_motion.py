"""Laws of motion clips, and their readers against forward kinematics written a second time."""

from __future__ import annotations

import io
import json
import os
import pickle
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from compress.errors import BadInput
from hmr.body.files import load_body
from hmr.body.model import JOINT_NAMES
from hmr.motion.clip import plausible_parts, without_reference_pose
from hmr.motion.recordings import (
    MotionClip,
    blended,
    family_of,
    load_clips,
    looped,
    mirrored,
    pack_clips,
    read_clip,
    resampled,
    shipped_clips,
    split_of,
    unpack_clips,
)

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


def degrees_between(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    turn = (np.swapaxes(first, -1, -2) @ second).reshape(-1, 3, 3).astype(np.float64)
    return np.degrees(Rotation.from_matrix(turn).magnitude()).reshape(first.shape[:-2])


def speeds(clip: MotionClip) -> np.ndarray:
    """Degrees from each frame to the next (T - 1, 24)."""
    return degrees_between(clip.rotations[:-1], clip.rotations[1:])


def angle(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    cosine = (first * second).sum(-1) / np.linalg.norm(first, axis=-1) / np.linalg.norm(second, axis=-1)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def shipped(name: str) -> MotionClip:
    """A shipped clip at 30 fps."""
    return next(resampled(clip) for clip in shipped_clips() if clip.name == f"humanoid3d_{name}")


# --- operations -------------------------------------------------------------------------------------------------------


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


# --- shipped clips ----------------------------------------------------------------------------------------------------


def test_the_clips_that_ship_are_pybullets_and_what_cmu_has_for_reports():
    clips = shipped_clips()
    ours = [clip for clip in clips if not clip.name.startswith("cmu_")]
    assert len(ours) == 15 and all(clip.source and "MIT" in clip.licence for clip in ours)
    theirs = [clip for clip in clips if clip.name.startswith("cmu_")]
    assert theirs and all("mocap.cs.cmu.edu" in clip.source for clip in theirs)
    assert "train" not in {split_of(clip.family) for clip in theirs}  # the full clips stay outside
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


# --- DeepMimic --------------------------------------------------------------------------------------------------------


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


# --- CMU's ASF/AMC ----------------------------------------------------------------------------------------------------


def asf_bones() -> list[tuple[str, str, tuple, float, tuple, str]]:
    """Name, parent, direction, length, axis and channels of a skeleton in CMU's layout."""
    bones: list[tuple[str, str, tuple, float, tuple, str]] = []
    for s, m in (("l", 1), ("r", -1)):
        leg, tilt, arm = (0.34202 * m, -0.939693, 0), (0, 0, 20 * m), (180, -30 * m, -90 * m)
        bones += [
            (f"{s}hipjoint", "root", (0.56 * m, -0.75, 0.35), 2.4, (0, 0, 0), ""),
            (f"{s}femur", f"{s}hipjoint", leg, 7.2, tilt, "rx ry rz"),
            (f"{s}tibia", f"{s}femur", leg, 7.5, tilt, "rx"),
            (f"{s}foot", f"{s}tibia", (0.0666 * m, -0.1829, 0.98), 2.4, (-90, 0, 20 * m), "rx rz"),
            (f"{s}toes", f"{s}foot", (0, 0, 1), 1.2, (-90, 0, 20 * m), "rx"),
            (f"{s}clavicle", "thorax", (0.93 * m, 0.34, -0.09), 3.5, (0, 0, 0), "ry rz"),
            (f"{s}humerus", f"{s}clavicle", (m, 0, 0), 5.0, arm, "rx ry rz"),
            (f"{s}radius", f"{s}humerus", (m, 0, 0), 3.5, arm, "rx"),
            (f"{s}wrist", f"{s}radius", (m, 0, 0), 1.7, (0, 90 * m, 90 * m), "ry"),
            (f"{s}hand", f"{s}wrist", (m, 0, 0), 0.7, (0, 90 * m, 90 * m), "rx rz"),
            (f"{s}fingers", f"{s}hand", (m, 0, 0), 0.5, (0, 90 * m, 90 * m), "rx"),
        ]
    spine = ["root", "lowerback", "upperback", "thorax", "lowerneck", "upperneck", "head"]
    return [(b, a, (0, 1, 0), 2.0, (0, 0, 0), "rx ry rz") for a, b in pairwise(spine)] + bones


def write_asf(path: Path) -> Path:
    numbers = {False: " ", True: "\n    "}
    data = "".join(
        f"  begin\n     id {i}\n     name {name}\n"
        f"     direction {' '.join(map(str, direction))}\n     length {length}\n"
        f"     axis {' '.join(map(str, axis))}  XYZ{numbers[bool(dof)]}{f'dof {dof}' if dof else ''}\n  end\n"
        for i, (name, _, direction, length, axis, dof) in enumerate(asf_bones(), 1)
    )
    tree = "".join(f"    {parent} {name}\n" for name, parent, *_ in asf_bones())
    path.write_text(
        "# made by a test\n:version 1.10\n:units\n  mass 1.0\n  length 0.45\n  angle deg\n:root\n"
        "   order TX TY TZ RX RY RZ\n"
        f"   axis XYZ\n   position 0 0 0\n   orientation 0 0 0\n:bonedata\n{data}:hierarchy\n  begin\n{tree}  end\n"
    )
    return path


def asf_frames(count: int, scale: float) -> list[dict[str, list[float]]]:
    rng = np.random.default_rng(2)
    frames = []
    for _ in range(count):
        frame = {"root": [*rng.uniform(10, 20, 3), *rng.uniform(-180, 180, 3) * min(scale, 1)]}
        frame |= {name: list(rng.uniform(-50, 50, len(dof.split())) * scale) for name, *_, dof in asf_bones() if dof}
        frames.append(frame)
    return frames


def write_amc(path: Path, frames: list[dict[str, list[float]]]) -> Path:
    lines = ["#!OML:ASF", ":FULLY-SPECIFIED", ":DEGREES"]
    for number, frame in enumerate(frames, 1):
        lines += [str(number), *(" ".join([name, *map(str, values)]) for name, values in frame.items())]
    path.write_text("\n".join(lines) + "\n")
    return path


def asf_points(frame: dict[str, list[float]]) -> dict[str, np.ndarray]:
    """Ends of all bones in one frame: each bone's turn is C R C^-1, as Acclaim defines it, here with scipy."""
    turns = {"root": Rotation.from_euler("xyz", frame["root"][3:], degrees=True)}
    ends = {"root": np.array(frame["root"][:3])}
    todo = asf_bones()
    while todo:
        name, parent, direction, length, axis, dof = bone = todo.pop(0)
        if parent not in turns:
            todo.append(bone)
            continue
        angles = dict(zip(dof.split(), frame.get(name, []), strict=True))
        local = Rotation.from_euler("xyz", [angles.get(f"r{a}", 0) for a in "xyz"], degrees=True)
        frame_axes = Rotation.from_euler("xyz", axis, degrees=True)
        turns[name] = turns[parent] * frame_axes * local * frame_axes.inv()
        ends[name] = ends[parent] + turns[name].apply(np.array(direction) / np.linalg.norm(direction) * length)
    return ends


ASF_POINT = {"hip": "hipjoint", "knee": "femur", "ankle": "tibia", "shoulder": "clavicle", "elbow": "humerus"}


def asf_limb(ends: dict[str, np.ndarray], joint: str) -> np.ndarray:
    side, kind = joint.split("_")
    return ends[side[0] + ASF_POINT.get(kind, "wrist")]


@pytest.fixture
def asf_folder(tmp_path):
    write_asf(tmp_path / "01.asf")
    return tmp_path


def test_asf_limbs_point_where_the_source_points(asf_folder):
    frames = asf_frames(12, 1.0)
    for frame in frames:
        frame["lwrist"] = frame["rwrist"] = [0.0]  # the forearm is two bones in ASF and one in SMPL
    clip = read_clip(write_amc(asf_folder / "01_01.amc", frames))
    assert (clip.fps, clip.family, clip.name) == (120.0, "playground", "cmu_01_01")
    check_skeleton(clip)
    joints = joints_of(clip)
    for number, frame in enumerate(frames):
        ends = asf_points(frame)
        for joint, child in LIMBS:
            ours = joints[number, J[child]] - joints[number, J[joint]]
            assert angle(ours, asf_limb(ends, child) - asf_limb(ends, joint)) < 0.1, (number, joint)
        hips = joints[number, [J["left_hip"], J["right_hip"]]].mean(0)
        assert np.allclose(hips, (ends["lhipjoint"] + ends["rhipjoint"]) / 2 * 0.056444, atol=1e-4)


def test_asf_rest_is_a_person_who_stands_with_spread_arms_and_bends_the_right_way(asf_folder):
    still = {name: [0.0] * len(values) for name, values in asf_frames(1, 0)[0].items()}
    bent = still | {"lradius": [70.0], "rtibia": [70.0]}
    rest, moved = joints_of(read_clip(write_amc(asf_folder / "01_02.amc", [still, bent])))
    check_standing(rest[None])
    assert angle(rest[J["left_wrist"]] - rest[J["left_shoulder"]], np.array([1.0, 0, 0])) < 1
    assert rest[J["left_foot"], 2] > rest[J["left_ankle"], 2] + 0.05
    assert moved[J["left_wrist"], 2] > rest[J["left_wrist"], 2] + 0.1
    assert moved[J["right_ankle"], 2] < rest[J["right_ankle"], 2] - 0.2


def test_asf_elbows_and_knees_only_bend(asf_folder):
    frames = [frame | {"root": [0.0] * 6} for frame in asf_frames(20, 1.0)]
    clip = read_clip(write_amc(asf_folder / "01_03.amc", frames))
    for joint, axis in (("left_elbow", [0, -1, 0]), ("right_elbow", [0, 1, 0]), ("left_knee", [1, 0, 0])):
        turns = Rotation.from_matrix(clip.rotations[:, J[joint]]).as_rotvec()
        bone = {"left_elbow": "lradius", "right_elbow": "rradius", "left_knee": "ltibia"}[joint]
        expected = np.outer(np.radians([frame[bone][0] for frame in frames]), axis)
        assert np.abs(turns - expected).max() < np.radians(8), joint  # limbs of the body are not quite on the axes


# --- BVH --------------------------------------------------------------------------------------------------------------


def bvh_joints() -> list[tuple[str, str | None, tuple[float, float, float]]]:
    """Name, parent and offset in the layout of Character Creator; children after their parents."""
    joints: list[tuple[str, str | None, tuple[float, float, float]]] = [
        ("Hip", None, (0, 105.2, 0)),
        ("Pelvis", "Hip", (0, 0, 0)),
        ("Waist", "Hip", (0, 7.9, 1.4)),
        ("Spine01", "Waist", (0, 4.65, 1.66)),
        ("Spine02", "Spine01", (0, 14.7, -1.9)),
        ("NeckTwist01", "Spine02", (0, 27.4, -0.13)),
        ("NeckTwist02", "NeckTwist01", (0, 3.8, 0.26)),
        ("Head", "NeckTwist02", (0, 4.1, 0.37)),
    ]
    for s, m in (("L", 1), ("R", -1)):
        joints += [
            (f"{s}_Thigh", "Pelvis", (9.68 * m, -2.22, 0.16)),
            (f"{s}_Calf", f"{s}_Thigh", (-0.21 * m, 47.7, -0.33)),
            (f"{s}_Foot", f"{s}_Calf", (-0.32 * m, 49.8, 0.33)),
            (f"{s}_ToeBase", f"{s}_Foot", (-0.16 * m, 13.3, 0.55)),
            (f"{s}_Clavicle", "Spine02", (5.6 * m, 21, 0.02)),
            (f"{s}_Upperarm", f"{s}_Clavicle", (0.4 * m, 13, 0.77)),
            (f"{s}_Forearm", f"{s}_Upperarm", (-0.83 * m, 25.2, -0.24)),
            (f"{s}_Hand", f"{s}_Forearm", (-0.68 * m, 25.7, -0.3)),
            (f"{s}_Mid1", f"{s}_Hand", (-0.89 * m, 11.3, 2.35)),
            (f"{s}_Index1", f"{s}_Hand", (-1.18 * m, 11, 5.2)),
            (f"{s}_Pinky1", f"{s}_Hand", (1.06 * m, 10.7, -2.05)),
        ]
    return joints


# Turns (Z, Y, X) in degrees of the bones of a person who stands upright with arms hanging: means of subject 07's walks.
UPRIGHT = {
    "Hip": (0, 0, 6.7),
    "Pelvis": (0, 0, 11.8),
    "Waist": (0, 0, 10.8),
    "Spine01": (0, 0, -22),
    "Spine02": (0, 0, -3),
    "NeckTwist02": (0, 0, 19),
    "L_Thigh": (180, 0, 18.4),
    "R_Thigh": (-180, 0, 18.4),
    "L_Foot": (0, 0, 76),
    "R_Foot": (0, 0, 76),
    "L_Clavicle": (-88, 11, -14.5),
    "R_Clavicle": (88, -11, -14.5),
    "L_Upperarm": (-90, 45, 2),
    "R_Upperarm": (90, -45, 2),
}


def write_bvh(path: Path, frames: list[dict[str, tuple]], places: np.ndarray, order: str = "ZYX") -> Path:
    children: dict[str | None, list] = {}
    for name, parent, offset in bvh_joints():
        children.setdefault(parent, []).append((name, offset))
    lines, names = ["HIERARCHY"], []

    def add(name: str, offset: tuple, depth: int) -> None:
        names.append(name)
        pad, turns = "  " * depth, " ".join(f"{axis}rotation" for axis in order)
        lines.extend(
            [
                f"{pad}{'JOINT' if depth else 'ROOT'} CC_Base_{name}",
                pad + "{",
                f"{pad}  OFFSET {' '.join(map(str, offset))}",
            ]
        )
        lines.append(f"{pad}  CHANNELS " + (f"3 {turns}" if depth else f"6 Xposition Yposition Zposition {turns}"))
        for child, place in children.get(name, []):
            add(child, place, depth + 1)
        if name not in children:
            lines.extend([pad + "  End Site", pad + "  {", pad + "    OFFSET 0 0 0", pad + "  }"])
        lines.append(pad + "}")

    add("Hip", (0, 105.2, 0), 0)
    lines += ["MOTION", f"Frames: {len(frames)}", "Frame Time: 0.016667"]
    for frame, place in zip(frames, places, strict=True):
        lines.append(" ".join(str(v) for v in [*place, *(v for name in names for v in frame.get(name, (0, 0, 0)))]))
    path.write_text("\n".join(lines) + "\n")
    return path


def bvh_points(frame: dict[str, tuple], place: np.ndarray, order: str = "ZYX") -> dict[str, np.ndarray]:
    """World positions in centimetres of one frame, joint by joint with scipy."""
    turns: dict[str, Rotation] = {}
    points: dict[str, np.ndarray] = {}
    for name, parent, offset in bvh_joints():
        local = Rotation.from_euler(order, frame.get(name, (0, 0, 0)), degrees=True)
        turns[name] = local if parent is None else turns[parent] * local
        points[name] = place + offset if parent is None else points[parent] + turns[parent].apply(offset)
    return points


BVH_POINT = {
    "hip": "Thigh",
    "knee": "Calf",
    "ankle": "Foot",
    "shoulder": "Upperarm",
    "elbow": "Forearm",
    "wrist": "Hand",
}


@pytest.mark.parametrize("order", ["ZYX", "XYZ"])
def test_bvh_limbs_point_where_the_source_points(tmp_path, order):
    rng = np.random.default_rng(3)
    frames = [{name: tuple(rng.uniform(-170, 170, 3)) for name, *_ in bvh_joints()} for _ in range(10)]
    places = rng.uniform(-50, 50, (10, 3))
    clip = read_clip(write_bvh(tmp_path / "005_01.bvh", frames, places, order))
    assert (clip.fps, clip.family, clip.name) == (60.0, "walk", "cmu_005_01")
    check_skeleton(clip)
    joints = joints_of(clip)
    for number, frame in enumerate(frames):
        points = bvh_points(frame, places[number], order)
        for joint, child in LIMBS:
            source = [points[f"{n[0].upper()}_{BVH_POINT[n.split('_')[1]]}"] for n in (joint, child)]
            assert angle(joints[number, J[child]] - joints[number, J[joint]], source[1] - source[0]) < 0.1, (
                number,
                joint,
            )
        hips = joints[number, [J["left_hip"], J["right_hip"]]].mean(0)
        assert np.allclose(hips, (points["L_Thigh"] + points["R_Thigh"]) / 200, atol=1e-4)


def test_bvh_upright_person_stands_with_hanging_arms_and_bends_the_right_way(tmp_path):
    bent = UPRIGHT | {"L_Calf": (0, 0, -70), "R_Forearm": (-20, 3, 34)}
    stand, moved = joints_of(read_clip(write_bvh(tmp_path / "007_01.bvh", [UPRIGHT, bent], np.zeros((2, 3)))))
    check_standing(stand[None])
    assert stand[J["head"], 1] > stand[J["pelvis"], 1] + 0.6
    assert stand[J["left_hip"], 0] > stand[J["right_hip"], 0] + 0.1
    assert stand[J["left_foot"], 2] > stand[J["left_ankle"], 2] + 0.05
    assert angle(stand[J["left_wrist"]] - stand[J["left_shoulder"]], np.array([0, -1.0, 0])) < 50
    assert moved[J["left_ankle"], 2] < stand[J["left_ankle"], 2] - 0.2
    assert (
        angle(moved[J["right_wrist"]] - moved[J["right_elbow"]], stand[J["right_wrist"]] - stand[J["right_elbow"]]) > 30
    )


# --- AMASS ------------------------------------------------------------------------------------------------------------


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


# --- what is wrong is named -------------------------------------------------------------------------------------------


class Trap:
    def __reduce__(self):
        return pytest.fail, ("a pickle was opened",)


def edited(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


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


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("01.asf", "length 7.2", "length long", "01.asf, line"),
        ("01.asf", "root lhipjoint", "root nobody", "nobody"),
        ("01.asf", "thorax lowerneck", "thorax", "lowerneck"),
        ("01.asf", "angle deg", "angle rad", "degrees"),
        ("01.asf", "order TX TY TZ RX RY RZ", "order RX RY RZ TX TY TZ", "line 8"),
        ("01_01.amc", "\nltibia ", "\nlshin ", "lshin"),
        ("01_01.amc", "\n2\n", "\n2\nextra 1\n", "line"),
        ("01_01.amc", "\n1\nroot ", "\n1\nroot x", "line 5"),
        ("01_01.amc", "\n1\n", "\none\n", "frame 1"),
    ],
)
def test_malformed_asf_amc_names_file_and_line(asf_folder, file, old, new, said):
    write_amc(asf_folder / "01_01.amc", asf_frames(3, 1.0))
    edited(asf_folder / file, old, new)
    with pytest.raises(BadInput, match=said) as caught:
        read_clip(asf_folder / "01_01.amc")
    assert str(asf_folder) in str(caught.value)


def test_asf_without_hip_joints_is_refused(asf_folder):
    """Thighs may hang on the root itself; but the hips, which the pelvis is put between, are the ends of these two."""
    text = (asf_folder / "01.asf").read_text()
    hung = text.replace("root lhipjoint", "root lfemur").replace("lhipjoint lfemur", "lfemur")
    (asf_folder / "01.asf").write_text(hung)
    with pytest.raises(BadInput, match="lacks lhipjoint"):
        read_clip(write_amc(asf_folder / "01_01.amc", asf_frames(3, 1.0)))


def test_amc_cut_in_the_middle_or_without_skeleton_is_refused(asf_folder):
    path = write_amc(asf_folder / "01_01.amc", asf_frames(3, 1.0))
    path.write_text(path.read_text()[:-60])
    with pytest.raises(BadInput, match=r"line \d+"):
        read_clip(path)
    (asf_folder / "01.asf").unlink()
    with pytest.raises(BadInput, match=r"01\.asf"):
        read_clip(path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("HIERARCHY", "HIER", "HIERARCHY"),
        ("MOTION", "MOTI", "MOTION"),
        ("Frames: 2", "Frames: 3", "3 frames"),
        ("Frame Time: 0.016667", "Frame Time: 0", "Frame Time"),
        ("OFFSET 0 7.9 1.4", "OFFSET 0 high 1.4", "line"),
        ("CHANNELS 3 Zrotation", "CHANNELS 2 Zrotation", "line"),
        ("CC_Base_Head", "Head2", "CC_Base_Head"),
        ("CHANNELS 3 Zrotation", "CHANNELS 3 Qrotation", "line"),
        ("\n0.0 0.0 0.0 ", "\n0.0 0.0 ", "expected 93"),
        ("\n0.0 0.0 0.0 ", "\n0.0 nan 0.0 ", "finite"),
        ("\n0.0 0.0 0.0 ", "\n0.0 x 0.0 ", "line"),
    ],
)
def test_malformed_bvh_names_file_and_line(tmp_path, old, new, said):
    path = write_bvh(tmp_path / "1.bvh", [UPRIGHT, UPRIGHT], np.zeros((2, 3)))
    edited(path, old, new)
    with pytest.raises(BadInput, match=said) as caught:
        read_clip(path)
    assert str(path) in str(caught.value)


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


# --- the folder -------------------------------------------------------------------------------------------------------


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
