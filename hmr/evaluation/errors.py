"""Errors of predicted bodies against true ones, and the row of a report that they become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import roma
import torch
from torch import Tensor

from hmr.adapters.adapted import PlacedJoints
from hmr.body.conventions import NAMES
from hmr.body.model import People, Positions
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

    def positions(self, body: Any) -> Positions:
        """What errors are measured on, on a `BodyModel`."""
        found: Positions = body.positions(self.rotations, self.betas, self.people)
        return found

    def joints_from_pelvis(self, body: Any) -> Tensor:
        """The joints (B, J, 3) m of `positions` alone, which costs less."""
        found: Tensor = body.joints_from_pelvis(self.rotations, self.betas, self.people)
        return found


class LoneJoints(PlacedJoints):
    """B people of whom an adapter knows the joints; as `PosedBodies`, and no body is asked."""

    def positions(self, body: Any) -> Positions:
        return Positions(self.from_root, None, self.joints[:, 0].float())

    def joints_from_pelvis(self, body: Any) -> Tensor:
        return self.from_root


People3D = PosedBodies | LoneJoints


@dataclass(frozen=True)
class Errors:
    """Errors of each frame, and the joints they come from, which the acceleration needs in a row."""

    per_joint_mm: Tensor  # (N, J)
    pa_mpjpe_mm: Tensor  # (N,)
    pve_mm: Tensor  # (N,), or (0,) where the true vertices are unknown
    joints: Tensor  # (N, J, 3) m from the pelvis
    true_joints: Tensor  # (N, J, 3) m from the pelvis
    true_root_mm: Tensor  # (N,) MPJPE where the predicted body is turned to the true root; (0,) of an adapter's joints
    root_deg: Tensor  # (N,) between the predicted root and the true one; (0,) of an adapter's joints


def predicted(output: HMROutput | PlacedJoints) -> People3D:
    """The bodies, or an adapter's joints, of a model's output."""
    if isinstance(output, PlacedJoints):
        return LoneJoints(output.joints)
    return PosedBodies(output.rotations.float(), output.betas.float())


def labelled(seen: Batch) -> People3D:
    """The true bodies of a batch, or the joints that an adapter labelled it with; raises BadInput where they are
    unknown."""
    if seen.rotations is None and seen.joints is not None:
        return LoneJoints(seen.joints)
    rotations, betas = known(seen.rotations, "poses"), known(seen.betas, "body shapes")
    return PosedBodies(rotations.float(), betas.float(), seen.people)


def errors(body: Any, guess: People3D, truth: People3D) -> Errors:
    """Errors of a batch of guesses; on whose body the truth is posed, `body` decides."""
    posed, true = guess.positions(body), truth.positions(body)
    pve = posed.pelvis.new_zeros(0)
    if posed.vertices is not None and true.vertices is not None:
        pve = metrics.pve(posed.vertices, true.vertices, posed.pelvis, true.pelvis)
    return Errors(
        metrics.joint_errors(posed.joints, true.joints, aligned=True),
        metrics.pa_mpjpe(posed.joints, true.joints),
        pve,
        posed.joints,
        true.joints,
        *root_errors(guess, truth, posed.joints, true.joints),
    )


def root_errors(guess: People3D, truth: People3D, posed: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """`true_root_mm` and `root_deg` of joints (B, J, 3) m; joints alone have no root that could be turned."""
    if not isinstance(guess, PosedBodies) or not isinstance(truth, PosedBodies):
        return posed.new_zeros(0), posed.new_zeros(0)
    root, true_root = guess.rotations[:, 0], truth.rotations[:, 0]
    turned = posed @ (true_root @ root.mT).mT
    degrees = torch.rad2deg(roma.rotmat_geodesic_distance(root, true_root))
    return metrics.mpjpe(turned, true, aligned=True), degrees


@torch.no_grad()
def all_errors(body: Any, guesses: Sequence[People3D], truths: Sequence[People3D]) -> Errors:
    """Errors of all batches, on the CPU."""
    parts = [errors(body, guess, truth) for guess, truth in zip(guesses, truths, strict=True)]
    return Errors(*(torch.cat([getattr(part, one.name) for part in parts]).cpu() for one in fields(Errors)))


def paired(mine: Errors, theirs: Errors, recordings: Sequence[str]) -> dict[str, Any]:
    """MPJPE of the first minus that of the second on the same frames: the mean over recordings with its interval."""
    first, second = (measured.per_joint_mm.mean(1).numpy() for measured in (mine, theirs))
    return asdict(paired_interval(first, second, recordings))


def paired_pa(mine: Errors, theirs: Errors, recordings: Sequence[str]) -> dict[str, Any]:
    """As `paired`, of PA-MPJPE."""
    return asdict(paired_interval(mine.pa_mpjpe_mm.numpy(), theirs.pa_mpjpe_mm.numpy(), recordings))


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
    published, turned = "convention" in frames.notes, measured.true_root_mm.numpy()
    names = NAMES[measured.joints.shape[1]] if len(turned) else numbered(measured.joints.shape[1])
    return {
        "name": name,
        **{key: asdict(interval(each, of)) if len(each) else None for key, (each, of) in values.items()},
        "mpjpe_true_root_mm": asdict(interval(turned, recordings)) if len(turned) else None,
        "root_error_deg": measured.root_deg.median().item() if len(turned) else None,
        "frames_mean": {key: mean(each) for key, (each, _) in values.items()} if published else None,
        "per_joint_mm": dict(zip(names, joint_means(measured, recordings), strict=True)),
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


def numbered(count: int) -> list[str]:
    """Names of joints that have none, in the order of their numbers."""
    return [f"joint {i:03}" for i in range(count)]


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
