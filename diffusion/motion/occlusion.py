"""Videos of which half of the body is hidden for a second: what an encoder sees of somebody behind something."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from compress.errors import BadInput
from hmr.data.dataset import Frames
from hmr.data.sample import Sample
from hmr.evaluation.predict import recording_spans
from hmr.world.synthetic import generator

Side = Literal["left", "right", "upper", "lower"]  # of the picture, not of the person
SECONDS = 1.0


def sides_of(videos: Frames, seed: int) -> dict[int, Side]:
    """Which side of which frames is hidden; the second and the side follow from a video's name.

    Raises BadInput for frames that are no video's.
    """
    if videos.fps is None:
        raise BadInput("half of a body is hidden for a second of a video, and these frames are pictures")
    sides: dict[int, Side] = {}
    for frames in recording_spans(videos.recordings):
        rng = generator("occlusion", seed, videos.recordings[frames.start])
        length = min(round(SECONDS * videos.fps), len(frames))
        first = frames.start + int(rng.integers(len(frames) - length + 1))
        names: tuple[Side, ...] = get_args(Side)
        sides |= dict.fromkeys(range(first, first + length), names[rng.integers(len(names))])
    return sides


def half_hidden(videos: Frames, seed: int = 0) -> Frames:
    """The same videos, a side of the person hidden for SECONDS of each. Raises as `sides_of` and `points`."""
    sides = sides_of(videos, seed)

    def draw(index: int) -> Sample:
        sample = videos.draw(index)
        return covered_half(sample, sides[index]) if index in sides else sample

    return replace(videos, draw=draw, identity={**videos.identity, "half_hidden": seed}, drawn_before=None)


def hidden_joints(videos: Frames, seed: int = 0) -> NDArray[np.bool_]:
    """Which joints (N, 24) `half_hidden` hides of videos that it was given. Raises as it does."""
    hidden = np.zeros((len(videos), 24), bool)
    for index, side in sides_of(videos, seed).items():
        hidden[index] = beyond(points(videos.draw(index)), side)
    return hidden


def points(sample: Sample) -> NDArray[np.float32]:
    """The joints of a picture (24, 2), in shares of it from its middle. Raises BadInput where they are unknown."""
    if sample.keypoints is None:
        raise BadInput("half of a body is hidden by where its joints are, and these pictures do not know that")
    return sample.keypoints


def beyond(joints: NDArray[np.float32], side: Side) -> NDArray[np.bool_]:
    """Which joints (24, 2) are on a side of the pelvis."""
    axis, sign = (0 if side in ("left", "right") else 1), (-1 if side in ("left", "upper") else 1)
    return np.asarray(sign * (joints[:, axis] - joints[0, axis]) > 0)


def covered_half(sample: Sample, side: Side) -> Sample:
    """A picture whose side beyond the pelvis is of one colour, the picture's mean, and no longer the person's."""
    height, width = sample.image.shape[:2]
    x, y = ((points(sample)[0] + 0.5) * (width, height)).round().astype(int).clip(0, (width, height))
    rows, columns = slice(None), slice(None)
    if side in ("left", "right"):
        columns = slice(None, x) if side == "left" else slice(x, None)
    else:
        rows = slice(None, y) if side == "upper" else slice(y, None)
    image = sample.image.copy()
    image[rows, columns] = sample.image.mean((0, 1)).astype(np.uint8)
    mask = None if sample.mask is None else sample.mask.copy()
    if mask is not None:
        mask[rows, columns] = False
    return replace(sample, image=image, mask=mask)
