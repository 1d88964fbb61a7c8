"""`fasthmr evaluate`: a model's errors on a data set, beside predictors that look at no picture."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import roma
import torch
from torch import Tensor, nn

from compress.errors import BadInput
from diffusion.model.decoder import LatentDiffusionDecoder
from diffusion.motion.features import read_off, spans
from diffusion.policy import decoder_in
from hmr.body.conventions import NAMES
from hmr.body.model import BodyModel, People
from hmr.data.dataset import Dataset
from hmr.data.datasets import SEED
from hmr.data.sample import Batch, Inputs, batch, known
from hmr.evaluation import metrics
from hmr.models.head import HMROutput

BATCH = 32
POSES = 1000  # training frames that the mean pose is taken over


@dataclass(frozen=True)
class Body:
    """What a predictor says of frames: local rotations (B, 24, 3, 3), the root in camera axes; betas (B, 10). What is
    true says of whom too."""

    rotations: Tensor
    betas: Tensor
    people: People | None = None


Heard = tuple[Body, Tensor | None]  # of a batch, see `heard`


@dataclass(frozen=True)
class Errors:
    """Errors of each frame, and the joints they come from, which the acceleration needs in a row."""

    per_joint_mm: Tensor  # (N, J)
    pa_mpjpe_mm: Tensor  # (N,)
    pve_mm: Tensor  # (N,), or (0,) where nobody knows the true vertices
    joints: Tensor  # (N, J, 3) m from the pelvis
    true_joints: Tensor  # (N, J, 3) m from the pelvis


def evaluate(
    model: nn.Module,
    data: Dataset,
    body: BodyModel,
    mean: Tensor | None,
    device: torch.device,
    progress: Callable[[int], None] = lambda frames: None,
    against: nn.Module | None = None,
) -> dict[str, Any]:
    """Rows of errors and the model's frames/s on `data`, as contracts.md's `evaluate` without its provenance.

    `mean` (24, 3, 3) is what the trivial predictors say, see `mean_rotations`; without it there are none. frames_per_s
    is of the model alone, in batches of BATCH, after a warm-up: rendering, body and metrics are left out. With a second
    model, `paired` says by how much `model` errs more than `against` on the same frames, drawn once. Raises BadInput
    where a model predicts a value that is not finite.
    """
    found: dict[str, list[Errors]] = {}
    truths: list[Body] = []
    seconds, decoder = 0.0, decoder_in(against) if against else None
    looked: list[Heard] = []
    look = None if against is None else lambda given: heard(against(*given), decoder)
    with torch.inference_mode():
        for predicted in predictions(model, decoder_in(model), data, device, look):
            truth = predicted.truth
            seconds += predicted.seconds
            for name, guess in {"model": predicted.said, **({} if mean is None else trivial(truth, mean))}.items():
                found.setdefault(name, []).append(errors(body, guess, truth))
            looked += [predicted.looked] if look else []
            truths.append(truth)
            progress(len(truth.betas))
        others = [errors(body, *pair) for pair in zip(spoken(looked, decoder, data), truths, strict=False)]
    clips = data.recordings
    rows = [row(name, joined(parts), clips, data.fps is not None) for name, parts in found.items()]
    paired = {"paired": paired_rise(joined(found["model"]), joined(others), clips)} if others else {}
    return {"rows": rows, "frames_per_s": len(data) / seconds, **paired}


@dataclass(frozen=True)
class Prediction:
    """What a model says of a batch of frames, their labels, the seconds that took, and what else was looked at."""

    said: Body
    labels: Body | None
    seconds: float
    looked: Any = None

    @property
    def truth(self) -> Body:
        """The labels; raises BadInput where there are none."""
        return known(self.labels, "labels")


def predictions(
    model: Callable[..., HMROutput],
    decoder: LatentDiffusionDecoder | None,
    data: Dataset,
    device: torch.device,
    look: Callable[[Inputs], Any] | None = None,
) -> Iterator[Prediction]:
    """A model's predictions batch by batch, after a warm-up; with a motion decoder, whole videos are seen first.

    `look(given)` is what else is wanted of each batch, after the model has seen it.
    """
    seen: list[tuple[Prediction, Heard]] = []
    for i, some in enumerate(batches(data, device)):
        given = some.inputs
        if i == 0:
            model(*given)
        began = _now(device)
        output = model(*given)
        took = _now(device) - began
        said = heard(output, decoder)
        prediction = Prediction(said[0], labels_of(some), took, look and look(given))
        if decoder is None:
            yield prediction
        else:
            seen.append((prediction, said))
    if decoder is not None:
        began = _now(device)
        bodies = spoken([said for _, said in seen], decoder, data)
        share = (_now(device) - began) / len(seen)
        for (prediction, _), body in zip(seen, bodies, strict=True):
            yield replace(prediction, said=body, seconds=prediction.seconds + share)


def heard(output: HMROutput, decoder: LatentDiffusionDecoder | None) -> Heard:
    """What the pose head says of a batch, and what a decoder behind it would read."""
    said = Body(output.rotations.float(), output.betas.float())
    return said, None if decoder is None else read_off(output, decoder.body)


def spoken(batches: Sequence[Heard], decoder: LatentDiffusionDecoder | None, data: Dataset) -> list[Body]:
    """What a model says of the batches of a whole data set: as its pose head does or, with a decoder, decoded."""
    if decoder is None or not batches:
        return [said for said, _ in batches]
    features = torch.cat([read for _, read in batches if read is not None])
    rotations = decoded(decoder, features, torch.cat([said.betas for said, _ in batches]), data)
    return [Body(part, said.betas) for part, (said, _) in zip(rotations.split(BATCH), batches, strict=True)]


def decoded(decoder: LatentDiffusionDecoder, features: Tensor, betas: Tensor, data: Dataset) -> Tensor:
    """Rotations (N, 24, 3, 3) of each of a data set's videos; raises BadInput where its frames are single pictures."""
    if data.fps is None:
        raise BadInput("this model decodes motion, and these frames are no videos: name synth-video")
    parts = [slice(frames.start, frames.stop) for frames in spans(data.recordings)]
    return torch.cat([decoder.video(features[part], betas[part], data.fps) for part in parts])


def paired_rise(mine: Errors, theirs: Errors, clips: list[str]) -> dict[str, Any]:
    """MPJPE of the first minus that of the second, frame by frame."""
    rise = metrics.paired_interval(mine.per_joint_mm.mean(1).numpy(), theirs.per_joint_mm.mean(1).numpy(), clips, SEED)
    return {"mpjpe_mm": asdict(rise)}


def batches(data: Dataset, device: torch.device) -> Iterator[Batch]:
    """Frames in order, BATCH at a time.

    Drawn in this process: rendering beside it would take the cores that the model is timed on.
    """
    for start in range(0, len(data), BATCH):
        yield batch([data[i] for i in range(start, min(start + BATCH, len(data)))], device)


def labels_of(some: Batch) -> Body | None:
    """What is true of frames; None where that is unknown."""
    if some.rotations is None or some.betas is None:
        return None
    return Body(some.rotations.float(), some.betas.float(), some.people)


def trivial(truth: Body, mean: Tensor) -> dict[str, Body]:
    """Predictors that know the training set's mean pose alone, and that with each frame's true root."""
    pose = mean.to(truth.rotations).expand_as(truth.rotations)
    true_root = torch.cat((truth.rotations[:, :1], pose[:, 1:]), 1)
    average = torch.zeros_like(truth.betas)
    return {"mean_pose_true_root": Body(true_root, average), "mean_pose_mean_root": Body(pose, average)}


def mean_rotations(data: Dataset) -> Tensor:
    """(24, 3, 3): per joint, the rotation nearest to the mean over up to POSES frames spread over `data`."""
    indices = np.unique(np.linspace(0, len(data) - 1, POSES).astype(int)).tolist()
    mean = np.mean([known(data[i].rotations, "poses") for i in indices], 0, dtype=np.float64)
    return roma.special_procrustes(torch.from_numpy(mean)).float()


def errors(body: BodyModel, guess: Body, truth: Body) -> Errors:
    """Errors of a batch of guesses; on whose body the truth is posed, `body` decides."""
    posed = body.positions(guess.rotations, guess.betas)
    true = body.positions(truth.rotations, truth.betas, truth.people)
    pve = posed.pelvis.new_zeros(0)
    if posed.vertices is not None and true.vertices is not None:
        pve = metrics.pve(posed.vertices, true.vertices, posed.pelvis, true.pelvis)
    return Errors(
        metrics.joint_errors(posed.joints, true.joints, aligned=True),
        metrics.pa_mpjpe(posed.joints, true.joints),
        pve,
        posed.joints,
        true.joints,
    )


def joined(parts: list[Errors]) -> Errors:
    """One Errors from those of consecutive batches, on the CPU."""
    return Errors(*(torch.cat([getattr(p, f) for p in parts]).cpu() for f in Errors.__dataclass_fields__))


def row(name: str, found: Errors, clips: list[str], video: bool) -> dict[str, Any]:
    """A predictor's row of the report: intervals over all frames, means per joint and per recording.

    Only the frames of a `video` follow each other, so only there is an acceleration; what nobody knows is None.
    """
    frames = {
        "mpjpe_mm": found.per_joint_mm.mean(1).numpy(),
        "pa_mpjpe_mm": found.pa_mpjpe_mm.numpy(),
        "pve_mm": found.pve_mm.numpy() if len(found.pve_mm) else None,
    }
    members = {clip: np.flatnonzero(np.asarray(clips) == clip) for clip in dict.fromkeys(clips)}
    accel = {clip: accelerations(found, i) if video else np.zeros(0) for clip, i in members.items()}
    accel_clips = [clip for clip, values in accel.items() for _ in values]
    return {
        "name": name,
        **{key: None if v is None else asdict(metrics.interval(v, clips, SEED)) for key, v in frames.items()},
        "accel_mm_per_frame2": (
            asdict(metrics.interval(np.concatenate(list(accel.values())), accel_clips, SEED)) if accel_clips else None
        ),
        "per_joint_mm": dict(zip(NAMES[found.joints.shape[1]], found.per_joint_mm.mean(0).tolist(), strict=True)),
        "per_clip": [
            {
                "clip": clip,
                "frames": len(i),
                **{key: None if v is None else float(v[i].mean()) for key, v in frames.items()},
                "accel_mm_per_frame2": float(np.mean(accel[clip])) if len(accel[clip]) else None,
            }
            for clip, i in members.items()
        ],
    }


def accelerations(found: Errors, frames: np.ndarray) -> np.ndarray:
    """Acceleration errors (T - 2,) in mm per frame squared over one recording's `frames` (T,)."""
    return metrics.accel(found.joints[frames], found.true_joints[frames], aligned=True).numpy()


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
