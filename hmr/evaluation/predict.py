"""What models give for every frame of a data set: drawn once, seen in batches, decoded clip by clip."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from statistics import median
from typing import Any

import torch
from torch import Tensor

from compress.cost.timing import timed
from compress.stack import Schedule
from compress.tokens import DROPPED, Tokens, coverage
from hmr.adapters.adapted import PlacedJoints
from hmr.data.dataset import Frames
from hmr.data.sample import Batch, batch
from hmr.models.head import HMROutput

BATCH = 32
TIMED, ROUNDS = 8, 5  # frames that two models are timed on side by side, and how often
FIELDS = ("global_orient", "body_pose", "betas", "camera", "features")


@dataclass
class Predictions:
    """A model's output on all frames, batch by batch.

    seconds: of the model alone, drawing apart. merged: per batch the share (B,) of the person's patches without a token
    of their own, see `person_merged`; empty where no token is reduced or no mask is known.
    """

    model: Any
    outputs: list[Any] = field(default_factory=list)
    merged: list[Tensor] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def person_merged(self) -> Tensor | None:
        """Those shares (N,) of all frames; None where there are none."""
        return torch.cat(self.merged).cpu() if self.merged else None


@torch.no_grad()  # not inference_mode: roma keeps constants of its first call, and a training could not use those
def predict(
    models: Sequence[Any],
    frames: Frames,
    each: Callable[[Batch], None] = lambda seen: None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Predictions]:
    """The predictions of each model, every frame drawn once; `each` sees every batch too.

    A model is timed after a warm-up on the first batch. One with a motion decoder sees all frames of a recording before
    any is decoded. Raises BadInput where a model needs a mask or more than the frames know.
    """
    predictions = [Predictions(model) for model in models]
    done = 0
    for number, seen in enumerate(batches(frames, next(models[0].parameters()).device)):
        for one in predictions:
            if number == 0:
                one.model.encoder(*seen.inputs)
            see(one, seen)
        each(seen)
        done += len(seen)
        progress(done)
    for one in predictions:
        if one.model.takes_clips:
            decode(one, frames)
    return predictions


def see(predictions: Predictions, seen: Batch) -> None:
    """Add a model's output on a batch to its predictions."""
    encoder, device = predictions.model.encoder, seen.crops.device
    reduces = encoder.schedule != Schedule()  # else nobody asks for tokens, which an exported file keeps to itself
    began = now(device)
    tokens = encoder.encode(seen.crops, seen.masks) if reduces else None
    output = encoder(*seen.inputs) if tokens is None else encoder.read(tokens, seen.conditions)
    predictions.seconds += now(device) - began
    # an adapter's network may give more, which would fill the memory
    predictions.outputs.append(replace(output, outputs=None) if isinstance(output, PlacedJoints) else output)
    if tokens is not None and seen.masks is not None:
        person = coverage(seen.masks, encoder.grid) > (encoder.protect or 0.0)
        predictions.merged.append(person_merged(tokens, person))


def decode(predictions: Predictions, frames: Frames) -> None:
    """Put a motion decoder's rotations into the predictions, recording by recording, in the same batches as before."""
    whole = joined(predictions.outputs)
    began = now(whole.betas.device)
    spans = recording_spans(frames.recordings)
    decoded = joined([predictions.model.decoded(part(whole, span), frames.fps) for span in spans])
    predictions.seconds += now(whole.betas.device) - began
    count = len(decoded.betas)
    predictions.outputs = [part(decoded, range(i, min(i + BATCH, count))) for i in range(0, count, BATCH)]


@torch.no_grad()
def outputs_at(model: Any, frames: Frames, indices: Sequence[int]) -> HMROutput:
    """A model's output on some frames; one with a motion decoder sees the whole recording that a frame is of."""
    device = next(model.parameters()).device
    if not model.takes_clips:
        output: HMROutput = model(*batch([frames[i] for i in indices], device).inputs)
        return output
    spans = [span for span in recording_spans(frames.recordings) if any(i in span for i in indices)]
    clips = {span: model(*batch([frames[i] for i in span], device).inputs, fps=frames.fps) for span in spans}
    return joined([part(clips[s], range(i - s.start, i - s.start + 1)) for i in indices for s in spans if i in s])


def times_faster(original: Any, model: Any, frames: Frames) -> float:
    """Time of the original over that of a model, side by side: frames/s of two measurements are minutes apart, and a
    machine does not stay as fast as it was. On TIMED frames, or the first recording where one decodes clips."""
    device, pair = next(model.parameters()).device, {"original": original, "model": model}
    clips = any(each.takes_clips for each in pair.values())
    seen = next(iter(recording_spans(frames.recordings))) if clips else range(min(TIMED, len(frames)))
    inputs = batch([frames[i] for i in seen], device).inputs
    given = {name: {"fps": frames.fps} if each.takes_clips else {} for name, each in pair.items()}
    calls = {name: partial(each, *inputs, **given[name]) for name, each in pair.items()}
    seconds = timed(calls, ROUNDS, device)
    return median(seconds["original"]) / median(seconds["model"])


def batches(frames: Frames, device: torch.device) -> Iterator[Batch]:
    """The frames in order. Drawn in this process: rendering beside it would take the cores that models are timed on."""
    for start in range(0, len(frames), BATCH):
        yield batch([frames[i] for i in range(start, min(start + BATCH, len(frames)))], device)


def recording_spans(recordings: Sequence[str]) -> Iterator[range]:
    """Which frames each recording has, from the name of the recording of each frame."""
    for _, group in groupby(range(len(recordings)), lambda i: recordings[i]):
        members = list(group)
        yield range(members[0], members[-1] + 1)


def joined(outputs: Sequence[HMROutput]) -> HMROutput:
    """Outputs of consecutive frames as one."""
    return HMROutput(*(torch.cat([getattr(one, name) for one in outputs]) for name in FIELDS))


def part(output: HMROutput, span: range) -> HMROutput:
    """The output on some of its frames."""
    return HMROutput(*(getattr(output, name)[span.start : span.stop] for name in FIELDS))


def person_merged(tokens: Tokens, person: Tensor) -> Tensor:
    """Share (B,) of the person's patches, person (B, N0) bool, that have no token of their own: merged or dropped.

    0 for a frame without a person. Above 0 with protect: mask means that merges were forced, because the mask left too
    few unprotected tokens.
    """
    here = tokens.source.clamp_min(0)
    sharing = torch.zeros_like(tokens.size).scatter_add(1, here, (tokens.source != DROPPED).to(tokens.size.dtype))
    lost = (tokens.source == DROPPED) | (sharing.gather(1, here) > 1)
    return (lost & person).sum(1) / person.sum(1).clamp_min(1)


def merged_shares(merged: Tensor | None) -> dict[str, float | None]:
    """What of `person_merged` (N,) a row has, as JSON values: its mean, and the share of frames where it is not 0."""
    return {
        "protected_merged_share": None if merged is None else merged.mean().item(),
        "protected_merged_frames": None if merged is None else (merged > 0).double().mean().item(),
    }


def now(device: torch.device) -> float:
    """Seconds on a clock, after all work of the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
