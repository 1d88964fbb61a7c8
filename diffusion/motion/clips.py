"""A video of any length and rate as clips of a fixed one, and back (FastHMR, Sec. 3.3).

Longer videos are cut into clips that overlap and are blended where they do; shorter ones are stretched to a clip.
"""

from __future__ import annotations

from collections.abc import Callable

import roma
import torch
from torch import Tensor

FPS = 30.0
BATCH = 8  # clips at once: memory does not grow with the video

Decode = Callable[[Tensor, Tensor], Tensor]  # features (B, F, W), betas (B, F, 10) -> rotations (B, F, 24, 3, 3)


def decode_video(decode: Decode, features: Tensor, betas: Tensor, frames: int, fps: float = FPS) -> Tensor:
    """Features (N, W) and betas (N, 10) of one video at `fps` -> local rotations (N, 24, 3, 3).

    `decode` takes clips of `frames` frames at 30 frames/s; a third of a clip overlaps the next one.
    """
    count = len(features)
    long = max(frames, round((count - 1) * FPS / fps) + 1)  # frames at 30 frames/s; a short video fills one clip
    features, betas = resampled(features, long), resampled(betas, long)
    starts = cuts(long, frames, frames // 3)
    weight = ramp(frames, frames // 3).to(features)
    total, weights = features.new_zeros(long, 24, 3, 3), features.new_zeros(long)
    for first in range(0, len(starts), BATCH):
        some = starts[first : first + BATCH]
        places = torch.tensor(some, device=features.device)[:, None] + torch.arange(frames, device=features.device)
        decoded = decode(features[places], betas[places]) * weight[:, None, None, None]
        total.index_add_(0, places.flatten(), decoded.flatten(0, 1))
        weights.index_add_(0, places.flatten(), weight.repeat(len(some)))
    return roma.special_procrustes(resampled(total / weights[:, None, None, None], count))


def cuts(count: int, frames: int, overlap: int) -> list[int]:
    """Where clips of `frames` start that cover `count` >= `frames` frames, each at least `overlap` into the last."""
    last = count - frames
    clips = -(-last // (frames - overlap))  # after the first
    return [round(i * last / max(clips, 1)) for i in range(clips + 1)]


def ramp(frames: int, overlap: int) -> Tensor:
    """Weights (frames,) of a clip's frames in a blend: 1 inside, falling towards both ends over `overlap` frames."""
    place = torch.arange(frames) + 1.0
    return (torch.minimum(place, place.flip(0)) / (overlap + 1)).clamp_max(1)


def resampled(values: Tensor, count: int) -> Tensor:
    """Values (N, ...) at `count` moments from the first to the last, linearly between neighbours."""
    if count == len(values):
        return values
    at = torch.linspace(0, len(values) - 1, count, device=values.device, dtype=torch.float64)
    low = at.floor().long().clamp_max(max(len(values) - 2, 0))
    part = (at - low).to(values).view(-1, *[1] * (values.ndim - 1))
    return values[low] * (1 - part) + values[(low + 1).clamp_max(len(values) - 1)] * part
