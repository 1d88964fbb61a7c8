"""Reader of BVH motion capture on the character skeleton of Reallusion's Character Creator (CC_Base_* joints)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import roma
import torch

from compress.errors import BadInput
from hmr.motion.asf_amc import CMU_LICENCE, CMU_SOURCE, lines_of
from hmr.motion.clip import MotionClip, clip_name
from hmr.motion.retarget import CHILD, JOINT, bone_names, clip_of, limb_alignment

_CHANNELS = {f"{axis}{kind}" for axis in "XYZ" for kind in ("position", "rotation")}


@dataclass(frozen=True)
class Hierarchy:
    """A BVH hierarchy: joint names, parents (-1 for the root), offsets (J, 3), channels of each joint in file order."""

    names: list[str]
    parents: list[int]
    offsets: np.ndarray
    channels: list[list[str]]


def parse_bvh(path: Path) -> tuple[Hierarchy, np.ndarray, float]:
    """Hierarchy, channel values (T, C) as in the file, and frames per second. Raises BadInput naming file and line."""
    lines = lines_of(path)
    start = next((number for number, line in enumerate(lines) if line.strip() == "MOTION"), None)
    if start is None or not lines[0].strip() == "HIERARCHY":
        raise BadInput(f"{path}: not a BVH file: needs a line HIERARCHY first and a line MOTION")
    skeleton = _hierarchy(path, lines[:start])
    count, fps = _timing(path, lines, start)
    width = sum(map(len, skeleton.channels))
    rows = [(number, line) for number, line in enumerate(lines[start + 3 :], start + 4) if line.strip()]
    if len(rows) != count:
        raise BadInput(f"{path}, line {start + 2}: declares {count} frames, {len(rows)} follow")
    return skeleton, _rows(path, rows, width), fps


def _hierarchy(path: Path, lines: list[str]) -> Hierarchy:
    names: list[str] = []
    parents: list[int] = []
    offsets: list[list[float]] = []
    channels: list[list[str]] = []
    open_joints: list[int] = []
    current = -1
    for number, line in enumerate(lines[1:], 2):
        match line.split():
            case ["ROOT" | "JOINT", *name] if name and " ".join(name) not in names:
                current = len(names)
                names.append(" ".join(name))
                parents.append(open_joints[-1] if open_joints else -1)
                offsets.append([0.0, 0.0, 0.0])
                channels.append([])
            case ["End", *_]:
                current = -1
            case ["OFFSET", *values] if len(values) == 3:
                if current >= 0:
                    offsets[current] = _floats(path, number, values)
            case ["CHANNELS", size, *kinds] if size == str(len(kinds)) and current >= 0 and _CHANNELS.issuperset(kinds):
                channels[current] = kinds
            case ["{"]:
                open_joints.append(current)
            case ["}"] if open_joints:
                open_joints.pop()
            case []:
                pass
            case _:
                raise BadInput(f"{path}, line {number}: not understood in a BVH hierarchy: {line.strip()[:60]!r}")
    if not names or open_joints:
        raise BadInput(f"{path}, line {len(lines)}: the hierarchy is empty or a brace is not closed")
    return Hierarchy(names, parents, np.array(offsets), channels)


def _floats(path: Path, number: int, values: list[str]) -> list[float]:
    try:
        return [float(value) for value in values]
    except ValueError as error:
        raise BadInput(f"{path}, line {number}: {error}") from error


def _timing(path: Path, lines: list[str], start: int) -> tuple[int, float]:
    try:
        count = int(lines[start + 1].removeprefix("Frames:"))
        seconds = float(lines[start + 2].removeprefix("Frame Time:"))
        if count < 1 or not seconds > 0:
            raise ValueError("both must be above zero")
    except (IndexError, ValueError) as error:
        raise BadInput(f"{path}, line {start + 2}: expected 'Frames: N' and 'Frame Time: SECONDS' ({error})") from error
    whole = round(1 / seconds)
    return count, float(whole) if abs(whole * seconds - 1) < 1e-3 else 1 / seconds


def _rows(path: Path, rows: list[tuple[int, str]], width: int) -> np.ndarray:
    try:
        values = np.array(" ".join(line for _, line in rows).split(), dtype=np.float64).reshape(len(rows), width)
    except ValueError as error:
        for number, line in rows:
            if len(_floats(path, number, line.split())) != width:
                raise BadInput(f"{path}, line {number}: {len(line.split())} numbers, expected {width}") from error
        raise
    if not np.isfinite(values).all():
        raise BadInput(f"{path}, line {rows[np.argwhere(~np.isfinite(values))[0, 0]][0]}: not a finite number")
    return values


def global_pose(
    skeleton: Hierarchy, values: np.ndarray, wanted: set[str] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """World rotations (T, 3, 3) and positions (T, 3), in the file's units, by joint name: forward kinematics.

    Only the `wanted` joints and their ancestors (all for None): faces and fingers are most of a character's joints.
    """
    rotations: dict[str, np.ndarray] = {}
    positions: dict[str, np.ndarray] = {}
    needed = _with_ancestors(skeleton, set(skeleton.names) if wanted is None else wanted)
    columns = np.cumsum([0, *map(len, skeleton.channels)])
    for joint, name in enumerate(skeleton.names):
        if name not in needed:
            continue
        parent = skeleton.names[skeleton.parents[joint]] if skeleton.parents[joint] >= 0 else None
        part = values[:, columns[joint] : columns[joint + 1]]
        local, place = _joint_pose(skeleton.channels[joint], part, skeleton.offsets[joint], parent is None)
        if parent is not None:
            place = positions[parent] + (rotations[parent] @ place[:, :, None])[:, :, 0]
            local = rotations[parent] @ local
        rotations[name], positions[name] = local, place
    return rotations, positions


def _with_ancestors(skeleton: Hierarchy, names: set[str]) -> set[str]:
    needed = set(names)
    for joint in reversed(range(len(skeleton.names))):  # children come after their parents
        if skeleton.names[joint] in needed and skeleton.parents[joint] >= 0:
            needed.add(skeleton.names[skeleton.parents[joint]])
    return needed


def _joint_pose(kinds: list[str], part: np.ndarray, offset: np.ndarray, is_root: bool) -> tuple[np.ndarray, np.ndarray]:
    """Local rotation (T, 3, 3) and place in the parent (T, 3).

    Position channels add to the root's OFFSET and replace that of any other joint.
    """
    turns = [index for index, kind in enumerate(kinds) if kind.endswith("rotation")]
    place = np.tile(offset, (len(part), 1))
    for index, kind in enumerate(kinds):
        if kind.endswith("position"):
            axis = "XYZ".index(kind[0])
            place[:, axis] = part[:, index] + (offset[axis] if is_root else 0.0)
    if not turns:
        return np.tile(np.eye(3), (len(part), 1, 1)), place
    order = "".join(kinds[index][0] for index in turns)
    angles = torch.as_tensor(part[:, turns])
    return roma.euler_to_rotmat(order, list(angles.unbind(-1)), degrees=True).numpy(), place


# The CC_Base bone that moves each SMPL joint.
_BONE = bone_names(
    "Hip Waist Spine01 Spine02 NeckTwist02 Head",
    "Thigh Calf Foot ToeBase Clavicle Upperarm Forearm Hand Hand",
    lambda side, bone: f"{side[0].upper()}_{bone}",
)
# World turns (Z, Y, X in degrees) of bones in the T-pose of the character, which frame 0 of CMU's 07_03 to 07_12 shows;
# right ones are the mirror images of left ones.
_T_POSE = {
    "pelvis": (0.0, 0.0, 0.0), "spine1": (0.0, 0.0, 16.2), "spine2": (0.0, 0.0, -5.0), "spine3": (0.0, 0.0, -10.3),
    "neck": (0.0, 0.0, 9.6), "head": (0.0, 0.0, 0.0), "ankle": (179.5, -6.2, 77.1), "foot": (-177.8, -3.8, 95.5),
    "collar": (-88.4, 0.5, -15.0), "wrist": (-95.7, -0.2, -2.4), "hand": (-95.7, -0.2, -2.4),
}  # fmt: skip
# Axes in the bone's own frame about which knees and elbows bend, measured: the mean of bone x next bone over 46 clips,
# from which single frames with more than 30 degrees of bend stray by 0.1 to 0.5 degrees.
_BEND = {"leg": (-1.0, 0.0, 0.0), "left_arm": (0.856, 0.031, 0.517), "right_arm": (0.854, -0.032, -0.521)}
_CENTIMETRE = 0.01
_PREFIX = "CC_Base_"


def _alignment(joint: str, offsets: dict[str, np.ndarray]) -> np.ndarray:
    """The rotation (3, 3) from SMPL's axes in the zero pose to the frame of the bone that moves `joint`."""
    side, _, kind = joint.rpartition("_")
    if joint in CHILD:
        bend = _BEND["leg" if kind in ("hip", "knee") else f"{side}_arm"]
        return limb_alignment(joint, offsets[_BONE[CHILD[joint]]], np.array(bend))
    turn_z, turn_y, turn_x = _T_POSE[kind]
    mirror = -1 if side == "right" else 1
    angles = torch.tensor([turn_z * mirror, turn_y * mirror, turn_x], dtype=torch.float64)
    return roma.euler_to_rotmat("ZYX", list(angles), degrees=True).numpy().T


def read_bvh(path: Path) -> MotionClip:
    """Read one clip; lengths are centimetres. Raises BadInput that names the file and the line or joint at fault."""
    path = Path(path)
    skeleton, values, fps = parse_bvh(path)
    offsets = {
        name.removeprefix(_PREFIX): offset for name, offset in zip(skeleton.names, skeleton.offsets, strict=True)
    }
    missing = sorted(set(_BONE.values()) - set(offsets))
    if missing:
        raise BadInput(
            f"{path}: lacks the joints {', '.join(_PREFIX + name for name in missing)}; only skeletons with "
            "Character Creator's joint names can be read"
        )
    rotations, positions = global_pose(skeleton, values, {_PREFIX + name for name in _BONE.values()})
    globals_ = np.empty((len(values), 24, 3, 3))
    for joint, number in JOINT.items():
        globals_[:, number] = rotations[_PREFIX + _BONE[joint]] @ _alignment(joint, offsets)
    hips = (positions[f"{_PREFIX}L_Thigh"] + positions[f"{_PREFIX}R_Thigh"]) / 2 * _CENTIMETRE
    cmu = clip_name(path).startswith("cmu_")
    source, licence = (CMU_SOURCE, CMU_LICENCE) if cmu else (path.name, "unknown")
    return clip_of(path, globals_, hips, fps, source=source, licence=licence)
