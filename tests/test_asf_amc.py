"""CMU's ASF/AMC against forward kinematics written a second time; what is wrong is named."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from compress.errors import BadInput
from hmr.motion.recordings import read_clip
from tests.motion_clips import (
    LIMBS,
    J,
    angle,
    check_skeleton,
    check_standing,
    edited,
    joints_of,
)


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
