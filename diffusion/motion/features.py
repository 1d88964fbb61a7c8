"""Features of videos' frames, computed once by a compressed encoder into a folder that a decoder's training reads.

One safetensors file per video, whole or not there, so that a run that was killed goes on with the next video.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import roma
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from compress.atomic import atomic_write, record_identity
from compress.errors import BadInput
from diffusion.model.representation import WIDTH, encode
from diffusion.motion.clips import FPS, resampled
from hmr.body.files import load_body
from hmr.body.model import BodyModel
from hmr.data.dataset import Dataset
from hmr.data.sample import batch, known
from hmr.evaluation.predict import recording_spans
from hmr.models.model import HMRModel, HMROutput

BATCH = 32
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
    predicted_betas (N, 10), predicted_rotations (N, 24, 3, 3) of its head; rotations (N, 24, 3, 3), betas (N, 10)."""

    features: Tensor
    predicted_betas: Tensor
    predicted_rotations: Tensor
    rotations: Tensor
    betas: Tensor

    def __len__(self) -> int:
        return len(self.features)


def read_off(output: HMROutput, body: BodyModel) -> Tensor:
    """What a decoder reads of N frames (N, D + 133): the features, and the pose that the head made of them as numbers.

    The paper's decoder reads the features alone. NOTE: joints are no linear function of them; the head has learned from
    more poses than there are videos.
    """
    return torch.cat((output.features.float(), encode(output.rotations.float(), output.betas.float(), body)), 1)


def at_thirty(video: VideoFeatures, fps: float) -> VideoFeatures:
    """A video of another rate at 30 frames/s, which is the rate that decoders know."""
    if fps == FPS:
        return video
    count = round((len(video) - 1) * FPS / fps) + 1
    parts = {name: resampled(value, count) for name, value in vars(video).items()}
    turned = {name: roma.special_procrustes(parts[name]) for name in ("rotations", "predicted_rotations")}
    return VideoFeatures(**{**parts, **turned})


def cache_bytes(model: HMRModel, videos: Dataset) -> int:
    """What `cached_features` will write."""
    numbers = sum(int(np.prod(shape)) for shape in FIELDS.values() if shape)
    return 4 * len(videos) * (numbers + model.head.decshape.in_features + WIDTH)


@torch.no_grad()
def cached_features(
    model: HMRModel,
    videos: Dataset,
    folder: Path,
    identity: dict[str, Any],
    tell: Callable[[int], None] = lambda frames: None,
) -> list[VideoFeatures]:
    """Every video's features, computed where they are not in `folder` yet; masks go in where the model looks at them.

    `identity` names the encoder and data of the folder. Raises BadInput where it holds others', or what no such
    file can hold, and for frames that are no video's.
    """
    if videos.fps is None:
        raise BadInput("a decoder reads videos, and these frames are pictures: name synth-video or a file of clips")
    if model.family.condition is not None and videos[0].bbox_info is None:
        raise BadInput(f"{model.architecture} has to know each picture's focal length: give `focal` for each clip")
    record_identity(folder / "cache.json", identity, "cache of features")
    cached, body = [], load_body().to(next(model.parameters()).device)
    for i, frames in enumerate(recording_spans(videos.recordings)):
        path = folder / f"{i:05d}.safetensors"
        if not path.exists():
            values = vars(predicted(model, videos, frames, body))
            atomic_write(path, to_bytes({name: value.cpu() for name, value in values.items()}))
        cached.append(read(path, len(frames)))
        tell(frames.stop)
    return cached


def predicted(model: HMRModel, videos: Dataset, frames: range, body: BodyModel) -> VideoFeatures:
    """Predictions of a model for the frames of one video, beside their labels."""
    device = next(model.parameters()).device
    parts: dict[str, list[Tensor]] = {name: [] for name in FIELDS}
    for start in range(frames.start, frames.stop, BATCH):
        samples = [videos[i] for i in range(start, min(start + BATCH, frames.stop))]
        given = batch(samples, device)
        output = model(*given.inputs)
        labels = known(given.rotations, "poses"), known(given.betas, "shapes")
        found = (read_off(output, body), output.betas, output.rotations, *labels)
        for name, value in zip(FIELDS, found, strict=True):
            parts[name].append(value.float().contiguous())
    return VideoFeatures(**{name: torch.cat(values) for name, values in parts.items()})


def read(path: Path, frames: int) -> VideoFeatures:
    """The video of a file that `cached_features` wrote; raises BadInput where it is damaged."""
    try:
        arrays = load_file(path)
        good = arrays.keys() == FIELDS.keys() and all(
            len(arrays[name]) == frames and arrays[name].shape[1:] == (shape or arrays[name].shape[1:])
            for name, shape in FIELDS.items()
        )
    except (OSError, SafetensorError, TypeError) as error:
        raise BadInput(f"{path}: cannot be read ({error}); remove it, and it is computed again") from error
    if not good or not all(value.isfinite().all() for value in arrays.values()):
        raise BadInput(f"{path}: not the features of {frames} frames; remove it, and it is computed again")
    return VideoFeatures(**arrays)
