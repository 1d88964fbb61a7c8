"""Features of videos' frames, computed once by a compressed encoder into a folder that a decoder's training reads.

A safetensors file has the videos of a shard, and is whole or not there: a run that was killed goes on with the next
shard, several processes may each do some, and one that asks for more videos has those of one that asked for fewer.
Files are mapped into memory, so that training reads of them what it looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from compress.atomic import atomic_write, record_identity
from compress.errors import BadInput
from compress.training.task import Precision
from diffusion.model.representation import WIDTH, encode
from diffusion.motion.clips import FPS
from hmr.body.files import load_body
from hmr.body.model import BodyModel
from hmr.data.dataset import Dataset
from hmr.data.sample import batch, known
from hmr.evaluation.predict import recording_spans
from hmr.models.model import HMRModel, HMROutput

BATCH = 32
SHARD = 1024  # frames of a file, whole videos: what a killed run loses at most
FIELDS = {
    "features": (),
    "predicted_betas": (10,),
    "predicted_rotations": (24, 3, 3),
    "rotations": (24, 3, 3),
    "betas": (10,),
}


@dataclass(frozen=True)
class VideoFeatures:
    """Predictions for a video's N frames, and the truth: features (N, W) as `read_off` has them,
    predicted_betas (N, 10), predicted_rotations (N, 24, 3, 3) of its head; rotations (N, 24, 3, 3), betas (N, 10).
    Frames follow each other at `fps`."""

    features: Tensor
    predicted_betas: Tensor
    predicted_rotations: Tensor
    rotations: Tensor
    betas: Tensor
    fps: float = FPS

    def __len__(self) -> int:
        return len(self.features)


def read_off(output: HMROutput, body: BodyModel) -> Tensor:
    """What a decoder reads of N frames (N, D + 133): the features, and the pose that the head made of them as numbers.

    The paper's decoder reads the features alone. NOTE: joints are no linear function of them; the head has learned from
    more poses than there are videos.
    """
    return torch.cat((output.features.float(), encode(output.rotations.float(), output.betas.float(), body)), 1)


def cache_bytes(model: HMRModel, videos: Dataset) -> int:
    """What `cached_features` will write."""
    numbers = sum(int(np.prod(shape)) for shape in FIELDS.values() if shape)
    return 4 * len(videos) * (numbers + model.head.decshape.in_features + WIDTH)


def shards_of(recordings: Sequence[str]) -> list[list[range]]:
    """The frames of each video, from the recording of each frame, in shards of SHARD frames or a video at least."""
    shards: list[list[range]] = []
    held = SHARD
    for frames in recording_spans(recordings):
        if held + len(frames) > SHARD:
            shards.append([])
            held = 0
        shards[-1].append(frames)
        held += len(frames)
    return shards


def shard_file(folder: Path, spans: Sequence[range]) -> Path:
    """Where the features of these videos are, named by their frames: the last shard of a few videos is cut short."""
    return folder / f"{spans[0].start:07d}-{spans[-1].stop:07d}.safetensors"


def prepare(model: HMRModel, videos: Dataset) -> list[list[range]]:
    """The videos in shards. Raises BadInput for frames that are no video's, or lack what the model has to know."""
    if videos.fps is None:
        raise BadInput("a decoder reads videos, and these frames are pictures: name synth-video or a file of clips")
    if model.family.condition is not None and videos[0].bbox_info is None:
        raise BadInput(f"{model.architecture} has to know each picture's focal length: give `focal` for each clip")
    return shards_of(videos.recordings)


def claim(folder: Path, identity: dict[str, Any]) -> None:
    """Make a folder that of one encoder's features of some data. Raises BadInput where it holds others'."""
    record_identity(folder / "cache.json", {**identity, "shard": SHARD}, "cache of features")


def cached_features(
    model: HMRModel,
    videos: Dataset,
    folder: Path,
    identity: dict[str, Any],
    tell: Callable[[int], None] = lambda frames: None,
    precision: Precision = "float32",
) -> list[VideoFeatures]:
    """Every video's features, computed where they are not in `folder` yet; masks go in where the model looks at them.

    `identity` names the encoder and data of the folder. precision: of the encoder's products. Raises BadInput as
    `prepare`, where the folder holds others', and where it has what no such file can hold.
    """
    cached, shards = [], prepare(model, videos)
    claim(folder, identity)
    for spans in shards:
        path = shard_file(folder, spans)
        if not path.exists():
            write_shard(path, model, videos, spans, precision)
        cached += read(path, [len(frames) for frames in spans], videos.fps or FPS)
        tell(spans[-1].stop)
    return cached


@torch.no_grad()
def write_shard(
    path: Path, model: HMRModel, videos: Dataset, spans: Sequence[range], precision: Precision = "float32"
) -> None:
    """Compute and write the features of the frames of some videos."""
    body = load_body().to(next(model.parameters()).device)
    every = [predicted(model, videos, frames, body, precision) for frames in spans]
    values = {name: torch.cat([getattr(video, name) for video in every]).cpu() for name in FIELDS}
    atomic_write(path, to_bytes(values))


def predicted(model: HMRModel, videos: Dataset, frames: range, body: BodyModel, precision: Precision) -> VideoFeatures:
    """Predictions of a model for the frames of one video, beside their labels."""
    device = next(model.parameters()).device
    parts: dict[str, list[Tensor]] = {name: [] for name in FIELDS}
    for start in range(frames.start, frames.stop, BATCH):
        samples = [videos[i] for i in range(start, min(start + BATCH, frames.stop))]
        given = batch(samples, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            output = model(*given.inputs)
        labels = known(given.rotations, "poses"), known(given.betas, "shapes")
        found = (read_off(output, body), output.betas, output.rotations, *labels)
        for name, value in zip(FIELDS, found, strict=True):
            parts[name].append(value.float().contiguous())
    return VideoFeatures(*map(torch.cat, parts.values()))  # type: ignore[arg-type]  # as many as there are FIELDS


def read(path: Path, lengths: Sequence[int], fps: float) -> list[VideoFeatures]:
    """The videos, of these lengths, of a file that `write_shard` wrote; raises BadInput where it is damaged."""
    frames = sum(lengths)
    try:
        arrays = load_file(path)  # mapped, not read
        good = arrays.keys() == FIELDS.keys() and all(
            len(arrays[name]) == frames and arrays[name].shape[1:] == (shape or arrays[name].shape[1:])
            for name, shape in FIELDS.items()
        )
    except (OSError, SafetensorError, TypeError) as error:
        raise BadInput(f"{path}: cannot be read ({error}); remove it, and it is computed again") from error
    if not good or not all(value.isfinite().all() for value in arrays.values()):
        raise BadInput(f"{path}: not the features of {frames} frames; remove it, and it is computed again")
    parts = zip(*(arrays[name].split(list(lengths)) for name in FIELDS), strict=True)
    return [VideoFeatures(*values, fps) for values in parts]  # type: ignore[call-arg]  # as above
