"""A video of any length and rate as clips of a fixed one, and back (FastHMR, Sec. 3.3).

Longer videos are cut into clips that overlap and are blended where they do; of a shorter one the rest of the clip is
not seen. NOTE: the paper stretches short videos to a clip; a tenth of a clip, stretched, is motion ten times too slow.
"""

from __future__ import annotations

from collections.abc import Callable

import roma
import torch
import torch.nn.functional as F
from torch import Tensor

FPS = 30.0
BATCH = 8  # clips at once: memory does not grow with the video

# features (B, F, W), betas (B, F, 10), which frames are seen (B, F) bool -> rotations (B, F, 24, 3, 3)
Decode = Callable[[Tensor, Tensor, Tensor], Tensor]


def decode_video(
    decode: Decode,
    features: Tensor,
    betas: Tensor,
    frames: int,
    fps: float = FPS,
    seen: Tensor | None = None,
    look_ahead: int | None = None,
) -> Tensor:
    """Features (N, W) and betas (N, 10) of one video at `fps` -> local rotations (N, 24, 3, 3).

    `decode` takes clips of `frames` frames at 30 frames/s; a third of a clip overlaps the next one. seen: (N,) bool,
    which frames have features at all. look_ahead: how many frames after its own, at 30 frames/s, a rotation may depend
    on; each then comes from a clip of its own. None: as many as its clips have.
    """
    count = len(features)
    long = max(round((count - 1) * FPS / fps) + 1, min(count, 2))  # frames at 30 frames/s, both ends among them
    seen = torch.ones(count, dtype=torch.bool, device=features.device) if seen is None else seen
    features = torch.where(seen[:, None], features, 0)  # what is not seen may be anything
    starts, weight = windows(long, frames, look_ahead)
    weight = weight.to(features)
    total, weights = features.new_zeros(long, 24, 3, 3), features.new_zeros(long)
    for first in range(0, len(starts), BATCH):
        places = torch.tensor(starts[first : first + BATCH])[:, None] + torch.arange(frames)  # (b, F)
        places = places.to(features.device)
        inside = (places >= 0) & (places < long)
        places = places.clamp(0, long - 1)
        at = moments(places, long, count)
        decoded = decode(lerp(features, at), lerp(betas, at), inside & sure(seen, at))
        share = inside * weight  # (b, F)
        total.index_add_(0, places.flatten(), (decoded * share[..., None, None, None]).flatten(0, 1))
        weights.index_add_(0, places.flatten(), share.flatten())
    return roma.special_procrustes(resampled(total / weights[:, None, None, None], count))


def windows(long: int, frames: int, look_ahead: int | None) -> tuple[list[int], Tensor]:
    """Where clips of `frames` start that decode `long` frames, and the weights (frames,) of a clip's frames.

    Without a limit they overlap by a third; with one there is a clip for each frame, which counts alone in it, as many
    frames before the clip's end as it may look ahead.
    """
    if look_ahead is None:
        return cuts(max(long, frames), frames, frames // 3), ramp(frames, frames // 3)
    own = frames - 1 - look_ahead
    return [i - own for i in range(long)], torch.nn.functional.one_hot(torch.tensor(own), frames).float()


def cuts(count: int, frames: int, overlap: int) -> list[int]:
    """Where clips of `frames` start that cover `count` >= `frames` frames, each at least `overlap` into the last."""
    last = count - frames
    clips = -(-last // (frames - overlap))  # after the first
    return [round(i * last / max(clips, 1)) for i in range(clips + 1)]


def ramp(frames: int, overlap: int) -> Tensor:
    """Weights (frames,) of a clip's frames in a blend: 1 inside, falling towards both ends over `overlap` frames."""
    place = torch.arange(frames) + 1.0
    return (torch.minimum(place, place.flip(0)) / (overlap + 1)).clamp_max(1)


def moments(places: Tensor, long: int, count: int) -> Tensor:
    """Where frames `places` of `long` lie among `count` that span the same time: places (float64) of those."""
    return places.double() * ((count - 1) / max(long - 1, 1))


def lerp(values: Tensor, at: Tensor) -> Tensor:
    """Values (N, ...) at places (...) of their first dimension, linearly between neighbours."""
    low = at.floor().long().clamp_max(max(len(values) - 2, 0))
    part = (at - low).to(values).view(*at.shape, *[1] * (values.ndim - 1))
    return values[low] * (1 - part) + values[(low + 1).clamp_max(len(values) - 1)] * part


def sure(seen: Tensor, at: Tensor) -> Tensor:
    """Whether what lies at places (...) is made of frames that are seen (N,) alone."""
    low = at.floor().long().clamp_max(len(seen) - 1)
    high = at.ceil().long().clamp_max(len(seen) - 1)
    return seen[low] & seen[high]


def resampled(values: Tensor, count: int) -> Tensor:
    """Values (N, ...) at `count` moments from the first to the last, linearly between neighbours."""
    if count == len(values):
        return values
    return lerp(values, torch.linspace(0, len(values) - 1, count, device=values.device, dtype=torch.float64))


def filled(values: Tensor, seen: Tensor) -> Tensor:
    """Clips (B, F, W) whose unseen frames (B, F) lie on straight lines between their neighbours that are seen; ends are
    held, and a clip in which nothing is seen is 0."""
    frames = values.shape[1]
    here = torch.arange(frames, device=values.device).expand_as(seen)
    # the i-th frame that is seen stands at place i, and others at a place that nobody reads; no running maximum, which
    # exporters do not know
    rank = seen.long().cumsum(1)
    places = F.pad(torch.full_like(rank, frames), (1, 1))  # (B, F + 2)
    places = places.scatter(1, torch.where(seen, rank, frames + 1), here)
    places[:, 0] = -1
    before, after = places.gather(1, rank), places.gather(1, rank + (~seen).long())
    low, high = torch.where(before >= 0, before, after), torch.where(after < frames, after, before)
    part = ((here - low) / (high - low).clamp_min(1)).to(values)[..., None]
    rows = torch.arange(values.shape[0], device=values.device)[:, None]
    first, second = values[rows, low.clamp_max(frames - 1)], values[rows, high.clamp_min(0)]
    return torch.where(seen.any(1)[:, None, None], first + part * (second - first), 0)
