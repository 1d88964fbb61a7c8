"""Videos and pictures as people have them, good and bad: all that can be read gives tracks, all else a sentence."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from compress.errors import BadInput
from hmr.video import frames
from hmr.video.frames import Film, videos_in
from hmr.video.jobs.results import run_into
from hmr.video.run import Run
from tests.films import FPS, HEIGHT, WIDTH, Squares, film, painted, tiny

ROOT = Path(__file__).resolve().parents[1]
Made = Callable[[Path], Path]


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return tiny()


def encoded(path: Path, codec: str = "mpeg4", pixels: str = "yuv420p", frames: int = 8, **more: Any) -> Path:
    """A video of the two squares by any codec; size, turn in degrees, and aspect of pixels as asked."""
    height, width = more.get("size", (HEIGHT, WIDTH))
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream(codec, rate=FPS)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.bit_rate = 4_000_000
        if "aspect" in more:
            stream.codec_context.sample_aspect_ratio = Fraction(more["aspect"])
        for number in range(frames):
            picture = np.rot90(painted(number, size=(height, width)), more.get("turned", 0))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            file.mux(stream.encode(frame.reformat(width, height, pixels)))
        file.mux(stream.encode())
    return path


def pictures(path: Path, change: Callable[[Image.Image, Path], None], frames: int = 6) -> Path:
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


GOOD: dict[str, Made] = {
    "h264": lambda path: encoded(path, "libx264"),
    "10 bits": lambda path: encoded(path, "libx264", "yuv420p10le"),
    "4:4:4": lambda path: encoded(path, "libx264", "yuv444p"),
    "mjpeg": lambda path: encoded(path.with_suffix(".avi"), "mjpeg", "yuvj420p"),
    "lossless": lambda path: encoded(path.with_suffix(".mkv"), "ffv1"),
    "odd sizes": lambda path: encoded(path.with_suffix(".mkv"), "ffv1", "yuv444p", size=(97, 129)),
    "webm": lambda path: encoded(path.with_suffix(".webm"), "libvpx"),
    "wide pixels": lambda path: encoded(path, aspect="2/1"),
    "varying rate": lambda path: film(path.with_suffix(".mkv"), times=[0, 0.04, 0.1, 0.3, 0.34, 0.5]),
    "one frame": lambda path: encoded(path, frames=1),
    "broken off": lambda path: cut(film(path.with_suffix(".mkv")), 0.8),
    "capital suffix": lambda path: encoded(path).rename(path.with_suffix(".MP4")),
    "spaces and signs": lambda path: encoded(path.with_name("мой фильм [1] & 'x'.mp4")),
    "pictures": lambda path: pictures(path, lambda image, to: image.save(to)),
    "palettes": lambda path: pictures(path, lambda image, to: image.quantize(64).save(to)),
    "CMYK": lambda path: pictures(path, lambda image, to: image.convert("CMYK").save(to.with_suffix(".jpg"))),
    "alpha": lambda path: pictures(path, alpha),
    "EXIF 3": lambda path: pictures(path, lambda image, to: exif(image, to, 3)),
    "EXIF 6": lambda path: pictures(path, lambda image, to: exif(image, to, 6)),
    "EXIF 8": lambda path: pictures(path, lambda image, to: exif(image, to, 8)),
    "one picture": lambda path: next(pictures(path, lambda image, to: image.save(to), 1).iterdir()),
    "a damaged picture": lambda path: damaged(pictures(path, lambda image, to: image.save(to))),
    "a link": lambda path: linked(encoded(path)),
}


def cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    return path


def damaged(folder: Path) -> Path:
    cut(folder / "2.png", 0.5)
    return folder


def linked(path: Path) -> Path:
    link = path.with_name("link.mp4")
    link.symlink_to(path)
    return link


@pytest.mark.parametrize("name", GOOD)
def test_what_can_be_read_gives_two_people(name, model, tmp_path):
    path = GOOD[name](tmp_path / "walk.mp4")
    result = run_into(Run(model, Film(path), Squares(), focal=200.0), tmp_path / "out", ["overlay"])
    assert [track["id"] for track in result["tracks"]] == [1, 2]
    with np.load(tmp_path / "out" / "track-1.npz") as track:
        middle = (track["box_px"][0, :2] + track["box_px"][0, 2:]) / 2
    assert middle == pytest.approx([60 if name == "wide pixels" else 30, 40], abs=3)


def test_sixteen_bits_of_grey_show_nobody_in_colour_and_are_read(model, tmp_path):
    def save(image: Image.Image, to: Path) -> None:
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(to)

    path = pictures(tmp_path / "grey.x", save)
    assert run_into(Run(model, Film(path), Squares()), tmp_path / "out")["tracks"] == []


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_phones_display_matrix_is_honoured(turns, model, tmp_path, monkeypatch):
    """PyAV tells frames' rotation; it writes none, so the frames are told to have one."""
    size = (WIDTH, HEIGHT) if turns % 2 else (HEIGHT, WIDTH)
    path = tmp_path / "walk.mkv"
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("ffv1", rate=FPS)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv444p"
        for number in range(6):
            picture = np.ascontiguousarray(np.rot90(painted(number), -turns))
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv444p")))
        file.mux(stream.encode())

    class Turned:
        def __init__(self, frame: Any) -> None:
            self.frame, self.rotation = frame, 90 * turns

        def __getattr__(self, name: str) -> Any:
            return getattr(self.frame, name)

    decoded = frames.decoded
    monkeypatch.setattr(frames, "decoded", lambda *given: map(Turned, decoded(*given)))
    [shot, *_] = Film(path).shots()
    assert np.abs(shot.image.astype(int) - painted(0)).max() < 12


BAD: dict[str, tuple[Made, str]] = {
    "nothing": (lambda path: written(path, b""), "walk.mp4"),
    "text": (lambda path: written(path, b"a letter\n" * 99), "walk.mp4"),
    "noise": (lambda path: written(path, np.random.default_rng(0).bytes(20_000)), "walk.mp4"),
    "a picture that is called a video": (lambda path: renamed(path), "walk.mp4"),
    "a video that is called a picture": (lambda path: encoded(path).rename(path.with_suffix(".png")), "no frame"),
    "head alone": (lambda path: cut(encoded(path), 0.02), "walk.mp4"),
    "sound alone": (lambda path: sound(path), "sound alone"),
    "a loop of links": (lambda path: loop(path), "walk.mp4"),
    "an empty folder": (lambda path: folder(path), "no pictures"),
    "a folder of letters": (lambda path: written(folder(path) / "a.txt", b"x").parent, "no pictures"),
    "damaged pictures alone": (lambda path: written(folder(path) / "a.png", b"x").parent, "no frame"),
    "a huge picture": (lambda path: huge(path.with_suffix(".bmp")), "no frame"),
    "frames of two sizes": (lambda path: sizes(path), "no longer of 128 x 96"),
    "an unknown kind": (lambda path: written(path.with_suffix(".xyz"), b"x"), "name a video"),
}


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def folder(path: Path) -> Path:
    path.with_suffix("").mkdir()
    return path.with_suffix("")


def renamed(path: Path) -> Path:
    Image.new("RGB", (20, 20)).save(path.with_suffix(".tif"))
    content = path.with_suffix(".tif").read_bytes()
    return written(path, content[:100])


def sound(path: Path) -> Path:
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("aac", rate=44100)
        for _ in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 44100
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def loop(path: Path) -> Path:
    path.symlink_to(path.with_name("b.mp4"))
    path.with_name("b.mp4").symlink_to(path)
    return path


def huge(path: Path) -> Path:
    Image.new("RGB", (2, 2)).save(path)
    content = bytearray(path.read_bytes())
    content[18:26] = (50_000).to_bytes(4, "little") * 2
    return written(path, bytes(content))


def sizes(path: Path) -> Path:
    there = pictures(path, lambda image, to: image.save(to))
    Image.new("RGB", (30, 40)).save(there / "9.png")
    return there


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_a_sentence(name, model, tmp_path):
    make, hint = BAD[name]
    path = make(tmp_path / "walk.mp4")
    with pytest.raises(BadInput) as refused:
        [one] = videos_in(path)
        run_into(Run(model, Film(one), Squares()), tmp_path / "out")
    assert hint in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "out" / "run.json").exists() and not list(tmp_path.rglob("track-*"))


# ---- ends from outside

CHILD = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
import torch; torch.set_num_threads(1)
from experiments.cli.main import ended
from hmr.video import run as running
from hmr.video.frames import Film
from hmr.video.jobs.results import run_into
from hmr.video.run import Run
from tests.films import Squares, tiny
running.PART = 4
video, out = map(Path, sys.argv[1:3])

def say(*_):
    print("at", flush=True)

def go():
    model = tiny()
    print("ready", flush=True)
    for name in sys.argv[3:]:
        run_into(Run(model, Film(video), Squares(), focal=200.0, batch=2, observer=say), out / name, ["overlay", "csv"])
        print("done", flush=True)

ended(go)
"""


def child(*words: object, **more: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


@pytest.mark.parametrize(
    "frame", [13, *(pytest.param(at, marks=pytest.mark.slow) for at in (1, 2, 6, 9, 17, 20, 22, 24))]
)
def test_sigint_at_any_point_loses_nothing_that_was_kept(frame, model, tmp_path):
    """It ends with 130 and a sentence, and the run goes on to what an unbroken one gives."""
    video = film(tmp_path / "walk.mp4")
    run_into(Run(model, Film(video), Squares(), focal=200.0), tmp_path / "whole", ["overlay", "csv"])
    process = child(video, tmp_path, "out")
    seen = 0
    for line in process.stdout or ():
        seen += line == "at\n"
        if seen == frame:
            break
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 130 or (process.returncode == 0 and frame == 24), said
    if process.returncode:
        assert said.splitlines()[-1] == "fasthmr: stopped by SIGINT"
    again = run_into(Run(model, Film(video), Squares(), focal=200.0), tmp_path / "out", ["overlay", "csv"])
    assert [t["frames"] for t in again["tracks"]] == [24, 24]
    one, other = (np.load(tmp_path / name / "track-1.npz")["joints_m"] for name in ("whole", "out"))
    assert one == pytest.approx(other, abs=1e-4)
    assert not list((tmp_path / "out").rglob(".*"))


def test_a_full_disk_is_a_sentence_and_exit_2(tmp_path):
    video = film(tmp_path / "walk.mp4")
    limit = 30_000  # bytes of a file: smaller than a track's

    def full() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = child(video, tmp_path / "out", "a", preexec_fn=full)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2 and "cannot be written" in said.splitlines()[-1] and "Traceback" not in said
    assert not (tmp_path / "out" / "a" / "run.json").exists()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_video(tmp_path):
    """Between frame 300 and 1,800 of a video of two people: by less than a twentieth, as users run it."""
    path = film(tmp_path / "long.mp4", 1800, lambda i: [((230, 20, 20), 30 + i % 60, 40), ((20, 230, 20), 60, 60)])
    held = CHILD.replace(
        'print("at", flush=True)', 'print(Path("/proc/self/statm").read_text().split()[1], flush=True)'
    )
    command = [sys.executable, "-c", held.replace(', ["overlay", "csv"]', ""), str(path), str(tmp_path), "out"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    pages = [int(line) for line in said.splitlines() if line.isdecimal()]
    assert json.loads((tmp_path / "out" / "run.json").read_text())["frames"] == len(pages) == 1800
    assert max(pages[300:]) < 1.05 * pages[299]
