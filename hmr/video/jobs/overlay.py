"""The video again, with the bodies drawn over it: a second look at the file, one frame after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import BadInput
from hmr.animation.track import Track
from hmr.body.model import BodyModel
from hmr.media.shot import Pixels, Shot
from hmr.media.video import pyav
from hmr.video.ahead import Ahead
from hmr.video.frames import Film, watched
from hmr.video.stages import Stages
from hmr.world.raster import draw_solid

LIGHT = np.array([-0.3, -0.5, -0.8], np.float32) / np.float32(0.99)  # from the camera's upper left
AMBIENT, OPACITY = 0.35, 0.8
TICKS = 90_000  # of a second, in which times are written
DEPTH = 4  # frames between threads
CODECS = ("libx264", "libopenh264", "mpeg4")  # the first that PyAV has


def write_overlay(path: Path, film: Film, tracks: Sequence[Track], body: BodyModel, stages: Stages) -> None:
    """Write a video with everybody's body, each frame at its own time. Decoding, drawing and writing overlap."""
    with (
        Ahead(watched(film, stages), DEPTH, "decode") as shots,
        Ahead(drawn(shots, tracks, body, stages), DEPTH, "draw") as frames,
    ):
        write(path, frames, stages)


def drawn(
    shots: Ahead[Shot], tracks: Sequence[Track], body: BodyModel, stages: Stages
) -> Iterator[tuple[float, Pixels]]:
    """Times and pictures of frames with the bodies of those who are there."""
    rows = {track.id: {int(frame): i for i, frame in enumerate(track.frame)} for track in tracks}
    for shot in shots:
        here = [(track, rows[track.id][shot.number]) for track in tracks if shot.number in rows[track.id]]
        with stages.stage("draw"):
            picture = with_bodies(shot.image, here, body)
        yield shot.time, picture


def with_bodies(image: Pixels, people: Sequence[tuple[Track, int]], body: BodyModel) -> Pixels:
    """A frame (H, W, 3) with bodies over it, the nearest last; those that are interpolated are grey."""
    canvas = image.astype(np.float32)
    faces = body.faces.numpy().astype(np.int32)
    for track, row in sorted(people, key=lambda one: -float(one[0].joints_m[one[1], 0, 2])):
        vertices = track.vertices_m(body, slice(row, row + 1))[0]
        colours = np.tile(track.colours[row].astype(np.float32), (len(vertices), 1))
        draw_solid(canvas, vertices, faces, track.focal_px, colours, LIGHT, AMBIENT)
    blended: Pixels = (OPACITY * canvas + (1 - OPACITY) * image).round().clip(0, 255).astype(np.uint8)
    return blended


def write(path: Path, frames: Ahead[tuple[float, Pixels]], stages: Stages) -> None:
    """Encode frames at their times; sizes are even, as most players need it."""
    av = pyav()
    with av.open(str(path), "w", format="mp4") as file:
        stream: Any = None
        for time, picture in frames:
            with stages.stage("write"):
                even = np.ascontiguousarray(picture[: len(picture) // 2 * 2, : picture.shape[1] // 2 * 2])
                if not even.size:
                    raise BadInput(f"{path}: frames of {picture.shape[1]} x {len(picture)} pixels make no video")
                if stream is None:
                    stream, start = opened(file, av, even), time
                frame = av.VideoFrame.from_ndarray(even, format="rgb24")
                frame.pts, frame.time_base = round((time - start) * TICKS), Fraction(1, TICKS)
                file.mux(stream.encode(frame))
        if stream is not None:
            file.mux(stream.encode())


def opened(file: Any, av: Any, picture: Pixels) -> Any:
    """A stream for pictures like this one."""
    codec = next(name for name in CODECS if name in av.codecs_available)
    stream = file.add_stream(codec)
    stream.height, stream.width = picture.shape[:2]
    stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, TICKS)
    stream.codec_context.time_base = Fraction(1, TICKS)
    if codec == "libx264":
        stream.options = {"crf": "20", "preset": "veryfast"}
    return stream
