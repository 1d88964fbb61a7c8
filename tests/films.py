"""Small videos of coloured squares that walk, what finds those squares, and a tiny model that looks at them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from hmr.media.shot import Shot
from hmr.models.model import HMRModel, build
from hmr.people.finders import Person
from tests.sizes import TINY

HEIGHT, WIDTH, FPS = 96, 128, 25
RED, GREEN = (230, 20, 20), (20, 230, 20)
Places = Callable[[int], "Iterable[tuple[tuple[int, int, int], float, float]]"]  # frame -> colour, x, y of each middle


def two(number: int) -> list[tuple[tuple[int, int, int], float, float]]:
    """A red square that walks right and a green one that walks left, one above the other; green is out of sight in
    frames 10 to 14."""
    red, green = (RED, 30 + 2.0 * number, 40.0), (GREEN, 100 - 2.0 * number, 60.0)
    return [red] if 10 <= number < 15 else [red, green]


def painted(number: int, places: Places = two, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    picture = np.full((*size, 3), 120, np.uint8)
    for colour, x, y in places(number):
        picture[int(y) - 12 : int(y) + 12, int(x) - 8 : int(x) + 8] = colour
    return picture


def film(
    path: Path, frames: int = 24, places: Places = two, times: Iterable[float] | None = None, codec: str = "mpeg4"
) -> Path:
    """Write a video at FPS, or with a frame at each of `times` in seconds."""
    ticks = 1000
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream(codec, rate=FPS)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, "yuv420p", 4_000_000
        stream.time_base = stream.codec_context.time_base = Fraction(1, ticks)
        stream.codec_context.gop_size = 4
        for number, time in enumerate(times or [i / FPS for i in range(frames)]):
            frame = av.VideoFrame.from_ndarray(painted(number, places), format="rgb24")
            frame.pts, frame.time_base = round(time * ticks), Fraction(1, ticks)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


class Squares:
    """A finder that sees red and green squares, and remembers how many frames it has looked at."""

    name = identity = "squares"

    def __init__(self) -> None:
        self.state: Any = 0

    def find(self, shot: Shot) -> list[Person]:
        self.state += 1
        return list(self._seen(shot.image))

    def _seen(self, image: np.ndarray) -> Iterator[Person]:
        for channel in (0, 1):
            mask = (image[..., channel] > 170) & (image[..., 1 - channel] < 90)
            if mask.sum() > 60:
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                box = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
                left, top, right, bottom = map(float, box)
                yield Person((left, top, right, bottom), 0.9, lambda mask=mask: mask)  # type: ignore[misc]

    def restore(self, state: Any) -> None:
        self.state = state


def tiny(architecture: str = "reference") -> HMRModel:
    """A model of random weights that says something else of every crop."""
    torch.manual_seed(0)
    model = build(architecture, TINY)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()
