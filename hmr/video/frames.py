"""The frames of a video, a stream or a folder of pictures, one after the other: none is kept."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from compress.errors import BadInput
from hmr.media.listing import pictures_in
from hmr.media.picture import IMAGES, LARGEST, picture
from hmr.media.shot import Pixels, Shot
from hmr.media.video import (
    VIDEOS,
    WHOLE,
    Reading,
    decoded,
    length,
    pyav,
    share_read,
    shown_stream,
    told_apart,
    upright,
)
from hmr.video.defaults import PICTURES_FPS
from hmr.video.stages import Stages

log = logging.getLogger(__name__)

STREAM = Path("-")  # standard input
PROMPT = {"probesize": "65536", "analyzeduration": "500000"}  # bytes and microseconds of a stream to know it by
TOLD = 3  # damaged frames that are told one by one

Read = Callable[[], Pixels]


@dataclass(frozen=True)
class Span:
    """Which frames are looked at: from `start` to before `end`, in seconds as the file has them, every `stride`-th."""

    start: float = 0.0
    end: float = math.inf
    stride: int = 1


class Film:
    """A source of frames: a video, `-` for a stream on standard input, a picture, or a folder of pictures."""

    def __init__(self, path: Path, span: Span | None = None, fps: float = PICTURES_FPS) -> None:
        self.path, self.span, self.fps = path, span or Span(), fps
        self.damaged = 0  # frames that could not be read so far
        self.announced = 0  # frames that there are as the file says, before any is read; 0 where it does not

    def shots(self, after: int = -1) -> Iterator[Shot]:
        """The frames of the span whose number is above `after`. What is damaged is told, counted and left out.

        Raises BadInput where no frame can be read, and where a frame is not to be shown as any player does.
        """
        first, seen = None, 0
        for number, time, read in self._pictures() if self.still else self._frames():
            if time >= self.span.end:
                break
            if time < self.span.start:
                continue
            first = number if first is None else first
            if number <= after or (number - first) % self.span.stride:
                seen += 1
            elif (image := self._read(number, read)) is not None:
                seen += 1
                yield Shot(number, time, image)
        if not seen:
            raise BadInput(f"{self.path}: no frame could be read between --start and --end, or in all of it")

    @property
    def still(self) -> bool:
        """Whether it is pictures that are read."""
        return self.path.is_dir() or self.path.suffix.lower() in IMAGES

    def _read(self, number: int, read: Read) -> Pixels | None:
        """The picture of a frame; None where a picture file is damaged."""
        if not self.still:
            return read()
        try:
            return read()
        except BadInput as error:
            self._damage(f"frame {number}: {error}; it is left out")
            return None

    def _pictures(self) -> Iterator[tuple[int, float, Read]]:
        """Numbers, times and readers of a folder's pictures."""
        folder = self.path if self.path.is_dir() else self.path.parent
        names = pictures_in(self.path) if self.path.is_dir() else [self.path.name]
        self.announced = len(names)
        for number, name in enumerate(names):
            yield number, number / self.fps, partial(picture, folder / name)

    def _frames(self) -> Iterator[tuple[int, float, Read]]:
        """Numbers, times and readers of a video's frames."""
        av = pyav()
        try:
            source, options = (Pipe(), PROMPT) if self.path == STREAM else (str(self.path), {})
            file = av.open(source, options=options, metadata_errors="replace")
        except (av.FFmpegError, OSError) as error:
            raise BadInput(f"{self.path}: not a video that can be read ({error})") from error
        with file:
            stream = shown_stream(file, self.path)
            refuse_huge(self.path, stream)
            self.announced = stream.frames
            aspect, rate = float(stream.sample_aspect_ratio or 1), stream.average_rate or stream.guessed_rate
            for number, frame in self._whole(file, stream):
                if frame.time is None and not rate:
                    raise BadInput(f"{self.path}: neither times of its frames nor their rate are known: re-encode it")
                time = number / float(rate) if frame.time is None else float(frame.time)
                yield number, time, partial(upright, frame, aspect, self.path)

    def _whole(self, file: Any, stream: Any) -> Iterator[tuple[int, Any]]:
        """Numbers and frames of an open file, but for what is damaged or built on what is."""
        reading, unread, times = Reading(), 0, list[float]()
        for number, (frame, whole) in enumerate(told_apart(decoded(file, stream, reading), reading)):
            unread = self._unread(unread, reading)
            times += [] if frame.time is None else [frame.time]
            if whole:
                yield number, frame
            else:
                self._damage(f"frame {number} is damaged, or built on one that is; it is left out")
        self._unread(unread, reading)
        share = share_read(reading, stream.frames, times, None if self.path == STREAM else length(file, stream))
        if reading.end or share < WHOLE:
            self._damage(f"the video breaks off{reading.end}, {share:.0%} of it could be read")

    def _unread(self, before: int, reading: Reading) -> int:
        """Tell of packets that do not decode, but for those `before`; returns how many there are by now."""
        for _ in range(before, reading.unread):
            self._damage("a frame cannot be decoded; it is left out")
        return reading.unread

    def _damage(self, what: str) -> None:
        self.damaged += 1
        if self.damaged <= TOLD:
            log.warning("%s: %s%s", self.path, what, "" if self.damaged < TOLD else ", as are others")


def watched(film: Film, stages: Stages, after: int = -1) -> Iterator[Shot]:
    """A film's frames after one, their decoding counted."""
    shots = film.shots(after)
    while True:
        with stages.stage("decode"):
            shot = next(shots, None)
        if shot is None:
            return
        yield shot


class Pipe:
    """Standard input for PyAV: it can be read and not sought, and what has arrived is handed on at once."""

    def read(self, size: int) -> bytes:
        return os.read(sys.stdin.fileno(), size)


def refuse_huge(path: Path, stream: Any) -> None:
    """Raise BadInput for frames that no memory holds, before one is decoded."""
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > LARGEST:
        raise BadInput(f"{path}: frames of {width} x {height} pixels are too many pixels; {LARGEST} is the limit")


def videos_in(path: Path) -> list[Path]:
    """The videos that a path names: itself, or those in the folder, in order; a folder of pictures is one.

    Raises BadInput where nothing is there that can be read.
    """
    if path == STREAM or path.is_file():
        if path != STREAM and path.suffix.lower() not in (*VIDEOS, *IMAGES, ".ts", ".mjpeg", ".mjpg"):
            raise BadInput(f"{path}: name a video ({', '.join(VIDEOS)}), a picture, a folder, or - for a stream")
        return [path]
    if not path.is_dir():
        raise BadInput(f"{path}: there is no such video or folder")
    try:
        inside = sorted(file for file in path.iterdir() if not file.name.startswith("."))
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from error
    films = [file for file in inside if file.suffix.lower() in VIDEOS and file.is_file()]
    return films or [path]
