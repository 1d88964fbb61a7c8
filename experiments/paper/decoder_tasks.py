"""Where each kind of decoder helps: what the picture does not show, and few labels.

A task hides something of videos, or takes labels away. Every kind is trained on the same clips with the same things
hidden, and answers for what is hidden: once, or in samples. In one task 2D keypoints are known where nothing is seen,
which nothing was trained with: sampling is guided by them, a Gaussian is conditioned on them, and of one answer x and y
are put where they are known to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.errors import BadInput
from compress.provenance import provenance
from compress.training.task import TrainConfig
from diffusion.decoded import encoder_id
from diffusion.model.decoder import ClipDecoder, Kind, load_decoder
from diffusion.model.guidance import conditioned, energy, scaled
from diffusion.model.representation import rotations_of
from diffusion.motion.clips import FPS, filled
from diffusion.motion.extraction import identity_of, in_cache, opened
from diffusion.motion.features import VideoFeatures
from diffusion.motion.occlusion import half_hidden, hidden_joints, points
from diffusion.training.decoder import GAPS_S, train_decoder
from experiments.paper.decoders import CPU, DECODER, DecoderComparison
from hmr.body.model import BodyModel
from hmr.data.dataset import Frames
from hmr.evaluation.intervals import interval, paired_interval
from hmr.evaluation.metrics import MM, accel
from hmr.evaluation.predict import recording_spans
from hmr.evaluation.probabilistic import apart, best_of, covered, energy_score, gaussian_about, gaussian_samples
from hmr.world.synthetic import generator

Task = Literal["as they are", "gaps", "half hidden", "few labels", "keypoints"]
TABLES: dict[str, tuple[Task, ...]] = {  # sampling where each step is guided takes as long as all the rest
    "tasks": ("as they are", "gaps", "half hidden", "few labels"),
    "keypoints": ("keypoints",),
}
FEW = 20  # labelled videos
GUIDED = 10  # denoising steps at most where each is guided, which takes a hundred times as long
SAMPLES, BEST = 19, 10  # between the least and the largest of 19 lie nine in ten
SCORES = ("mpjpe_mm", "energy_mm", "best_of_10_mm", "coverage", "apart_mm")


@dataclass(frozen=True)
class TaskRow:
    """How a decoder answers: once, in samples of its own, or in samples of the Gaussian that fits its residuals."""

    name: str
    kind: Kind
    steps: int = 1  # of denoising
    samples: int = 1
    gaussian: bool = False


# What differences are paired with: of one answer, and of answers that know how sure they are.
AGAINST = TaskRow("regressor", "regressor")
GAUSSIAN = TaskRow("regressor, Gaussian of its residuals", "regressor", samples=SAMPLES, gaussian=True)
ROWS = (
    TaskRow("linear", "linear"),
    TaskRow("linear, Gaussian of its residuals", "linear", samples=SAMPLES, gaussian=True),
    AGAINST,
    GAUSSIAN,
    TaskRow("diffusion, one step", "diffusion"),
    TaskRow("diffusion, 10 steps", "diffusion", 10, SAMPLES),
    TaskRow("diffusion, 50 steps", "diffusion", 50, SAMPLES),
)


@dataclass(frozen=True)
class TaskVideo:
    """A video, which of its frames (N,) are seen, which joints (N, 24) count, and maybe 2D keypoints (N, 24, 2) of
    those, in pixels from the pelvis."""

    video: VideoFeatures
    seen: Tensor
    counts: Tensor
    name: str
    pixels: Tensor | None = None


def gap(frames: int, fps: float, name: str) -> NDArray[np.bool_]:
    """Which frames (N,) of a video are seen where a tracker lost somebody for GAPS_S; it follows from the name."""
    rng = generator("gap", name)
    length = min(round(rng.uniform(*GAPS_S) * fps), frames - 1)
    first = int(rng.integers(frames - length + 1))
    seen = np.ones(frames, bool)
    seen[first : first + length] = False
    return seen


def answers(decoder: ClipDecoder, row: TaskRow, one: TaskVideo, body: BodyModel) -> Tensor:
    """Joints (S, N, 24, 3) m from the pelvis, as often as a decoder answers."""
    video, found = one.video, []
    decoder.steps = row.steps
    for seed in range(1 if row.gaussian else row.samples):
        decoder.seeded(seed)
        if one.pixels is not None and row.kind == "diffusion":
            rotations = guided(decoder, one, body)
        else:
            rotations = decoder.video(video.features, video.predicted_betas, video.fps, one.seen)
        found.append(body.skeleton(rotations, video.predicted_betas))
    return from_pelvis(torch.stack(found))


def guided(decoder: ClipDecoder, one: TaskVideo, body: BodyModel) -> Tensor:
    """Rotations (N, 24, 3, 3) of a video that is one clip, towards its keypoints. Raises BadInput for other videos."""
    video, pixels = one.video, one.pixels
    if len(video) != decoder.sizes.frames or video.fps != FPS or pixels is None:
        raise BadInput(f"{one.name}: keypoints guide clips of {decoder.sizes.frames} frames at {FPS:g} frames/s")

    def unlikely(numbers: Tensor) -> Tensor:
        joints = numbers[0, :, :72].unflatten(-1, (24, 3))  # of 29 joints the first 24 are SMPL's
        return energy(joints, scaled(pixels, joints.detach()), one.counts)

    seen = one.seen[None]
    numbers = decoder.numbers(video.features[None], seen, unlikely)
    betas = filled(video.predicted_betas[None], seen)
    with torch.no_grad():
        return rotations_of(numbers, betas, body, decoder.sizes.representation)[0]


def drawn(samples: Tensor, residuals: Tensor | None, one: TaskVideo, row: TaskRow, seed: int) -> Tensor:
    """Answers (S, N, 24, 3) m of a row: samples of its own, or of the Gaussian of its residuals (M, 72) about its one
    answer, and what keypoints make of either."""
    aims = None if one.pixels is None or row.kind == "diffusion" else scaled(one.pixels, samples[0])
    if residuals is None:
        if aims is not None:
            flat = torch.where(one.counts[..., None], aims, samples[..., :2])
            samples = torch.cat((flat, samples[..., 2:]), -1)
        return samples
    mean = samples[0].flatten(1)  # (N, 72)
    if aims is None:
        return gaussian_samples(mean, residuals, row.samples, seed).unflatten(2, (24, 3))
    middle, covariance = conditioned(mean + residuals.mean(0), residuals.mT.cov(), aims, one.counts)
    return gaussian_about(middle, covariance, row.samples, seed).unflatten(2, (24, 3))


def truth(video: VideoFeatures, body: BodyModel) -> Tensor:
    """True joints (N, 24, 3) m from the pelvis."""
    return from_pelvis(body.skeleton(video.rotations, video.betas))


def from_pelvis(joints: Tensor) -> Tensor:
    """Joints (..., 24, 3) m from the first of them."""
    return joints - joints[..., :1, :]


def pixels_of(videos: Frames, span: range, hidden: NDArray[np.bool_]) -> Tensor:
    """Keypoints (N, 24, 2) of the hidden frames of a video, in pixels from the pelvis; 0 of the others. Raises as
    `points`."""
    found = np.zeros((len(span), 24, 2), np.float32)
    for i in hidden.nonzero()[0]:
        sample = videos.draw(span[i])
        joints = points(sample)
        found[i] = (joints - joints[0]) * (sample.image.shape[1], sample.image.shape[0])
    return torch.from_numpy(found)


def scores(samples: Tensor, true: Tensor, counts: Tensor) -> dict[str, Tensor]:
    """Samples (S, N, 24, 3) m and the truth (N, 24, 3) -> SCORES of each frame (M,) of which joints count (N, 24)."""
    here = counts.any(1)
    samples, true, counts = samples[:, here], true[here], counts[here]

    def mean(values: Tensor) -> Tensor:
        """Over the joints of a frame that count: (..., M, 24) -> (..., M)."""
        return (values * counts).sum(-1) / counts.sum(-1)

    found = {
        "mpjpe_mm": MM * mean((samples.mean(0) - true).norm(dim=-1)),
        "energy_mm": MM * mean(energy_score(samples, true)),
    }
    if len(samples) > 1:
        found["best_of_10_mm"] = MM * best_of(mean((samples - true).norm(dim=-1)), BEST)
        found["coverage"] = mean(covered(samples, true).float().mean(-1))
        found["apart_mm"] = MM * mean(apart(samples))
    return found


@dataclass
class TaskComparison:
    """The kinds of decoders on one encoder, task by task."""

    comparison: DecoderComparison

    def __post_init__(self) -> None:
        self.model, self.body = self.comparison.encoder("merged"), self.comparison.body
        self.vae, self.vae_id = self.comparison.vae(DECODER)
        self.decoders: dict[tuple[Kind, bool], ClipDecoder] = {}

    def source(self, split: str, hidden: bool) -> tuple[Frames, list[VideoFeatures]]:
        """The videos of a split as they are, and what the encoder says of them, or of them half hidden."""
        comparison = self.comparison
        data = comparison.test.spec.name if split == "test" else "synth-video"
        frames = comparison.frames if split == "test" else comparison.train_frames if split == "train" else None
        videos = opened(self.model, data, split, frames, comparison.mocap)
        identity = identity_of(self.model, data, split, videos, comparison.budget.products(split))
        shown, name = videos, f"{data} {split}"
        if hidden:
            shown, name, identity = half_hidden(videos), f"{name}, half hidden", {**identity, "half_hidden": 0}
        return videos, in_cache(self.model, shown, identity, name, comparison.observer)

    def videos(self, split: str, task: Task) -> list[TaskVideo]:
        """The videos of a split with what a task hides of them."""
        source, found = self.source(split, task == "half hidden")
        counts = hidden_joints(source) if task == "half hidden" else np.ones((len(source), 24), bool)
        counts[:, 0] = False  # the pelvis is where it is
        made = []
        for span, video in zip(recording_spans(source.recordings), found, strict=True):
            name, here = source.recordings[span.start], counts[span.start : span.stop]
            seen = np.ones(len(video), bool)
            pixels = None
            if task in ("gaps", "keypoints"):
                seen = gap(len(video), video.fps, name)
                here = here & ~seen[:, None]
            if task == "keypoints":
                pixels = pixels_of(source, span, ~seen)
            made.append(TaskVideo(video, torch.from_numpy(seen), torch.from_numpy(here), name, pixels))
        return made

    def decoder(self, kind: Kind, few: bool) -> ClipDecoder:
        """The decoder of a kind, trained on all videos as they are and half hidden, or on FEW of those, if it has to
        be."""
        if (kind, few) not in self.decoders:
            count = FEW if few else None
            train = [video for hidden in (False, True) for video in self.source("train", hidden)[1][:count]]
            budget = asdict(self.comparison.budget)
            budget.pop("vae_steps")
            encoder = encoder_id(self.model)
            out = self.comparison.place("tasks", encoder, kind, self.vae_id, self.comparison.train_frames, few)
            config, val = TrainConfig(out=out, **budget), self.source("val", False)[1]
            path = train_decoder(self.vae, train, val, encoder, config, kind).path
            self.decoders[kind, few] = load_decoder(path)
        return self.decoders[kind, few]

    def row(self, row: TaskRow, task: Task, test: Sequence[TaskVideo], val: Sequence[TaskVideo]) -> dict[str, Any]:
        """The scores of a row on a task, of each frame (M,), and of acceleration, by `frames` and `clips`."""
        self.comparison.observer(f"{task}: {row.name}", "", 0, 1)
        decoder = self.decoder(row.kind, task == "few labels")
        residuals = self.residuals(decoder, row, val) if row.gaussian else None
        parts: list[dict[str, Tensor]] = []
        for number, one in enumerate(test):
            samples, true = answers(decoder, row, one, self.body), truth(one.video, self.body)
            samples = drawn(samples, residuals, one, row, number)
            moves = accel(samples.mean(0), true)
            parts.append({**scores(samples, true, one.counts), "accel_mm_per_frame2": moves})
        return {name: [part[name].double().numpy() for part in parts] for name in parts[0]}

    def residuals(self, decoder: ClipDecoder, row: TaskRow, val: Sequence[TaskVideo]) -> Tensor:
        """Truth less answer (M, 72) m of frames of which something counts."""
        parts = []
        for one in val:  # a Gaussian's one answer knows no keypoints
            wrong = truth(one.video, self.body) - answers(decoder, row, one, self.body)[0]
            parts.append(wrong[one.counts.any(1)].flatten(1))
        return torch.cat(parts)

    def table(self, name: str) -> dict[str, Any]:
        """Every row of the tasks of a table; intervals over videos, differences paired with the regressor's."""
        rows = [row for task in TABLES[name] for row in self.task(task)]
        comparison = self.comparison
        source = provenance("decoders", comparison.model, CPU, **comparison.test.provenance(comparison.model))
        return {
            "table": name,
            "rows": rows,
            "budget": asdict(comparison.budget),
            "train_frames": comparison.train_frames,
            "provenance": {**source, "recipe": comparison.recipe},
        }

    def task(self, task: Task) -> list[dict[str, Any]]:
        """The rows of a task. Raises BadInput where a video has nothing that counts."""
        test, val = self.videos("test", task), self.videos("val", task)
        if bare := [one.name for one in test if not one.counts.any()]:
            raise BadInput(f"{task}: nothing is hidden of {bare[0]}: leave out videos this short")
        rows = [row for row in ROWS if task != "keypoints" or row.steps <= GUIDED]
        measured = {row.name: self.row(row, task, test, val) for row in rows}
        names = [one.name for one in test]
        return [{"task": task, **summary(row, measured, names)} for row in rows]


def summary(row: TaskRow, measured: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A row of a table as JSON values: intervals, and paired differences of the two scores that all rows have."""

    def clips(values: Sequence[NDArray[np.float64]]) -> list[str]:
        return [name for name, each in zip(names, values, strict=True) for _ in each]

    mine = measured[row.name]
    found: dict[str, Any] = dict.fromkeys((*SCORES, "accel_mm_per_frame2"))
    for name, values in mine.items():
        found[name] = asdict(interval(np.concatenate(values), clips(values))) if sum(map(len, values)) else None
    for name, against in (("mpjpe_mm", AGAINST), ("energy_mm", GAUSSIAN)):
        first, second = (np.concatenate(one[name]) for one in (mine, measured[against.name]))
        found[f"{name}_over_regressor"] = asdict(paired_interval(first, second, clips(mine[name])))
    return {**asdict(row), **found}
