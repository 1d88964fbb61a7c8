"""`fasthmr run` on videos, pictures and folders as people have them, good and bad: what can be read gives tracks,
all else one sentence and exit 2, and nothing is lost. The table has 60 of them; signals and a full disk are in
`test_video_signals.py`, options that fit nothing in `test_run_command.py`.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hmr.video.jobs import job
from tests import footage
from tests.films import Squares, film, tiny

TWO = [1, 2]  # tracks of both squares

READ: dict[str, footage.Made] = {
    "h264": lambda path: footage.encoded(path, "libx264"),
    "10 bits": lambda path: footage.encoded(path, "libx264", "yuv420p10le"),
    "4:4:4": lambda path: footage.encoded(path, "libx264", "yuv444p"),
    "mjpeg": lambda path: footage.encoded(path.with_suffix(".avi"), "mjpeg", "yuvj420p"),
    "mpeg-ts": lambda path: footage.encoded(path.with_suffix(".ts"), "mpeg2video"),
    "quicktime": lambda path: footage.encoded(path.with_suffix(".mov"), "mjpeg", "yuvj420p"),
    "lossless": lambda path: footage.encoded(path.with_suffix(".mkv"), "ffv1"),
    "odd sizes": lambda path: footage.encoded(path.with_suffix(".mkv"), "ffv1", "yuv444p", size=(97, 129)),
    "webm": lambda path: footage.encoded(path.with_suffix(".webm"), "libvpx"),
    "wide pixels": lambda path: footage.encoded(path, aspect="2/1"),
    "varying rate": lambda path: film(path.with_suffix(".mkv"), times=[0, 0.04, 0.1, 0.3, 0.34, 0.5]),
    "one frame": lambda path: footage.encoded(path, frames=1),
    "broken off": lambda path: footage.cut(film(path.with_suffix(".mkv")), 0.8),
    "rotten in the middle": footage.rotten,
    "a phone's, by 90": lambda path: footage.phone(path, 1),
    "a phone's, by 180": lambda path: footage.phone(path, 2),
    "a phone's, by 270": lambda path: footage.phone(path, 3),
    "capital suffix": lambda path: footage.encoded(path).rename(path.with_suffix(".MP4")),
    "another suffix": lambda path: footage.encoded(path).rename(path.with_suffix(".avi")),
    "spaces and signs": lambda path: footage.encoded(path.with_name("мой фильм [1] & 'x'.mp4")),
    "a long name": lambda path: footage.encoded(path.with_name("x" * 240 + ".mp4")),
    "a link": lambda path: footage.linked(footage.encoded(path)),
    "pictures": footage.pictures,
    "palettes": lambda path: footage.pictures(path, lambda image, to: image.quantize(64).save(to)),
    "CMYK": lambda path: footage.pictures(path, lambda image, to: image.convert("CMYK").save(to.with_suffix(".jpg"))),
    "alpha": lambda path: footage.pictures(path, footage.alpha),
    "JPEG in the name of PNG": lambda path: footage.pictures(path, lambda image, to: image.save(to, "jpeg")),
    "EXIF 3": lambda path: footage.pictures(path, lambda image, to: footage.exif(image, to, 3)),
    "EXIF 6": lambda path: footage.pictures(path, lambda image, to: footage.exif(image, to, 6)),
    "EXIF 8": lambda path: footage.pictures(path, lambda image, to: footage.exif(image, to, 8)),
    "one picture": lambda path: next(footage.pictures(path, frames=1).iterdir()),
    "a damaged picture": lambda path: footage.damaged(footage.pictures(path)),
    "pictures with hidden ones": lambda path: footage.with_file(
        footage.with_file(footage.pictures(path), "._0.png"), "__MACOSX/0.png"
    ),
    "pictures in a folder in itself": lambda path: footage.knot(footage.pictures(path)),
}
NOBODY: dict[str, footage.Made] = {
    "nobody": footage.grey,
    "16 bits of grey": lambda path: footage.pictures(path, footage.sixteen_bits),
    "one bit": lambda path: footage.pictures(path, lambda image, to: image.convert("1").save(to)),
    "floats": lambda path: footage.pictures(path, lambda image, to: image.convert("F").save(to.with_suffix(".tif"))),
}
REFUSED: dict[str, tuple[footage.Made, str]] = {
    "0 bytes": (lambda path: footage.written(path, b""), "not a video that can be read"),
    "text": (lambda path: footage.written(path, b"a letter\n" * 99), "not a video that can be read"),
    "noise": (
        lambda path: footage.written(path, np.random.default_rng(0).bytes(20_000)),
        "not a video that can be read",
    ),
    "a picture that is called a video": (footage.picture_named_video, "no frame"),
    "a video that is called a picture": (
        lambda path: footage.encoded(path).rename(path.with_suffix(".png")),
        "no frame",
    ),
    "a video that is called a text": (
        lambda path: footage.encoded(path).rename(path.with_suffix(".txt")),
        "name a video",
    ),
    "head alone": (lambda path: footage.cut(footage.encoded(path), 0.02), "not a video that can be read"),
    "sound alone": (footage.sound, "sound alone"),
    "a vast video": (footage.vast, "no frame"),
    "a huge PNG": (footage.huge_png, "no frame"),
    "a huge BMP": (footage.huge_bmp, "no frame"),
    "nothing": (lambda path: path, "no such video or folder"),
    "a loop of links": (footage.loop, "no such video or folder"),
    "a link to nothing": (footage.dangling, "no such video or folder"),
    "a pipe": (footage.pipe, "no such video or folder"),
    "an empty folder": (footage.folder, "no pictures"),
    "a folder of letters": (lambda path: footage.with_file(footage.folder(path), "a.txt"), "no pictures"),
    "damaged pictures alone": (lambda path: footage.with_file(footage.folder(path), "a.png"), "no frame"),
    "a folder of a bad video": (
        lambda path: footage.with_file(footage.folder(path), "a.mp4"),
        "a.mp4: not a video that can be read",
    ),
    "pictures of two sizes": (footage.sizes, "no longer of 128 x 96"),
    "an unreadable video": (lambda path: footage.locked(footage.encoded(path)), "Permission denied"),
    "an unreadable folder": (lambda path: footage.locked(footage.pictures(path)), "Permission denied"),
}


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return tiny()


@pytest.fixture
def run(fasthmr, model, monkeypatch, tmp_path):
    """`fasthmr run` on a file with the tiny model and the finder of squares: code, result, what was said on stderr."""
    monkeypatch.setattr(job, "network_of", lambda asked: model)
    monkeypatch.setattr(job, "finder", lambda name, every: Squares())

    def go(path: Path, *words: object) -> tuple[int, Any, str]:
        with limited_by_modes():
            code, out, err = fasthmr("run", path, "--model", "tiny", "--out", tmp_path / "out", "--json", *words)
        return code, json.loads(out) if out else None, err

    return go


@contextmanager
def limited_by_modes() -> Iterator[None]:
    """Even root is refused what a file's mode does not allow: Linux' capabilities to pass over modes are laid down."""
    if sys.platform != "linux" or os.geteuid():
        yield
        return
    header, before = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # version 3; this thread
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, before) == 0
    fewer = (ctypes.c_uint32 * 6)(*before)
    fewer[0] &= ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, of the effective ones
    assert libc.capset(header, fewer) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that can be read."""
    there = [path for path in folder.iterdir() if path.name != "out" and os.access(path, os.R_OK)]
    files = [file for path in there for file in (path.iterdir() if path.is_dir() else [path]) if file.is_file()]
    return {str(file): file.read_bytes() for file in files}


@pytest.mark.parametrize("name", READ)
def test_what_can_be_read_gives_two_people(name, run, tmp_path):
    path = READ[name](tmp_path / "walk.mp4")
    before = contents(tmp_path)
    code, result, err = run(path, "--focal", 200)
    assert (code, [track["id"] for track in result["tracks"]]) == (0, TWO) and "Traceback" not in err
    assert bool(result["damaged"]) == (name in ("broken off", "rotten in the middle", "a damaged picture"))
    with np.load(tmp_path / "out" / "track-1.npz") as track:
        middle = (track["box_px"][0, :2] + track["box_px"][0, 2:]) / 2
    assert middle == pytest.approx([60 if name == "wide pixels" else 30, 40], abs=3)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", NOBODY)
def test_nobody_is_an_answer_that_is_said(name, run, tmp_path, caplog):
    code, result, _ = run(NOBODY[name](tmp_path / "walk.mp4"))
    assert (code, result["tracks"]) == (0, []) and "nobody was found" in caplog.text
    assert not list(tmp_path.rglob("track-*")) and (tmp_path / "out" / "run.json").is_file()


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_a_sentence(name, run, tmp_path):
    make, hint = REFUSED[name]
    path = make(tmp_path / "walk.mp4")
    before = contents(tmp_path)
    code, result, err = run(path)
    said = [line for line in err.splitlines() if line.startswith("fasthmr:")]
    assert (code, result, len(said)) == (2, None, 1) and hint in said[0] and "Traceback" not in err
    assert not list(tmp_path.rglob("run.json")) and not list(tmp_path.rglob("track-*"))
    assert contents(tmp_path) == before
