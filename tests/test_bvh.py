"""BVH against forward kinematics written a second time; what is wrong is named."""

from __future__ import annotations

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
