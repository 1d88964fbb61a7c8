"""Reader of Acclaim motion capture as CMU publishes it: a skeleton (.asf) and motions (.amc) beside it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import roma
import torch

from compress.errors import BadInput
from hmr.motion.clip import MotionClip
from hmr.motion.retarget import CHILD, JOINT, bone_names, clip_of, hinge, limb_alignment

CMU_SOURCE = "CMU Graphics Lab Motion Capture Database, mocap.cs.cmu.edu, created with funding from NSF EIA-0196217"
CMU_LICENCE = "CMU: free for all uses, may not be resold"
METRES = 0.056444  # one ASF unit of CMU: inches / 0.45
_FPS = 120.0
# The ASF bone that moves each SMPL joint; SMPL has one neck joint, between the two of ASF.
_BONE = bone_names(
    "root lowerback upperback thorax lowerneck head",
    "femur tibia foot toes clavicle humerus radius hand fingers",
    lambda side, bone: f"{side[0]}{bone}",
)
# Ends of limbs stay as they are in relation to the bone before them.
_FOLLOWS = {"ankle": "knee", "foot": "knee", "wrist": "elbow", "hand": "elbow"}


@dataclass(frozen=True)
class Bone:
    """One bone of an ASF skeleton: offset (3,) in ASF units from its parent's end, its axes (3, 3), its channels."""

    parent: str | None
    offset: np.ndarray
    axes: np.ndarray
    channels: tuple[str, ...]


def parse_asf(path: Path) -> dict[str, Bone]:
    """Bones by name, parents before children, `root` first. Raises BadInput naming the file and line."""
    bones: dict[str, Bone] = {"root": Bone(None, np.zeros(3), np.eye(3), ("tx", "ty", "tz", "rx", "ry", "rz"))}
    entries: dict[str, Bone] = {}
    section, entry, begun = "", dict[str, list[str]](), 0
    for number, line in enumerate(lines_of(path), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0].startswith(":"):
            section = words[0]
        elif words[0] == "begin":
            entry, begun = {}, number
        elif section == ":bonedata" and words[0] == "end":
            entries[" ".join(entry.get("name", []))] = _bone(path, begun, entry)
        elif section == ":bonedata":
            entry[words[0]] = words[1:]
        elif section == ":root":
            _check_root(path, number, words)
        elif section == ":hierarchy" and words[0] != "end":
            _attach(path, number, words, entries, bones)
        elif section == ":units" and words[0] == "angle" and words[1:] != ["deg"]:
            raise BadInput(f"{path}, line {number}: angles must be in degrees ('angle deg')")
    missing = sorted({*_BONE.values(), "lhipjoint", "rhipjoint"} - set(bones))
    if missing:
        raise BadInput(f"{path}: not a CMU skeleton: section :hierarchy lacks {', '.join(missing)}")
    return bones


def lines_of(path: Path) -> list[str]:
    """The lines of a text file; raises BadInput where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not a readable text file ({error})") from error


def _check_root(path: Path, number: int, words: list[str]) -> None:
    wanted = {"order": "TX TY TZ RX RY RZ", "axis": "XYZ"}.get(words[0])
    if wanted is not None and " ".join(words[1:]).upper() != wanted:
        raise BadInput(f"{path}, line {number}: the root's {words[0]} must be {wanted}")


def _bone(path: Path, number: int, entry: dict[str, list[str]]) -> Bone:
    try:
        direction = np.array([float(value) for value in entry["direction"]]).reshape(3)
        length = float(entry["length"][0])
        angles = [float(value) for value in entry["axis"][:3]]
        if entry["axis"][3:] != ["XYZ"] or not np.isfinite([*direction, length, *angles]).all():
            raise ValueError("axis must be three finite angles and XYZ")
    except (KeyError, IndexError, ValueError) as error:
        raise BadInput(f"{path}, line {number}: bone needs direction, length and axis ({error})") from error
    channels = tuple(channel.lower() for channel in entry.get("dof", []))
    if not set(channels) <= {"rx", "ry", "rz"}:
        raise BadInput(f"{path}, line {number}: dof may hold rx, ry and rz, got {' '.join(channels)}")
    unit = direction / max(np.linalg.norm(direction), 1e-9)
    return Bone(None, unit * length, _euler(np.array([angles]))[0], channels)


def _attach(path: Path, number: int, words: list[str], entries: dict[str, Bone], bones: dict[str, Bone]) -> None:
    for name in words[1:]:
        if name not in entries or words[0] not in bones or name in bones:
            raise BadInput(
                f"{path}, line {number}: {words[0]} -> {name}: no such bone before this line, or a second time"
            )
        entry = entries[name]
        bones[name] = Bone(words[0], entry.offset, entry.axes, entry.channels)


def _euler(degrees: np.ndarray) -> np.ndarray:
    """Rotations (T, 3, 3) that turn about the fixed x, then y, then z axis; angles (T, 3) in degrees."""
    return roma.euler_to_rotmat("xyz", list(torch.as_tensor(degrees).unbind(-1)), degrees=True).numpy()


def parse_amc(path: Path, bones: dict[str, Bone]) -> dict[str, np.ndarray]:
    """Channel values (T, channels) of each bone that moves. Raises BadInput naming the file and line."""
    lines = lines_of(path)
    first = next((number for number, line in enumerate(lines) if line.strip() == "1"), None)
    if first is None:
        raise BadInput(f"{path}: no frame 1; is this an AMC file?")
    if ":RADIANS" in lines[:first]:
        raise BadInput(f"{path}: angles are in radians; CMU's files have :DEGREES")
    words = " ".join(lines[first:]).split()
    layout = _layout(path, lines, first, bones)
    width = 1 + sum(1 + count for _, count in layout)
    table = np.array(words[: len(words) // width * width], dtype=object).reshape(-1, width)
    column, values = 1, {}
    try:
        for name, count in layout:
            if len(words) % width or not (table[:, column] == name).all():
                raise ValueError("frames differ")
            values[name] = table[:, column + 1 : column + 1 + count].astype(np.float64)
            column += 1 + count
            if not np.isfinite(values[name]).all():
                raise ValueError("not finite")
    except ValueError as error:
        raise BadInput(_first_wrong_line(path, lines, first, layout)) from error
    return values


def _layout(path: Path, lines: list[str], first: int, bones: dict[str, Bone]) -> list[tuple[str, int]]:
    """Names and channel counts of the lines of frame 1, checked against the skeleton."""
    layout = []
    for number, line in enumerate(lines[first + 1 :], first + 2):
        words = line.split()
        if not words or words[0].isdigit():
            break
        if words[0] not in bones or len(bones[words[0]].channels) != len(words) - 1:
            raise BadInput(f"{path}, line {number}: '{words[0]}' with {len(words) - 1} values is not in the .asf")
        layout.append((words[0], len(words) - 1))
    if ("root", 6) not in layout:
        raise BadInput(f"{path}, line {first + 1}: frame 1 has no root with 6 values")
    return layout


def _first_wrong_line(path: Path, lines: list[str], first: int, layout: list[tuple[str, int]]) -> str:
    pattern = [("", 0), *layout]
    for number, line in enumerate(lines[first:]):
        name, count = pattern[number % len(pattern)]
        words = line.split()
        good = len(words) == count + 1 and (words[0] == name or (not name and words[0].isdigit()))
        if not good or not all(re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", word) for word in words[1:]):
            return f"{path}, line {first + number + 1}: expected {name or 'a frame number'} and {count} numbers"
    return f"{path}, line {len(lines)}: the last frame is not complete"


def global_pose(
    bones: dict[str, Bone], values: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Rotation since the rest pose (T, 3, 3) and end point (T, 3) in ASF units of each bone, by forward kinematics."""
    count = len(values["root"])
    rotations = {"root": _euler(values["root"][:, 3:])}
    ends = {"root": values["root"][:, :3]}
    for name, bone in bones.items():
        if bone.parent is None:
            continue
        angles = np.zeros((count, 3))
        if name in values:
            angles[:, ["xyz".index(channel[1]) for channel in bone.channels]] = values[name]
        rotations[name] = rotations[bone.parent] @ (bone.axes @ _euler(angles) @ bone.axes.T)
        ends[name] = ends[bone.parent] + rotations[name] @ bone.offset
    return rotations, ends


def _alignment(joint: str, bones: dict[str, Bone]) -> np.ndarray:
    """The rotation (3, 3) from SMPL's zero pose to the rest pose of ASF, both standing upright facing +z."""
    side, _, kind = joint.partition("_")
    limb = f"{side}_{_FOLLOWS[kind]}" if kind in _FOLLOWS else joint
    if limb not in CHILD:
        return np.eye(3)
    # Hands rest palm down as SMPL's do; elbows and knees bend about the x axis of the lower bone.
    lower = limb.replace("hip", "knee").replace("shoulder", "elbow")
    bend = bones[_BONE[lower]].axes[:, 0] if limb == joint else hinge(limb)
    return limb_alignment(limb, bones[_BONE[limb]].offset, bend)


def read_asf_amc(path: Path) -> MotionClip:
    """Read one .amc; its skeleton is the .asf of the same folder that shares the part of the name before `_`.

    Raises BadInput that names the file and line that is wrong.
    """
    path = Path(path)
    candidates = [
        path.with_name(f"{path.stem.split('_')[0]}.asf"),
        path.with_suffix(".asf"),
        *path.parent.glob("*.asf"),
    ]
    skeleton = next((candidate for candidate in candidates if candidate.is_file()), None)
    if skeleton is None:
        raise BadInput(f"{path}: no skeleton; put {candidates[0].name} beside it")
    bones = parse_asf(skeleton)
    rotations, ends = global_pose(bones, parse_amc(path, bones))
    globals_ = np.empty((len(ends["root"]), 24, 3, 3))
    for joint, index in JOINT.items():
        globals_[:, index] = rotations[_BONE[joint]] @ _alignment(joint, bones)
    hips = (ends["lhipjoint"] + ends["rhipjoint"]) / 2 * METRES
    return clip_of(path, globals_, hips, _FPS, source=CMU_SOURCE, licence=CMU_LICENCE)
