"""From what a network said of each crop to one person's motion: gaps filled, one shape, in the camera's axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import roma
import torch
from numpy.typing import NDArray
from torch import Tensor

from hmr.animation.track import COCO, Track, rate, slerp
from hmr.body.model import BodyModel
from hmr.models.head import HMROutput
from hmr.video.crops import FrameCropper
from hmr.video.distance import steadied
from hmr.video.stages import Stages

LEAST = 5  # frames that a track has, where the video has as many: what is shorter is no person
VALUES = ("global_orient", "body_pose", "betas", "camera", "features")
HEAD = 15  # the joint that those vertices move with

Arrays = dict[str, NDArray[Any]]


def tracks_of(
    records: Arrays,
    moments: Arrays,
    model: Any,
    body: BodyModel,
    cropper: FrameCropper,
    stages: Stages,
    least: int = LEAST,
) -> list[Track]:
    """The people of a video by their numbers; those who are seen in fewer than `least` of its frames are left out.

    records: of each crop id (N,), moment (N,), box (N, 4), score (N,) and the fields of HMROutput; moments: frame (M,)
    and time (M,) of every frame that was looked at.
    """
    found = []
    for number in np.unique(records["id"]).tolist():
        rows = np.flatnonzero(records["id"] == number)
        _, once = np.unique(records["moment"][rows], return_index=True)
        mine = {name: values[rows[once]] for name, values in records.items()}
        if len(once) >= min(least, len(moments["frame"])):
            found.append(track_of(int(number), mine, moments, model, body, cropper, stages))
    return found


def track_of(
    number: int,
    seen: Arrays,
    moments: Arrays,
    model: Any,
    body: BodyModel,
    cropper: FrameCropper,
    stages: Stages,
    betas: Tensor | None = None,
) -> Track:
    """One person's motion from the crops that showed them, in the shape `betas` (10,) or else the mean of theirs."""
    span = np.arange(seen["moment"][0], seen["moment"][-1] + 1)
    filled = without_gaps(seen, span)
    frame, times = moments["frame"][span], moments["time"][span]
    output = HMROutput(*(torch.from_numpy(filled[name]) for name in VALUES))
    if model.takes_clips:
        with stages.stage("decoder"):
            device = next(model.parameters()).device
            there = HMROutput(*(getattr(output, name).to(device) for name in VALUES))
            output = HMROutput(*(value.cpu() for value in vars(model.decoded(there, rate(times))).values()))
    with stages.stage("body"), torch.no_grad():
        betas = weighted(seen["betas"], seen["score"]) if betas is None else betas
        own = body.rest_joints(output.betas)[:, 0]  # (T, 3), with the shape that each frame has by itself
        rotations, pelvis = cropper.placed(filled["box"], output.rotations, output.camera, own)
        rotations = roma.special_procrustes(rotations)
        pelvis = torch.from_numpy(steadied(pelvis.numpy(), filled["score"] > 0, times))
        translation = pelvis - body.rest_joints(betas[None])[:, 0]
        joints, faces = joints_of(body, rotations, betas[None])
    return Track(
        id=number,
        frame=frame,
        time_s=times,
        rotations=rotations.numpy(),
        betas=betas.numpy(),
        camera=filled["camera"],
        translation_m=translation.numpy(),
        joints_m=(joints + translation[:, None]).numpy(),
        joints_coco_m=(faces + translation[:, None]).numpy(),
        box_px=filled["box"].astype(np.float32),
        confidence=filled["score"],
        interpolated=~np.isin(span, seen["moment"]),
        focal_px=cropper.focal,
    )


def weighted(betas: NDArray[np.float32], scores: NDArray[np.float32]) -> Tensor:
    """The one shape (10,) of a person: the mean of those of T frames (T, 10), by their scores (T,)."""
    return torch.from_numpy(np.average(betas, 0, weights=np.maximum(scores, 1e-3)).astype(np.float32))


def without_gaps(seen: Mapping[str, NDArray[Any]], span: NDArray[np.int64]) -> Arrays:
    """The records of one person, at moments (N,), at every moment of `span` (T,): linearly between neighbours, and
    rotations along the shortest way. The score is 0 where nobody was seen."""
    at = seen["moment"]
    low = np.searchsorted(at, span, side="right") - 1
    high = np.minimum(low + 1, len(at) - 1)
    share = (span - at[low]) / np.maximum(at[high] - at[low], 1)  # (T,) 0 where somebody was seen
    out: Arrays = {}
    for name in (*VALUES, "box"):
        one, other = torch.from_numpy(seen[name][low]), torch.from_numpy(seen[name][high])
        if name in ("global_orient", "body_pose"):
            out[name] = slerp(one, other, torch.from_numpy(share).float()).numpy()
        else:
            part = torch.from_numpy(share).to(one).view(-1, *[1] * (one.ndim - 1))
            out[name] = (one * (1 - part) + other * part).numpy()
    out["score"] = np.where(share == 0, seen["score"][low], 0).astype(np.float32)
    return out


def joints_of(body: BodyModel, rotations: Tensor, betas: Tensor) -> tuple[Tensor, Tensor]:
    """Joints (T, 24, 3) m and COCO's keypoints (T, 17, 3) m of a posed body; nose, eyes and ears are points of the
    resting shape that move with the head."""
    joints, turns = body.chain(rotations, betas)
    rest, names = body.rest_joints(betas), body.layout.joints
    keypoints = []
    for point in COCO:
        if isinstance(point, str):
            keypoints.append(joints[:, names.index(point)])
            continue
        vertex = body.v_template[point[1]] + body.shapedirs[point[1]] @ betas[0]
        keypoints.append(joints[:, HEAD] + turns[:, HEAD] @ (vertex - rest[0, HEAD]))
    return joints, torch.stack(keypoints, 1)
