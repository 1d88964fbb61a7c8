"""Frames of videos, streams and folders, against the numbers that they were written with."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from compress.errors import BadInput
from hmr.media.video import video
from hmr.video import frames
from hmr.video.frames import STREAM, Film, Span, videos_in
from tests.films import FPS, HEIGHT, WIDTH, film, painted


@pytest.fixture
def walk(tmp_path) -> Path:
    return film(tmp_path / "walk.mp4")


def test_frames_come_in_order_at_their_times_and_show_what_was_written(walk):
    shots = list(Film(walk).shots())
    assert [shot.number for shot in shots] == list(range(24))
    assert [shot.time for shot in shots] == pytest.approx([i / FPS for i in range(24)], abs=2e-3)
    assert shots[3].image.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(shots[7].image.astype(int) - painted(7)).mean() < 12


def test_a_span_is_seconds_of_the_file_and_every_few_frames_of_them(walk):
    numbers = [shot.number for shot in Film(walk, Span(5 / FPS - 0.01, 15 / FPS - 0.01, 3)).shots()]
    assert numbers == [5, 8, 11, 14]
    assert [shot.number for shot in Film(walk, Span(5 / FPS - 0.01, 15 / FPS - 0.01, 3)).shots(after=8)] == [11, 14]
    with pytest.raises(BadInput, match="no frame"):
        list(Film(walk, Span(start=99)).shots())


def test_frames_of_varying_rate_keep_their_times(tmp_path):
    times = [0.0, 0.04, 0.2, 0.24, 0.5, 0.9]
    path = film(tmp_path / "phone.mkv", times=times)
    assert [shot.time for shot in Film(path).shots()] == pytest.approx(times, abs=2e-3)


def test_a_stream_is_read_as_it_arrives_and_never_sought(tmp_path, monkeypatch):
    """Bytes of MPEG-TS come through a pipe, paced; the first frames are there before the last bytes are written."""
    content = film(tmp_path / "walk.ts", frames=120).read_bytes()
    read, write = os.pipe()
    monkeypatch.setattr(frames.sys, "stdin", SimpleNamespace(fileno=lambda: read))
    seen, go = threading.Event(), threading.Event()

    def camera() -> None:
        half = len(content) * 9 // 10 // 188 * 188
        for i in range(0, half, 188):
            os.write(write, content[i : i + 188])
        go.set() if seen.wait(60) else None
        os.write(write, content[half:])
        os.close(write)

    thread = threading.Thread(target=camera, daemon=True)
    thread.start()
    numbers = []
    for shot in Film(STREAM).shots():
        numbers.append(shot.number)
        seen.set()
    thread.join()
    assert go.is_set() and numbers == list(range(120))


def packets(path: Path) -> list[tuple[Any, int]]:
    """(offset, size) of the packets of a video."""
    with av.open(str(path)) as file:
        return [(packet.pos, packet.size) for packet in file.demux(video=0) if packet.size]


def test_a_damaged_frame_is_told_and_left_out_and_the_others_keep_their_times(tmp_path, caplog):
    path = film(tmp_path / "walk.avi", codec="mpeg4")
    content, (offset, size) = bytearray(path.read_bytes()), packets(path)[8]
    content[offset : offset + size + 8] = bytes(size + 8)
    path.write_bytes(bytes(content))
    source = Film(path)
    times = [shot.time for shot in source.shots()]
    assert source.damaged >= 1 and len(times) >= 20 and "left out" in caplog.text
    assert times[-1] == pytest.approx(23 / FPS, abs=0.05)


def test_frames_that_are_built_on_a_damaged_one_are_left_out_too(tmp_path):
    """Frame 9 is gone; 10 and 11 are differences to it, and 12 stands alone again. What is left shows what was
    written at its time."""
    path = film(tmp_path / "walk.avi", codec="mpeg4")
    content, (offset, size) = bytearray(path.read_bytes()), packets(path)[9]
    content[offset : offset + size] = bytes(size)
    path.write_bytes(bytes(content))
    source = Film(path)
    shots = [(round(shot.time * FPS), shot.image) for shot in source.shots()]
    assert [number for number, _ in shots] == [i for i in range(24) if i not in (9, 10, 11)]
    assert all(np.abs(image.astype(int) - painted(number)).mean() < 12 for number, image in shots)
    assert source.damaged == 3


def test_a_video_that_breaks_off_counts_as_far_as_it_goes(tmp_path):
    path = film(tmp_path / "walk.mkv")
    path.write_bytes(path.read_bytes()[:-3000])
    assert 5 <= len(list(Film(path).shots())) < 24


def test_pictures_of_a_folder_are_frames_and_a_damaged_one_is_left_out(tmp_path, caplog):
    for i in range(4):
        Image.fromarray(painted(i)).save(tmp_path / f"{i}.png")
    (tmp_path / "2.png").write_bytes(b"no picture")
    source = Film(tmp_path, fps=10)
    assert [(shot.number, shot.time) for shot in source.shots()] == [(0, 0), (1, 0.1), (3, 0.3)]
    assert source.damaged == 1 and "2.png" in caplog.text


@pytest.mark.parametrize("content", [b"", b"no video at all", bytes(5000)])
def test_what_is_no_video_is_refused(tmp_path, content):
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"broken\.mp4"):
        list(Film(path).shots())


def test_videos_of_a_folder_are_those_in_it(tmp_path, walk):
    assert videos_in(walk) == [walk] and videos_in(tmp_path) == [walk] and videos_in(STREAM) == [STREAM]
    (tmp_path / ".hidden.mp4").touch()
    assert videos_in(tmp_path) == [walk]
    with pytest.raises(BadInput, match="no such video"):
        videos_in(tmp_path / "nothing")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(BadInput, match="name a video"):
        videos_in(tmp_path / "notes.txt")


def test_frames_larger_than_any_memory_are_refused(tmp_path):
    stream: Any = SimpleNamespace(codec_context=SimpleNamespace(width=50_000, height=50_000))
    with pytest.raises(BadInput, match="50000 x 50000"):
        frames.refuse_huge(tmp_path, stream)
    with pytest.raises(BadInput):
        list(Film(header(tmp_path / "huge.bmp")).shots())


def header(path: Path) -> Path:
    """A BMP whose header says that it is 50,000 pixels wide and high."""
    small = io.BytesIO()
    Image.new("RGB", (2, 2)).save(small, "BMP")
    content = bytearray(small.getvalue())
    content[18:26] = (50_000).to_bytes(4, "little") * 2
    path.write_bytes(bytes(content))
    return path


def test_text_in_a_video_that_is_no_text_is_passed_over(tmp_path):
    """Names of its streams and of its encoder are read with it."""
    path = film(tmp_path / "walk.mkv")
    content = path.read_bytes()
    assert content.count(b"Lav") >= 2
    path.write_bytes(content.replace(b"Lav", b"\xf9av"))
    assert len(list(Film(path).shots())) == 24
    assert len(video(path).times) == 24
