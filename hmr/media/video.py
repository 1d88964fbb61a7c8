"""A video as the frames that a player shows: those that decode, upright, each at its own time."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compress.errors import BadInput
from hmr.media.picture import say_once

log = logging.getLogger(__name__)

VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")
STEADY = 0.1  # of a frame's duration, by which times may lie beside a steady rate: containers round to milliseconds
MICROSECONDS = 1_000_000  # in a second, as a file's length is counted
WIDEST = 4.0  # pixels, in their heights, or the other way round
WHOLE = 0.98  # of the packets that a file announces: their count is an estimate in some containers


@dataclass(frozen=True)
class Video:
    """times: of each frame that decodes, in seconds. share: how much of what the file announces could be read."""

    times: tuple[float, ...]
    share: float


def video(path: Path) -> Video:
    """Decode a video once, to know its frames. Packets that an edit list hides are no frames.

    A video that breaks off counts as far as it goes, which is logged. Raises BadInput where no frame can be read.
    """
    av, times, packets, reason = pyav(), [], 0, ""
    try:
        with av.open(str(path)) as file:
            stream = shown_stream(file, path)
            announced, rate, seconds = stream.frames, stream.average_rate or stream.guessed_rate, length(file, stream)
            try:
                for packet in file.demux(stream):
                    packets += packet.size > 0
                    times += [frame.time for frame in packet.decode()]
            except av.FFmpegError as error:
                reason = f" ({error})"
    except (av.FFmpegError, OSError) as error:
        raise BadInput(f"{path}: not a video that can be read ({error})") from error
    if not times:
        raise BadInput(f"{path}: not a video that can be read{reason}: it has no frame")
    shown = known(times, rate, path)
    share = min(1.0, max([*([packets / announced] if announced else []), *lasting(shown, seconds)], default=1.0))
    if reason or share < WHOLE:
        log.warning("%s: the video breaks off%s: %d frames, %.0f %% of it", path, reason, len(times), 100 * share)
    return Video(shown, share)


def length(file: Any, stream: Any) -> float | None:
    """How long a file says that its video lasts, in seconds: without packets that an edit list hides."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if found := re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", "")):  # Matroska's
        hours, minutes, seconds = map(float, found.groups())
        return 3600 * hours + 60 * minutes + seconds
    return file.duration / MICROSECONDS if file.duration and len(file.streams) == 1 else None


def lasting(times: tuple[float, ...], seconds: float | None) -> list[float]:
    """The share of `seconds` that frames last, where both are known."""
    if not seconds or len(times) < 2:
        return []
    return [(times[-1] - times[0]) / seconds * len(times) / (len(times) - 1)]


def shown_stream(file: Any, path: Path) -> Any:
    """The stream of an open file that a player shows, no cover picture; raises BadInput where there is none."""
    stream = file.streams.best("video")
    if stream is None:
        raise BadInput(f"{path}: not a video that can be read: it holds no pictures")
    films = [one for one in file.streams.video if not one.disposition & type(one.disposition).attached_pic]
    if len(films) > 1:
        size = f"{stream.codec_context.width} x {stream.codec_context.height}"
        say_once(path, f"of its {len(films)} streams of pictures the one of {size} pixels is read")
    stream.thread_type = "AUTO"
    return stream


def known(times: list[float | None], rate: Fraction | None, path: Path) -> tuple[float, ...]:
    """Times of frames in seconds; where one is not known, those of the file's `rate`, which is logged. Raises BadInput
    where that is not known either."""
    found = tuple(float(time) for time in times if time is not None)
    if len(found) == len(times):
        return found
    if not rate:
        raise BadInput(f"{path}: neither times of its frames nor their rate are known: re-encode it")
    say_once(path, f"its frames have no times of their own: they are taken at {float(rate):g} frames/s")
    return tuple(float(i / rate) for i in range(len(times)))


def rate_of(times: list[float]) -> float | None:
    """Frames per second of frames at `times`; None where their rate varies, or there is one alone."""
    if len(times) < 2:
        return None
    gap = (times[-1] - times[0]) / (len(times) - 1)
    expected = times[0] + gap * np.arange(len(times))
    steady = gap > 0 and np.abs(expected - times).max() <= STEADY * gap
    return round(1 / gap, 6) if steady else None


def frames_of_video(path: Path, wanted: set[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The numbers and pictures (H, W, 3) RGB of the frames that are `wanted`, in order; decodes up to the last one.

    Raises BadInput where the video breaks off before it.
    """
    av, last = pyav(), max(wanted, default=-1)
    try:
        with av.open(str(path)) as file:
            stream = shown_stream(file, path)
            aspect = float(stream.sample_aspect_ratio or 1)  # width over height of a pixel; None: not told
            for i, frame in enumerate(file.decode(stream)):
                if i in wanted:
                    yield i, upright(frame, aspect, path)
                if i >= last:
                    return
    except (av.FFmpegError, OSError) as error:
        raise BadInput(f"{path}: the video breaks off ({error})") from error


def upright(frame: Any, aspect: float, path: Path) -> NDArray[np.uint8]:
    """A frame as (H, W, 3) RGB, in square pixels where its own are `aspect` times as wide as high, and turned as its
    display matrix says. Raises BadInput for a matrix of other angles and for pixels of an absurd shape."""
    if frame.rotation % 90:
        raise BadInput(f"{path}: its frames are to be shown at {frame.rotation} degrees: re-encode it upright")
    image = frame.to_ndarray(format="rgb24")
    turned: NDArray[np.uint8] = np.rot90(square(image, aspect, path), frame.rotation // 90)
    return np.ascontiguousarray(turned)


def square(image: NDArray[np.uint8], aspect: float, path: Path) -> NDArray[np.uint8]:
    """A frame (H, W, 3) as wide as it is shown, which is logged where that is another width."""
    height, width = image.shape[:2]
    wide = round(width * aspect)
    if wide == width:
        return image
    if not 1 / WIDEST <= aspect <= WIDEST:
        raise BadInput(f"{path}: its pixels are {aspect:g} times as wide as high: re-encode it in square pixels")
    say_once(path, f"its {width} x {height} pixels are not square: it is read as {wide} x {height}, as players show it")
    return np.asarray(Image.fromarray(image).resize((wide, height), Image.Resampling.BILINEAR))


def pyav() -> Any:
    """PyAV, or BadInput."""
    try:
        import av
    except ImportError as error:
        raise BadInput("videos are read by PyAV, which is not installed: pip install 'fasthmr[video]'") from error
    return av
