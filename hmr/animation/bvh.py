"""Motion as a BVH file: 24 bones with a person's own lengths, in centimetres, which is what readers of BVH expect."""

from __future__ import annotations

import warnings

import numpy as np
import roma
import torch
from numpy.typing import NDArray

from hmr.animation.track import Track, slerp
from hmr.animation.upright import UprightMotion, upright_motion
from hmr.body.model import LEAF_PARENTS, BodyModel
from hmr.media.video import rate_of

CENTIMETRES = 100.0  # in a metre
ORDER = "ZXY"


def bvh(track: Track, body: BodyModel) -> bytes:
    """A person's motion at a steady rate: frames that are not are interpolated at their mean rate."""
    steady = evenly(track)
    found = upright_motion(steady, body)
    lines = ["HIERARCHY", *joint(found, 0, 0), "MOTION", f"Frames: {len(steady)}", f"Frame Time: {1 / steady.fps:.8f}"]
    turns = angles(found.rotations)  # (T, J, 3)
    order = in_order(found.parents)
    for place, turn in zip(CENTIMETRES * found.pelvis, turns, strict=True):
        lines.append(" ".join(f"{value:.5f}" for value in (*place, *turn[order].flat)))
    return ("\n".join(lines) + "\n").encode()


def evenly(track: Track) -> Track:
    """A track at a steady rate."""
    if len(track) < 2 or rate_of(track.time_s.tolist()):
        return track
    times = np.linspace(track.time_s[0], track.time_s[-1], len(track))
    low = np.clip(np.searchsorted(track.time_s, times, side="right") - 1, 0, len(track) - 2)
    share = (times - track.time_s[low]) / np.maximum(track.time_s[low + 1] - track.time_s[low], 1e-9)
    one, other = track.part(low), track.part(low + 1)
    rotations = slerp(torch.from_numpy(one.rotations), torch.from_numpy(other.rotations), torch.tensor(share).float())
    joints = one.joints_m + (other.joints_m - one.joints_m) * share[:, None, None].astype(np.float32)
    return Track(**{**vars(one), "time_s": times, "rotations": rotations.numpy(), "joints_m": joints})


def joint(motion: UprightMotion, number: int, depth: int) -> list[str]:
    """The lines of a joint and of those below it."""
    inner, parent = "\t" * (depth + 1), motion.parents[number]
    offset = motion.joints[number] - (motion.joints[parent] if parent >= 0 else motion.joints[number])
    channels = ["Xposition", "Yposition", "Zposition"] if parent < 0 else []
    channels += [f"{axis}rotation" for axis in ORDER]
    lines = [
        "\t" * depth + ("ROOT " if parent < 0 else "JOINT ") + motion.names[number],
        "\t" * depth + "{",
        inner + "OFFSET " + offset_text(offset),
        inner + f"CHANNELS {len(channels)} {' '.join(channels)}",
    ]
    for child in (i for i, above in enumerate(motion.parents) if above == number):
        lines += joint(motion, child, depth + 1)
    if number in LEAF_PARENTS:
        end = motion.ends[LEAF_PARENTS.index(number)] - motion.joints[number]
        lines += [inner + "End Site", inner + "{", inner + "\tOFFSET " + offset_text(end), inner + "}"]
    return [*lines, "\t" * depth + "}"]


def offset_text(offset: NDArray[np.float32]) -> str:
    return " ".join(f"{value:.5f}" for value in CENTIMETRES * offset)


def in_order(parents: tuple[int, ...], number: int = 0) -> list[int]:
    """Joints as the hierarchy names them: each before those below it."""
    below = [i for i, above in enumerate(parents) if above == number]
    return [number, *(deeper for child in below for deeper in in_order(parents, child))]


def angles(rotations: NDArray[np.float32]) -> NDArray[np.float64]:
    """Rotations (T, J, 3, 3) -> degrees (T, J, 3) about the axes of ORDER, each after the one before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where two axes fall together one of their angles is 0, which is as good
        found = roma.rotmat_to_euler(ORDER, torch.from_numpy(rotations).double(), as_tuple=False, degrees=True)
    return found.numpy()
