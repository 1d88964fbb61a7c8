"""Errors on people by several cameras, `real` and `real-avatar`: one person whose truth is joints, and silver.

There is one recording, so no figure has an interval. The root of a body is the frame of its hips and shoulders, which
joints tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import roma
import torch
from torch import Tensor

from compress.context import Observer
from hmr.body.conventions import CONVENTIONS
from hmr.body.limbs import LIMBS, ROWS, trunk
from hmr.data.real_people.dataset import CONVENTION, Keypoints, RealFrames, Truth
from hmr.data.real_people.offsets import landmarks_of, read_offsets
from hmr.data.sample import known
from hmr.evaluation import metrics
from hmr.evaluation.errors import KEYS
from hmr.evaluation.intervals import Interval
from hmr.evaluation.predict import merged_shares, predict
from hmr.models.head import HMROutput

FAVOURED = ("blazepose",)  # truth is made of its own landmarks in the other views


@dataclass(frozen=True)
class Guess:
    """What a predictor gives for N frames."""

    joints: Tensor  # (N, 12, 3) m from between the hips, in the axes of each crop's camera
    keypoint_share: Tensor | None = None  # see `keypoint_shares`


@dataclass(frozen=True)
class ViewsMeasurement:
    """A `compress.frames.Scores` of people by several cameras; `per_clip` has the views."""

    name: str
    frames: RealFrames
    guess: Guess
    frames_per_s: float
    person_merged: Tensor | None

    def row(self, original: ViewsMeasurement | None = None) -> dict[str, Any]:
        """The figures as JSON values; `mpjpe_rise_mm` is over `original`, on the same frames."""
        truth = known(self.frames.truth, "true joints")
        every, *views = (
            row(self.name, self.guess, None, self.frames, view) for view in (None, *dict.fromkeys(truth.views))
        )
        rise = original and alone(mpjpe(self.guess, truth) - mpjpe(original.guess, truth))
        clips = [
            {
                "clip": view["view"],
                "frames": truth.views.count(view["view"]),
                **{key: mean_of(view[key]) for key in KEYS},
            }
            for view in views
        ]
        return {
            "frames_per_s": self.frames_per_s,
            **{key: every[key] for key in (*KEYS, "frames_mean", "per_joint_mm")},
            "per_clip": clips,
            "mpjpe_rise_mm": rise,
            **merged_shares(self.person_merged),
        }


def measure_views(model: Any, frames: RealFrames, name: str, observer: Observer) -> ViewsMeasurement:
    """The errors of `model` on every frame, and its frames/s. Raises BadInput where the true joints are unknown."""
    known(frames.truth, "true joints")
    (found,) = predict([model], frames, progress=lambda done: observer(f"measuring {name}", "", done, len(frames)))
    guess = guessed(model, found.outputs, frames)
    return ViewsMeasurement(name, frames, guess, len(frames) / found.seconds, found.person_merged)


def evaluate_real(
    model: Any,
    frames: RealFrames,
    flat: RealFrames | None,
    mean: Tensor | None,
    against: Any | None,
    progress: Callable[[int], None],
) -> dict[str, Any]:
    """Rows of errors for all views together and for each, as JSON values; arguments as of
    `hmr.evaluation.evaluate.evaluate`.

    flat: frames of people without a truth in space, which add a row of errors in the picture alone.
    """
    truth = known(frames.truth, "true joints")
    mine, *others = predict([model] if against is None else [model, against], frames, progress=progress)
    guess = guessed(model, mine.outputs, frames)
    guesses = {"model": guess, "blazepose": Guess(truth.blazepose)}
    if mean is not None:
        guesses["mean_pose_true_root"] = Guess(under_root(mean_joints(model, mean), truth.joints))
    rows = [
        row(name, each, guess if name != "model" else None, frames, view)
        for name, each in guesses.items()
        for view in (None, *dict.fromkeys(truth.views))
    ]
    rows += flat_rows(model, flat, rows[0])
    result: dict[str, Any] = {"rows": rows, "frames_per_s": len(frames) / mine.seconds}
    for other in others:
        theirs = guessed(against, other.outputs, frames)
        result["paired"] = {"mpjpe_mm": alone(mpjpe(guess, truth) - mpjpe(theirs, truth))}
    return result


def guessed(model: Any, outputs: Sequence[HMROutput], frames: RealFrames) -> Guess:
    """The joints of a model's output on all frames, and how far they lie from keypoints in the picture."""
    skeletons = torch.cat([limbs(model.encoder.body, each) for each in outputs]).double().cpu()
    camera = torch.cat([each.camera for each in outputs]).double().cpu()
    joints = skeletons - skeletons[:, :2].mean(1, keepdim=True)
    return Guess(joints, keypoint_shares(skeletons, camera, known(frames.keypoints, "keypoints"), frames.size))


def limbs(body: Any, output: HMROutput) -> Tensor:
    """The twelve joints (B, 12, 3) in m of predicted bodies, from the body's own origin."""
    skeleton: Tensor = body.skeleton(output.rotations.float(), output.betas.float())
    return skeleton[:, list(ROWS)]


def mean_joints(model: Any, mean: Tensor) -> Tensor:
    """Joints (12, 3) m of the model's body in a mean pose (24, 3, 3), from between the hips."""
    device = next(model.parameters()).device
    skeleton = model.encoder.body.skeleton(mean[None].to(device), torch.zeros(1, 10, device=device))
    joints: Tensor = CONVENTIONS[CONVENTION].placed(skeleton, None).joints[0]
    return joints.detach().double().cpu()


def under_root(joints: Tensor, truth: Tensor) -> Tensor:
    """Joints (..., 12, 3) from between the hips, turned so that their trunk is that of the truth (N, 12, 3)."""
    return joints @ (trunk(truth) @ trunk(joints).mT).mT


def keypoint_shares(joints: Tensor, camera: Tensor, keypoints: Keypoints, size: tuple[int, int]) -> Tensor:
    """Distances (N, 12) between BlazePose's landmarks, where they are visible, and those of predicted joints (N, 12, 3)
    as camera (N, 3) puts them into crops of `size`; as shares of the person's box, NaN where nothing is visible.

    camera is (s, tx, ty) as HMR2.0 predicts it: the body stands at a depth of 2 f / (H s).
    """
    height, width = size
    per_metre = height * camera[:, :1] / 2  # (N, 1) pixels at that depth
    points = landmarks_of(joints, read_offsets())
    nearer = 1 + points[..., 2] * per_metre / keypoints.focal[:, None]
    moved = (points[..., :2] + camera[:, None, 1:]) * (per_metre / nearer)[..., None]
    off = (moved + moved.new_tensor([width / 2, height / 2]) - keypoints.places).norm(dim=-1)
    return (off / keypoints.box[:, None]).masked_fill(~keypoints.visible, torch.nan)


def row(name: str, guess: Guess, model: Guess | None, frames: RealFrames, view: str | None) -> dict[str, Any]:
    """A predictor's errors in one view, or in all. `paired_mpjpe_mm` is what the `model` errs more by than this one."""
    truth = known(frames.truth, "true joints")
    here = torch.tensor([view in (None, one) for one in truth.views])
    joints, true = guess.joints[here], truth.joints[here]
    error = metrics.joint_errors(joints, true, aligned=True)
    shares = None if guess.keypoint_share is None else guess.keypoint_share[here]
    root = torch.rad2deg(roma.rotmat_geodesic_distance(trunk(joints), trunk(true)))
    return {
        "name": name,
        "view": view,
        "favoured": name in FAVOURED,
        "mpjpe_mm": alone(error.mean(1)),
        "pa_mpjpe_mm": alone(metrics.pa_mpjpe(joints, true)),
        "pve_mm": None,
        "accel_mm_per_frame2": acceleration(guess, truth, here, frames.fps),
        "mpjpe_true_root_mm": alone(metrics.mpjpe(under_root(joints, true), true, aligned=True)),
        "root_error_deg": root.median().item(),
        "keypoint_error_share": None if shares is None else shares.nanmedian().item(),
        "disagreement_mm": disagreement(guess.joints, truth) if view is None else None,
        "paired_mpjpe_mm": model and alone((mpjpe(model, truth) - mpjpe(guess, truth))[here]),
        "frames_mean": None,
        "per_joint_mm": dict(zip(LIMBS, error.mean(0).tolist(), strict=True)),
        "per_clip": [],
    }


def flat_rows(model: Any, frames: RealFrames | None, like: dict[str, Any]) -> list[dict[str, Any]]:
    """The row of people of whom only BlazePose's keypoints are known, with the keys of other rows."""
    if frames is None:
        return []
    (predictions,) = predict([model], frames)
    shares = known(guessed(model, predictions.outputs, frames).keypoint_share, "keypoints")
    known_here = {"name": "model", "view": frames.spec.name, "favoured": False}
    return [{**dict.fromkeys(like), **known_here, "keypoint_error_share": shares.nanmedian().item()}]


def disagreement(joints: Tensor, truth: Truth) -> float:
    """How far apart different views put the same joints (N, 12, 3), turned into the world: the mean over pairs of
    views, joints and moments in mm. Needs no truth; who always gives the same pose under the true root has none."""
    world = (joints @ truth.rotations).unflatten(0, (len(set(truth.views)), -1))  # (N, 12, 3) -> (V, T, 12, 3)
    apart = [(world[a] - world[b]).norm(dim=-1).mean() for a, b in combinations(range(len(world)), 2)]
    return 1000 * torch.stack(apart).mean().item()


def acceleration(guess: Guess, truth: Truth, here: Tensor, fps: float | None) -> dict[str, Any] | None:
    """The mean acceleration error within views; None where frames do not follow each other."""
    if fps is None:
        return None
    errors = []
    for view in dict.fromkeys(one for one, kept in zip(truth.views, here.tolist(), strict=True) if kept):
        rows = torch.tensor([one == view for one in truth.views])
        errors.append(metrics.accel(guess.joints[rows], truth.joints[rows], aligned=True))
    return alone(torch.cat(errors)) if len(torch.cat(errors)) else None


def mpjpe(guess: Guess, truth: Truth) -> Tensor:
    """(N,) mm."""
    return metrics.mpjpe(guess.joints, truth.joints, aligned=True)


def mean_of(value: dict[str, Any] | None) -> float | None:
    """The mean of an interval as JSON values."""
    return None if value is None else value["mean"]


def alone(values: Tensor) -> dict[str, Any]:
    """A mean over the frames of one recording, which has no interval, as JSON values."""
    return asdict(Interval(values.mean().item(), None, None))
