"""Motion as arrays and as a table: one npz for each person, and one CSV of everybody's joints."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import roma
import torch
from numpy.typing import NDArray

from hmr.animation.track import Track, named
from hmr.body.model import JOINT_NAMES, BodyModel

CAMERA_AXES = "the video's camera: x right, y down, z forward, which looks through the middle of its picture"
UNITS = {
    "frame": "number of the frame among those that decode, from 0",
    "time_s": "s, as the file has it",
    "global_orient": "rotation matrices from the resting body to the camera's axes",
    "body_pose": "rotation matrices, each in its parent's axes",
    "axis_angle": "rad, global_orient and body_pose",
    "betas": "standard deviations of the body's shape, one for all frames",
    "camera": "s, tx, ty of the crop as the model said it; tx and ty in m",
    "translation_m": "m, added to the posed body",
    "focal_px": "px",
    "joints_m": "m, in the order of joint_names",
    "joints_coco_m": "m, in the order of coco_names",
    "box_px": "px: left, top, right, bottom",
    "confidence": "0 to 1, of whatever found the person; 0 where nobody did",
    "interpolated": "whether nobody was found in this frame, so that its values lie between those of its neighbours",
    "vertices_m": "m",
    "world_orient": "rotation matrices from the resting body to the world",
    "world_translation_m": "m, added to the posed body in the world's axes",
    "world_joints_m": "m, in the world's axes",
}


def npz(track: Track, metric: bool, body: BodyModel, vertices: bool = False, world: Any = None) -> bytes:
    """One person's file: arrays that `numpy.load(allow_pickle=False)` reads, and what they mean beside them.

    metric: whether the focal length is known. world: more arrays by their names, see `hmr.animation.world`.
    """
    rotations = torch.from_numpy(track.rotations)
    arrays: dict[str, NDArray[Any]] = {
        "frame": track.frame,
        "time_s": track.time_s,
        "global_orient": track.rotations[:, :1],
        "body_pose": track.rotations[:, 1:],
        "axis_angle": roma.rotmat_to_rotvec(rotations).flatten(1).numpy(),
        **{name: np.asarray(getattr(track, name)) for name in UNITS if hasattr(track, name) and name not in SHARED},
        **({"vertices_m": track.vertices_m(body)} if vertices else {}),
        **(world or {}),
    }
    facts = {
        "axes": CAMERA_AXES,
        "units": [f"{name}: {UNITS[name]}" for name in arrays],
        "depth": "metric" if metric else "not metric: the focal length is assumed",
        "joint_names": JOINT_NAMES,
        "coco_names": named(),
        "body": f"{body.name} {body.sha256}",
    }
    stream = io.BytesIO()
    everything: dict[str, Any] = {**arrays, **{name: np.array(value) for name, value in facts.items()}}
    np.savez_compressed(stream, **everything)
    return stream.getvalue()


SHARED = ("frame", "time_s", "vertices_m")  # that are not fields by these names, or are there already


def joint_table(tracks: Sequence[Track], metric: bool) -> bytes:
    """Everybody's 24 joints, a line for each person and frame, below a line that says what they are."""
    stream = io.StringIO()
    depth = "metric" if metric else "not metric (focal length assumed)"
    stream.write(f"# joints in metres, axes of {CAMERA_AXES}; depth is {depth}\n")
    writer = csv.writer(stream, lineterminator="\n")
    places = [f"{joint}_{axis}_m" for joint in JOINT_NAMES for axis in "xyz"]
    writer.writerow(["track", "frame", "time_s", "confidence", "interpolated", *places])
    for track in tracks:
        for i in range(len(track)):
            known = track.id, track.frame[i], f"{track.time_s[i]:.6f}", f"{track.confidence[i]:.3f}"
            writer.writerow([*known, int(track.interpolated[i]), *(f"{x:.5f}" for x in track.joints_m[i].flat)])
    return stream.getvalue().encode()
