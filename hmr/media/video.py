"""A video as the frames that a player shows: those that decode, upright, each at its own time."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compress.errors import BadInput
from hmr.media.listing import some
from hmr.media.picture import say_once

log = logging.getLogger(__name__)

VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")
STEADY = 0.1  # of a frame's duration, by which times may lie beside a steady rate: containers round to milliseconds
MICROSECONDS = 1_000_000  # in a second, as a file's length is counted
WIDEST = 4.0  # pixels, in their heights, or the other way round
ROUNDED = 0.001  # seconds, to which Matroska's times are rounded
MOST = 0.9  # of the gaps between frames are equal where the rate is steady
WHOLE = 0.98  # of the packets that a file announces: their count is an estimate in some containers


@dataclass(frozen=True)
class Video:
    """times: of each frame that decodes, in seconds. damaged: the numbers of those that are not as they were filmed,
    or are built on such. lost: how many others there were, as far as can be told. share: how much of what the file
    announces is whole."""

    times: tuple[float, ...]
    damaged: frozenset[int]
    lost: int
    share: float

    @property
    def notes(self) -> dict[str, float]:
        """What reports tell of a video that is not whole."""
        if not self.damaged and not self.lost and self.share >= WHOLE:
            return {}
        return {"damaged_frames": len(self.damaged) + self.lost, "share_read": round(self.share, 4)}


@dataclass
class Reading:
    """How far a file was read. unread: packets that do not decode. end: why it breaks off."""

    packets: int = 0
    unread: int = 0
    end: str = ""


def video(path: Path) -> Video:
    """Decode a video once, to know its frames. Packets that an edit list hides are no frames.

    A video that breaks off counts as far as it goes; of one that is damaged, what decodes before and behind the damage;
    both are logged. Raises BadInput where no frame can be read.
    """
    av, reading = pyav(), Reading()
    times: list[float | None] = []
    damaged: list[int] = []
    try:
        with av.open(str(path), metadata_errors="replace") as file:
            stream = shown_stream(file, path)
            announced, rate, seconds = stream.frames, stream.average_rate or stream.guessed_rate, length(file, stream)
            for frame, whole in told_apart(decoded(file, stream, reading), reading):
                damaged += [] if whole else [len(times)]
                times.append(frame.time)
    except (av.FFmpegError, OSError) as error:
        raise BadInput(f"{path}: not a video that can be read ({error})") from error
    if len(times) == len(damaged):
        raise BadInput(f"{path}: not a video that can be read{reading.end}: it has no frame")
    shown = known(times, rate, path)
    share = share_read(reading, announced, shown, seconds)
    if reading.end or share < WHOLE:
        log.warning("%s: the video breaks off%s: %d frames, %.0f %% of it", path, reading.end, len(times), 100 * share)
    return without(path, shown, damaged, max(reading.unread, missing(shown)), share)


def without(path: Path, times: tuple[float, ...], damaged: list[int], lost: int, share: float) -> Video:
    """A video but for what is damaged, which is logged."""
    share *= (len(times) - len(damaged)) / (len(times) + lost)
    if lost:
        log.warning("%s: about %d frames within it are not there or do not decode; those behind are counted on without "
                    "them (%.0f %% of it is whole)", path, lost, 100 * share)  # fmt: skip
    if damaged:
        log.warning("%s: %d frames are damaged and left out: %s", path, len(damaged), some([*map(str, damaged)], 5))
    return Video(times, frozenset(damaged), lost, share)


def decoded(file: Any, stream: Any, reading: Reading) -> Iterator[Any]:
    """The frames of an open file up to where it breaks off; `reading` counts packets and those that do not decode."""
    av, packets = pyav(), file.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:
            packet, reading.end = None, f" ({error})"
        if packet is None and not reading.end:
            return
        try:
            frames = stream.decode(packet)  # of None: those that it holds back
        except av.FFmpegError:
            frames, reading.unread = [], reading.unread + 1
        yield from frames
        if packet is None:
            return
        reading.packets += packet.size > 0


def told_apart(frames: Iterator[Any], reading: Reading) -> Iterator[tuple[Any, bool]]:
    """Each frame with whether it is whole. What follows damage is built on it, up to the next frame that stands alone:
    decoders do not flag that."""
    whole, unread = True, 0
    for frame in frames:
        whole = not frame.is_corrupt and (frame.key_frame or (whole and reading.unread == unread))
        unread = reading.unread
        yield frame, whole


def missing(times: tuple[float, ...]) -> int:
    """How many frames would fill the holes of a video whose rate is steady but for them; 0 where it varies."""
    gaps = np.diff(times)
    usual = float(np.median(gaps)) if len(gaps) else 0.0
    steady = np.abs(gaps - usual) <= STEADY * usual + ROUNDED
    if not usual or steady.mean() < MOST:
        return 0
    return int(np.round(gaps[~steady & (gaps > usual)] / usual - 1).sum())


def length(file: Any, stream: Any) -> float | None:
    """How long a file says that its video lasts, in seconds: without packets that an edit list hides."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if found := re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", "")):  # Matroska's
        hours, minutes, seconds = map(float, found.groups())
        return 3600 * hours + 60 * minutes + seconds
    return file.duration / MICROSECONDS if file.duration and len(file.streams) == 1 else None


def share_read(reading: Reading, announced: int, times: Sequence[float], seconds: float | None) -> float:
    """How much of the packets or, if that is more, of the `seconds` that a file announces was read; 1 where it
    announces nothing. times: of the frames, in seconds."""
    packets = [reading.packets / announced] if announced else []
    return min(1.0, max([*packets, *lasting(times, seconds)], default=1.0))


def lasting(times: Sequence[float], seconds: float | None) -> list[float]:
    """The share of `seconds` that frames last, where both are known."""
    if not seconds or len(times) < 2:
        return []
    return [(times[-1] - times[0]) / seconds * len(times) / (len(times) - 1)]


def shown_stream(file: Any, path: Path) -> Any:
    """The stream of an open file that a player shows, no cover picture; raises BadInput where there is none."""
    stream = file.streams.best("video")
    if stream is None:
        what = "sound alone" if file.streams.audio else "no pictures"
        raise BadInput(f"{path}: not a video that can be read: it holds {what}")
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
    av, reading, last = pyav(), Reading(), max(wanted, default=-1)
    try:
        with av.open(str(path), metadata_errors="replace") as file:
            stream = shown_stream(file, path)
            aspect = float(stream.sample_aspect_ratio or 1)  # width over height of a pixel; None: not told
            for i, frame in enumerate(decoded(file, stream, reading)):
                if i in wanted:
                    yield i, upright(frame, aspect, path)
                if i >= last:
                    return
    except (av.FFmpegError, OSError) as error:
        raise BadInput(f"{path}: the video breaks off ({error})") from error
    raise BadInput(f"{path}: the video breaks off before frame {last}{reading.end}")


def upright(frame: Any, aspect: float, path: Path) -> NDArray[np.uint8]:
    """A frame as (H, W, 3) RGB, in square pixels where its own are `aspect` times as wide as high, turned and mirrored
    as its display matrix says. Raises BadInput for a matrix of other angles and for pixels of an absurd shape."""
    if frame.rotation % 90:
        raise BadInput(f"{path}: its frames are to be shown at {frame.rotation} degrees: re-encode it upright")
    image = square(frame.to_ndarray(format="rgb24"), aspect, path)
    if matrix := frame.side_data.get("DISPLAYMATRIX"):
        steps = np.frombuffer(matrix, np.int32).reshape(3, 3)[:2, :2].astype(float)  # rows: right and down, as shown
        if abs(steps[0, 1]) > abs(steps[0, 0]):
            image = image.swapaxes(0, 1)
        across, down = np.where(steps.sum(0) < 0, -1, 1)
        image = image[::down, ::across]
    return np.ascontiguousarray(image)


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
