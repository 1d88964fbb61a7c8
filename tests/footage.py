"""Files of the two squares of `tests.films` as people have them, and as nobody should: makers of one file each.

Each takes a path that ends in walk.mp4, writes there or beside it, and returns the path of what it wrote.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from tests.films import FPS, HEIGHT, WIDTH, film, painted

HUGE = 50_000  # pixels
Made = Callable[[Path], Path]


def encoded(path: Path, codec: str = "mpeg4", pixels: str = "yuv420p", frames: int = 8, **more: Any) -> Path:
    """A video of the two squares by any codec; size, quarter turns to the left, and aspect of pixels as asked."""
    height, width = more.get("size", (HEIGHT, WIDTH))
    turned = more.get("turned", 0)
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream(codec, rate=FPS)
        stream.width, stream.height = (height, width) if turned % 2 else (width, height)
        stream.pix_fmt, stream.bit_rate = pixels, 4_000_000
        stream.codec_context.gop_size = 4
        if "aspect" in more:
            stream.codec_context.sample_aspect_ratio = Fraction(more["aspect"])
        for number in range(frames):
            picture = np.rot90(painted(number, size=(height, width)), turned)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            file.mux(stream.encode(frame.reformat(format=pixels)))
        file.mux(stream.encode())
    return path


def phone(path: Path, turns: int) -> Path:
    """Lying `turns` quarters to the left in the file, upright by the matrix in its track header, as phones write it:
    ISO/IEC 14496-12 has (a, b; c, d) that takes x to a x + c y and y to b x + d y."""
    content = bytearray(encoded(path, turned=turns).read_bytes())
    a, b, c, d = {1: (0, 1, -1, 0), 2: (-1, 0, 0, -1), 3: (0, -1, 1, 0)}[turns]
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    at = content.index(b"tkhd") + 44  # of a header of version 0
    content[at : at + len(matrix)] = matrix
    return written(path, bytes(content))


def grey(path: Path) -> Path:
    """Nobody is in it."""
    return film(path, 8, lambda number: [])


def rotten(path: Path) -> Path:
    """A frame in the middle of it is zeros."""
    path = film(path.with_suffix(".avi"))
    with av.open(str(path)) as file:
        at, size = [(packet.pos or 0, packet.size) for packet in file.demux(video=0) if packet.size][9]
    content = bytearray(path.read_bytes())
    content[at : at + size] = bytes(size)
    return written(path, bytes(content))


def vast(path: Path) -> Path:
    """A video whose header says that frames are of 50,000 x 50,000 pixels."""
    content = bytearray(encoded(path.with_suffix(".avi"), "rawvideo", "bgr24", 2).read_bytes())
    at = content.index(b"strf") + 12  # its size, and that of a BITMAPINFOHEADER
    content[at : at + 8] = struct.pack("<2i", HUGE, HUGE)
    return written(path.with_suffix(".avi"), bytes(content))


def sound(path: Path) -> Path:
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("aac", rate=44100)
        for _ in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 44100
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


# ---- pictures


def saved(image: Image.Image, path: Path) -> None:
    image.save(path)


def pictures(path: Path, change: Callable[[Image.Image, Path], None] = saved, frames: int = 6) -> Path:
    """A folder of pictures, each saved by `change`."""
    path = path.with_suffix("")
    path.mkdir()
    for number in range(frames):
        change(Image.fromarray(painted(number)), path / f"{number}.png")
    return path


def exif(image: Image.Image, path: Path, orientation: int) -> None:
    """Lying on its side in the file, upright by its EXIF."""
    turned = {3: 180, 6: 90, 8: 270}[orientation]
    tags = Image.Exif()
    tags[0x0112] = orientation
    image.rotate(turned, expand=True).save(path.with_suffix(".jpg"), exif=tags, quality=95)


def alpha(image: Image.Image, path: Path) -> None:
    image.putalpha(Image.fromarray(np.where(np.asarray(image)[..., 0] == 120, 90, 255).astype(np.uint8)))
    image.save(path)


def sixteen_bits(image: Image.Image, path: Path) -> None:
    Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(path)


def huge_png(path: Path) -> Path:
    """A PNG whose header says 50,000 x 50,000, with the checksum that belongs to it."""
    content = bytearray(pictures(path, frames=1).joinpath("0.png").read_bytes())
    content[16:24] = struct.pack(">2I", HUGE, HUGE)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    return written(path.with_name("huge.png"), bytes(content))


def huge_bmp(path: Path) -> Path:
    Image.new("RGB", (2, 2)).save(path.with_suffix(".bmp"))
    content = bytearray(path.with_suffix(".bmp").read_bytes())
    content[18:26] = struct.pack("<2i", HUGE, HUGE)
    return written(path.with_suffix(".bmp"), bytes(content))


def picture_named_video(path: Path) -> Path:
    Image.new("RGB", (20, 20)).save(path.with_suffix(".tif"))
    return written(path, path.with_suffix(".tif").read_bytes()[:100])


def sizes(path: Path) -> Path:
    there = pictures(path)
    Image.new("RGB", (30, 40)).save(there / "9.png")
    return there


# ---- files and folders


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    return written(path, content[: int(share * len(content))])


def folder(path: Path) -> Path:
    path.with_suffix("").mkdir()
    return path.with_suffix("")


def with_file(there: Path, name: str, content: bytes = b"x") -> Path:
    (there / name).parent.mkdir(parents=True, exist_ok=True)
    (there / name).write_bytes(content)
    return there


def damaged(there: Path) -> Path:
    cut(there / "2.png", 0.5)
    return there


def linked(path: Path) -> Path:
    link = path.with_name("link.mp4")
    link.symlink_to(path)
    return link


def loop(path: Path) -> Path:
    path.symlink_to(path.with_name("b.mp4"))
    path.with_name("b.mp4").symlink_to(path)
    return path


def knot(there: Path) -> Path:
    """A folder that is in itself."""
    (there / "again").symlink_to(there)
    return there


def dangling(path: Path) -> Path:
    path.symlink_to(path.with_name("nothing.mp4"))
    return path


def pipe(path: Path) -> Path:
    """Nobody writes to it: whoever opens it waits for ever."""
    os.mkfifo(path)
    return path


def locked(path: Path) -> Path:
    path.chmod(0)
    return path
