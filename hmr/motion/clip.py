"""One motion clip, and the operations that make long videos of short clips."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import roma
import torch

from hmr.body.model import JOINT_NAMES

FPS = 30.0
_OTHER_SIDE = {"left": "right", "right": "left"}
_SIDE_SWAP = [JOINT_NAMES.index(re.sub("left|right", lambda side: _OTHER_SIDE[side[0]], name)) for name in JOINT_NAMES]
_REFLECT = np.diag([-1.0, 1.0, 1.0]).astype(np.float32)

_SHOULDERS = [JOINT_NAMES.index("left_shoulder"), JOINT_NAMES.index("right_shoulder")]
_JUMP = 45.0  # degrees from one frame to the next at the rate of the recording
_LEAP = 75.0  # degrees in 1/30 s; the fastest joint of the shipped clips, in a backflip, turns by 58
_LIMITS = {
    JOINT_NAMES.index(f"{side}_{joint}"): limit
    for side in ("left", "right")
    for joint, limit in (("ankle", 90.0), ("wrist", 110.0))
}


@dataclass(frozen=True)
class MotionClip:
    """Motion of one person on SMPL's 24 joints.

    `rotations` (T, 24, 3, 3) float32 are local to the parent joint, the first one is the root in a y-up world where
    the zero pose faces +z; `translation` (T, 3) float32 is the pelvis in metres. A `cyclic` clip's last frame is its
    first one a cycle later. `source` and `licence` are the clip's.
    """

    rotations: np.ndarray
    translation: np.ndarray
    fps: float
    name: str
    family: str
    source: str
    licence: str
    cyclic: bool = False

    def __len__(self) -> int:
        return len(self.rotations)


@cache
def splits_file() -> dict[str, Any]:
    """`splits.json`: the families of each split, and the families of CMU's numbered recordings."""
    listed: dict[str, Any] = json.loads(files("hmr").joinpath("motion", "splits.json").read_text(encoding="utf-8"))
    return listed


@cache
def _cmu_families() -> dict[str, str]:
    return {number: family for family, numbers in splits_file()["cmu"].items() for number in numbers}


def family_of(name: str) -> str:
    """The unit of the split: `name` without `humanoid3d_`, `long_`, digits and `_mirror`.

    `humanoid3d_long_walk2` -> `walk`. CMU numbers its recordings: `splits.json` lists what each subject and trial
    shows, `cmu_006_02_mirror` -> `basketball`; one that it does not list is `cmu`.
    """
    if number := re.match(r"cmu_(\d+)_(\d+)(_|$)", name):
        return _cmu_families().get(f"{int(number[1])}_{int(number[2])}", "cmu")
    bare = re.sub(r"humanoid3d_|long_|\d+|_mirror", "", name)
    return re.sub(r"_+", "_", bare).strip("_")


def clip_name(path: Path) -> str:
    """What the clip in a file is called: the file's name; CMU and AMASS, which only number theirs, are named too."""
    stem = re.sub(r"_(poses|stageii)$", "", path.stem)
    if not stem.replace("_", "").isdigit():
        return stem
    return f"amass_{stem}" if path.suffix == ".npz" else f"cmu_{stem}"


def _turns(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Rotation vectors (..., 3) float64 that take `start` to `end`, seen from `start`; angles up to pi."""
    first, last = (torch.as_tensor(np.array(rotation, np.float64)) for rotation in (start, end))
    return roma.rotmat_to_rotvec(first.transpose(-1, -2) @ last).numpy()


def _turned(start: np.ndarray, rotvec: np.ndarray) -> np.ndarray:
    """Rotations (..., 3, 3) float32: `start`, then `rotvec` (..., 3) in its own axes."""
    first = torch.as_tensor(np.array(start, np.float64))
    return (first @ roma.rotvec_to_rotmat(torch.as_tensor(rotvec))).numpy().astype(np.float32)


def slerp(start: np.ndarray, end: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Rotations (..., 3, 3) float32 on the shortest arc: `start` at weight 0, `end` at weight 1.

    `weight` broadcasts against the leading dimensions.
    """
    return _turned(start, _turns(start, end) * weight[..., None])


def _crossfade(start: np.ndarray, end: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Rotations (T, J, 3, 3) float32 that go over from motion `start` to motion `end` with `weight` (T,).

    Where the two are about half a turn apart the shortest arc would change sides from one frame to the next; the arc
    that continues the one of the frame before is taken instead.
    """
    turns = _turns(start, end)
    for now, before in zip(turns[1:], turns, strict=False):
        angle = np.linalg.norm(now, axis=-1, keepdims=True)
        other_way = now * (1 - 2 * np.pi / np.maximum(angle, 1e-9))
        nearer = np.linalg.norm(other_way - before, axis=-1) < np.linalg.norm(now - before, axis=-1)
        now[nearer] = other_way[nearer]
    return _turned(start, turns * weight[:, None, None])


def resampled(clip: MotionClip, fps: float = FPS) -> MotionClip:
    """The clip at another rate: slerp for rotations, linear for translation; the first frame stays the first."""
    if clip.fps == fps:
        return clip
    count = int(np.floor((len(clip) - 1) * fps / clip.fps + 1e-6)) + 1
    at = np.minimum(np.arange(count) * (clip.fps / fps), len(clip) - 1)
    low = np.floor(at + 1e-6).astype(int)
    high = np.minimum(low + 1, len(clip) - 1)
    part = np.clip(at - low, 0.0, 1.0)
    between = part > 1e-6  # at a whole multiple of the rate no frame is
    rotations = clip.rotations[low]
    rotations[between] = slerp(rotations[between], clip.rotations[high[between]], part[between, None])
    translation = clip.translation[low] * (1 - part)[:, None] + clip.translation[high] * part[:, None]
    return replace(
        clip,
        rotations=rotations,
        translation=translation.astype(np.float32),
        fps=float(fps),
    )


def _speeds(clip: MotionClip) -> np.ndarray:
    """Degrees per frame (T - 1, 24) by which each joint turns from one frame to the next."""
    return np.degrees(np.linalg.norm(_turns(clip.rotations[:-1], clip.rotations[1:]), axis=-1))


def without_reference_pose(clip: MotionClip) -> MotionClip:
    """The clip without the T-pose that some of CMU's begin with, from which both shoulders jump in the first second."""
    sideways = (clip.rotations[0, _SHOULDERS, 0, 0] > 0.97).all()
    opening = part_of(clip, 0, round(clip.fps) + 1)
    jumps = np.flatnonzero((_speeds(opening)[:, _SHOULDERS] > _JUMP).all(1))
    return part_of(clip, int(jumps[-1]) + 1, len(clip)) if sideways and len(jumps) else clip


def part_of(clip: MotionClip, start: int, end: int) -> MotionClip:
    """Frames `start` to `end` - 1 of the clip."""
    return replace(
        clip,
        rotations=clip.rotations[start:end],
        translation=clip.translation[start:end],
        cyclic=clip.cyclic and end - start == len(clip),
    )


def plausible_parts(clip: MotionClip, seconds: float = 0.5) -> list[MotionClip]:
    """The parts of at least `seconds` in which no tracking error shows; the clip is at 30 fps.

    Optical capture now and then turns a straight limb about itself by half a turn. Frames are cut out in which an ankle
    or wrist is turned further than it can be, and the clip is cut where a joint jumps from one frame to the next.
    """
    turned = np.degrees(np.linalg.norm(_turns(np.eye(3), clip.rotations), axis=-1))
    wrong = (turned[:, list(_LIMITS)] > list(_LIMITS.values())).any(1)
    leap = np.append(False, (_speeds(clip) > _LEAP).any(1))
    parts, start = [], 0
    for end in [*np.flatnonzero(wrong | leap).tolist(), len(clip)]:
        parts.append(part_of(clip, start, end))
        start = end + 1 if end < len(clip) and wrong[end] else end
    return [part for part in parts if len(part) >= seconds * clip.fps]


def mirrored(clip: MotionClip) -> MotionClip:
    """The clip seen in a mirror at x = 0: left and right joints change places."""
    name = clip.name.removesuffix("_mirror") if clip.name.endswith("_mirror") else f"{clip.name}_mirror"
    return replace(
        clip,
        rotations=_REFLECT @ clip.rotations[:, _SIDE_SWAP] @ _REFLECT,
        translation=clip.translation @ _REFLECT,
        name=name,
    )


def heading_between(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The turn about y, a matrix (3, 3), that brings root rotation `start` closest to `end`.

    Maximises trace(end^T Y start) over turns Y. Unlike the way the chest faces it is defined for someone who lies.
    """
    product = start @ end.T
    angle = np.arctan2(product[2, 0] - product[0, 2], product[0, 0] + product[2, 2])
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])


def moved(clip: MotionClip, turn: np.ndarray, pivot: np.ndarray, target: np.ndarray) -> MotionClip:
    """The clip turned about y by `turn` (3, 3), `pivot` (3,) brought over `target` (3,); heights stay."""
    rotations = clip.rotations.copy()
    rotations[:, 0] = turn @ clip.rotations[:, 0]
    shift = (target - turn @ pivot) * [1, 0, 1]
    return replace(clip, rotations=rotations, translation=(clip.translation @ turn.T + shift).astype(np.float32))


def _ease(count: int) -> np.ndarray:
    """Weights (count,) that rise smoothly from just above 0 to just below 1."""
    step = np.arange(1, count + 1) / (count + 1)
    return step * step * (3 - 2 * step)


def _closed(clip: MotionClip) -> MotionClip:
    """The cyclic clip whose last frame equals its first up to heading and position.

    What is left open at the seam is spread over the second half of the cycle.
    """
    last = len(clip) - 1
    turn = heading_between(clip.rotations[0, 0], clip.rotations[-1, 0])
    goal = clip.rotations[0].copy()
    goal[0] = turn @ goal[0]
    count = max(1, last // 2)
    weight = np.append(_ease(count - 1), 1.0)
    rotations, translation = clip.rotations.copy(), clip.translation.copy()
    gap = _turns(clip.rotations[-1], goal)
    rotations[last - count + 1 :] = _turned(clip.rotations[last - count + 1 :], gap * weight[:, None, None])
    translation[last - count + 1 :, 1] += weight * (translation[0, 1] - translation[-1, 1])
    return replace(clip, rotations=rotations, translation=translation)


def looped(clip: MotionClip, frames: int) -> MotionClip:
    """At least the clip, repeated to exactly `frames` frames; heading and position go on from cycle to cycle.

    A clip that is long enough is cut. Raises ValueError for a clip that is too short and not cyclic.
    """
    if len(clip) >= frames:
        return replace(clip, rotations=clip.rotations[:frames], translation=clip.translation[:frames], cyclic=False)
    if not clip.cyclic or len(clip) < 2:
        raise ValueError(f"{clip.name} is not cyclic: blend it with another clip to get {frames} frames")
    cycle = _closed(clip)
    turn = heading_between(cycle.rotations[0, 0], cycle.rotations[-1, 0])
    pieces, total = [cycle], len(cycle)
    while total < frames:
        pieces.append(moved(cycle, turn, cycle.translation[0], pieces[-1].translation[-1]))
        turn = turn @ heading_between(cycle.rotations[0, 0], cycle.rotations[-1, 0])
        total += len(cycle) - 1
    rotations = np.concatenate([pieces[0].rotations] + [piece.rotations[1:] for piece in pieces[1:]])
    translation = np.concatenate([pieces[0].translation] + [piece.translation[1:] for piece in pieces[1:]])
    return replace(clip, rotations=rotations[:frames], translation=translation[:frames], cyclic=False)


def blended(first: MotionClip, second: MotionClip, seconds: float = 0.5) -> MotionClip:
    """`first`, then `second`, overlapping for `seconds` in which one turns into the other.

    `second` is turned about y and moved over the ground so that heading and position agree in the middle of the
    overlap. It is brought to the rate of `first`.
    """
    second = resampled(second, first.fps)
    count = max(1, min(round(seconds * first.fps), len(first), len(second)))
    start, middle = len(first) - count, count // 2
    turn = heading_between(second.rotations[middle, 0], first.rotations[start + middle, 0])
    second = moved(second, turn, second.translation[middle], first.translation[start + middle])
    weight = _ease(count)
    between = _crossfade(first.rotations[start:], second.rotations[:count], weight)
    path = first.translation[start:] * (1 - weight)[:, None] + second.translation[:count] * weight[:, None]
    return replace(
        first,
        rotations=np.concatenate([first.rotations[:start], between, second.rotations[count:]]),
        translation=np.concatenate([first.translation[:start], path, second.translation[count:]]).astype(np.float32),
        name=f"{first.name}+{second.name}",
        family="+".join(dict.fromkeys([first.family, second.family])),
        source="; ".join(dict.fromkeys([first.source, second.source])),
        licence="; ".join(dict.fromkeys([first.licence, second.licence])),
        cyclic=False,
    )
