"""Errors of predicted bodies against true ones, and the row of a report that they become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import roma
import torch
from torch import Tensor

from hmr.body.conventions import NAMES
from hmr.body.model import BodyModel, People
from hmr.data.dataset import Frames
from hmr.data.sample import Batch, known
from hmr.evaluation import metrics
from hmr.evaluation.intervals import clip_means, interval, paired_interval
from hmr.models.head import HMROutput

KEYS = ("mpjpe_mm", "pa_mpjpe_mm", "pve_mm", "accel_mm_per_frame2")


@dataclass(frozen=True)
class PosedBodies:
    """B bodies: local rotations (B, 24, 3, 3), the root's in camera axes; betas (B, 10); `people` only of true ones."""

    rotations: Tensor
    betas: Tensor
    people: People | None = None


@dataclass(frozen=True)
class Errors:
    """Errors of each frame, and the joints they come from, which the acceleration needs in a row."""

    per_joint_mm: Tensor  # (N, J)
    pa_mpjpe_mm: Tensor  # (N,)
    pve_mm: Tensor  # (N,), or (0,) where the true vertices are unknown
    joints: Tensor  # (N, J, 3) m from the pelvis
    true_joints: Tensor  # (N, J, 3) m from the pelvis
    true_root_mm: Tensor  # (N,) MPJPE where the predicted body is turned to the true root
    root_deg: Tensor  # (N,) between the predicted root and the true one


def predicted(output: HMROutput) -> PosedBodies:
    """The bodies of a model's output."""
    return PosedBodies(output.rotations.float(), output.betas.float())


def labelled(seen: Batch) -> PosedBodies:
    """The true bodies of a batch; raises BadInput where they are unknown."""
    rotations, betas = known(seen.rotations, "poses"), known(seen.betas, "body shapes")
    return PosedBodies(rotations.float(), betas.float(), seen.people)


def errors(body: BodyModel, guess: PosedBodies, truth: PosedBodies) -> Errors:
    """Errors of a batch of guesses; on whose body the truth is posed, `body` decides."""
    posed = body.positions(guess.rotations, guess.betas)
    true = body.positions(truth.rotations, truth.betas, truth.people)
    pve = posed.pelvis.new_zeros(0)
    if posed.vertices is not None and true.vertices is not None:
        pve = metrics.pve(posed.vertices, true.vertices, posed.pelvis, true.pelvis)
    root, true_root = guess.rotations[:, 0], truth.rotations[:, 0]
    turned = posed.joints @ (true_root @ root.mT).mT
    return Errors(
        metrics.joint_errors(posed.joints, true.joints, aligned=True),
        metrics.pa_mpjpe(posed.joints, true.joints),
        pve,
        posed.joints,
        true.joints,
        metrics.mpjpe(turned, true.joints, aligned=True),
        torch.rad2deg(roma.rotmat_geodesic_distance(root, true_root)),
    )


@torch.no_grad()
def all_errors(body: BodyModel, guesses: Sequence[PosedBodies], truths: Sequence[PosedBodies]) -> Errors:
    """Errors of all batches, on the CPU."""
    parts = [errors(body, guess, truth) for guess, truth in zip(guesses, truths, strict=True)]
    return Errors(*(torch.cat([getattr(part, one.name) for part in parts]).cpu() for one in fields(Errors)))


def paired(mine: Errors, theirs: Errors, recordings: Sequence[str]) -> dict[str, Any]:
    """MPJPE of the first minus that of the second on the same frames: the mean over recordings with its interval."""
    first, second = (measured.per_joint_mm.mean(1).numpy() for measured in (mine, theirs))
    return asdict(paired_interval(first, second, recordings))


def row(name: str, measured: Errors, frames: Frames) -> dict[str, Any]:
    """A predictor's row of the report: means over recordings with their intervals, means of each joint and recording.

    Only the frames of a video follow each other, so only there is an acceleration; what is unknown is None. On data of
    a published convention `frames_mean` has the means over all frames, as papers print them; elsewhere it is None. The
    error of the root is a median over frames.
    """
    recordings = list(frames.recordings)
    members = {one: np.flatnonzero(np.asarray(recordings) == one) for one in dict.fromkeys(recordings)}
    per_frame = {
        "mpjpe_mm": measured.per_joint_mm.mean(1).numpy(),
        "pa_mpjpe_mm": measured.pa_mpjpe_mm.numpy(),
        "pve_mm": measured.pve_mm.numpy(),
    }
    accel = {one: accelerations(measured, i, frames) for one, i in members.items()}
    values = {key: (each, recordings) for key, each in per_frame.items()}
    values["accel_mm_per_frame2"] = (
        np.concatenate(list(accel.values())),
        [one for one, each in accel.items() for _ in each],
    )
    published = "convention" in frames.notes
    return {
        "name": name,
        **{key: asdict(interval(each, of)) if len(each) else None for key, (each, of) in values.items()},
        "mpjpe_true_root_mm": asdict(interval(measured.true_root_mm.numpy(), recordings)),
        "root_error_deg": measured.root_deg.median().item(),
        "frames_mean": {key: mean(each) for key, (each, _) in values.items()} if published else None,
        "per_joint_mm": dict(zip(NAMES[measured.joints.shape[1]], joint_means(measured, recordings), strict=True)),
        "per_clip": [
            {
                "clip": one,
                "frames": len(i),
                **{key: mean(each[i]) if len(each) else None for key, each in per_frame.items()},
                "accel_mm_per_frame2": mean(accel[one]),
            }
            for one, i in members.items()
        ],
    }


def mean(values: np.ndarray) -> float | None:
    """The mean of all values; None where there are none."""
    return float(values.mean()) if len(values) else None


def joint_means(measured: Errors, recordings: Sequence[str]) -> list[float]:
    """The error of each joint in mm, as a mean over recordings."""
    means: list[float] = clip_means(measured.per_joint_mm.double().numpy(), recordings).mean(0).tolist()
    return means


def accelerations(measured: Errors, members: np.ndarray, frames: Frames) -> np.ndarray:
    """Acceleration errors (T - 2,) in mm per frame squared over one recording's `members` (T,); none where frames do
    not follow each other."""
    if not frames.follow:
        return np.zeros(0)
    times = None if frames.times is None else torch.tensor(frames.times, dtype=torch.float64)[members]
    return metrics.accel(measured.joints[members], measured.true_joints[members], aligned=True, times=times).numpy()
