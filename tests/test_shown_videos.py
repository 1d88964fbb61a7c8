"""Videos as they show: turns, pixels, streams, times and damage, against the frames that they were made from."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from compress.errors import BadInput
from hmr.data.pictures import listed, open_pictures, read
from hmr.media.listing import part_of
from hmr.media.video import known, missing, rate_of, video
from hmr.video.frames import Film
from tests.test_media import boxed
from tests.test_pictures import COLOUR, COLUMNS, ROWS, SIDE

ONE = Fraction(1)


def written(
    path: Path, count: int = 24, shift: int = 0, times: list[int] | None = None, turn: int = 0, aspect: Fraction = ONE
) -> Path:
    """A video whose frame i is COLOUR turned by `turn` quarters and darkened by 2 i; its packets moved by `shift`."""
    with av.open(str(path), "w", options={"avoid_negative_ts": "disabled", "movflags": "faststart"}) as file:
        stream = file.add_stream("mpeg4", rate=30)
        stream.height, stream.width = np.rot90(COLOUR, turn).shape[:2]
        stream.codec_context.sample_aspect_ratio = aspect
        stream.pix_fmt, stream.bit_rate, stream.codec_context.time_base = "yuv420p", 4_000_000, Fraction(1, 30)
        for i in range(count + 1):
            given = np.ascontiguousarray(np.rot90(COLOUR // 2 + np.uint8(2 * i), turn))
            frame = av.VideoFrame.from_ndarray(given, format="rgb24") if i < count else None
            if frame:
                frame.pts, frame.time_base = (times or range(count))[i], Fraction(1, 30)
            for packet in stream.encode(frame):
                packet.pts, packet.dts = (packet.pts or 0) - shift, (packet.dts or 0) - shift
                file.mux(packet)
    return path


def shown_at(path: Path, matrix: tuple[int, ...]) -> Path:
    """The mp4 with another display matrix, as a phone writes it."""
    content = bytearray(path.read_bytes())
    place = content.find(b"tkhd") + 44  # size and kind, version, times, track, duration, layer, volume before it
    content[place : place + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(content)
    return path


def test_a_phones_video_is_upright(tmp_path):
    lying = shown_at(written(tmp_path / "a.mp4", turn=1), (0, 0x10000, 0, -0x10000, 0, 0, 48 << 16, 0, 0x40000000))
    (first,) = read(lying, ["0"])
    assert first.image.shape == COLOUR.shape and np.abs(first.image.astype(int) - COLOUR // 2).mean() < 6
    (upright,) = read(written(tmp_path / "b.mp4"), ["0"])
    assert np.abs(upright.image.astype(int) - first.image).mean() < 4


ONE_FIXED = 0x10000
AXES = [
    (1, 0, 0, 1),
    (-1, 0, 0, 1),
    (1, 0, 0, -1),
    (-1, 0, 0, -1),
    (0, 1, 1, 0),
    (0, 1, -1, 0),
    (0, -1, 1, 0),
    (0, -1, -1, 0),
]


@pytest.mark.parametrize("axes", AXES)
def test_a_display_matrix_turns_and_mirrors(tmp_path, axes):
    """A stored pixel (x, y) is shown at (a x + c y, b x + d y), counted from the other end where that is below 0."""
    a, b, c, d = axes
    path = shown_at(written(tmp_path / "a.mp4"), (*(ONE_FIXED * n for n in (a, b, 0, c, d, 0)), 0, 0, 0x40000000))
    x, y = COLUMNS, ROWS
    true = np.zeros((64, 48, 3) if a else (48, 64, 3), int)
    true[b * x + d * y - min(0, b * 47 + d * 63), a * x + c * y - min(0, a * 47 + c * 63)] = COLOUR // 2
    (found,) = read(path, ["0"])
    (shot, *_) = Film(path).shots()
    assert found.image.shape == true.shape and np.abs(found.image - true).mean() < 6
    assert np.array_equal(shot.image, found.image)


@pytest.mark.parametrize("aspect", [Fraction(3, 2), Fraction(1, 2)])
@pytest.mark.parametrize("turn", [0, 1])
def test_pixels_that_are_not_square_are_shown_as_players_do(tmp_path, caplog, aspect, turn):
    """A ramp over the columns of a stored frame reaches as far over the columns, or rows, that are shown."""
    path = written(tmp_path / "wide.mkv", 2, aspect=aspect)
    if turn:
        shown_at(written(path := tmp_path / "wide.mp4", 2, aspect=aspect),
                 (0, 0x10000, 0, -0x10000, 0, 0, 48 << 16, 0, 0x40000000))  # fmt: skip
    (found,) = read(path, ["0"])
    wide = int(48 * aspect)
    assert found.image.shape[:2] == ((64, wide), (wide, 64))[turn]
    stored = np.rot90(found.image, turn)
    true = (np.arange(wide) + 0.5) / float(aspect) - 0.5  # column that it was
    assert np.abs(stored[20:44, 4:-4, 1].mean(0) - (true * 5 / 2)[4:-4]).max() < 5
    assert f"its 48 x 64 pixels are not square: it is read as {wide} x 64" in caplog.text
    with pytest.raises(BadInput, match="pixels are 40 times as wide as high"):
        next(read(written(tmp_path / "absurd.mkv", 2, aspect=Fraction(40)), ["0"]))


def test_packets_that_are_never_shown_are_no_frames(tmp_path, caplog):
    """An edit list hides the first 12 of 24 packets: every split has frames, and they are those that decode."""
    path = written(tmp_path / "edited.mp4", shift=12)
    with av.open(str(path)) as file:
        decoded = [frame.to_ndarray(format="rgb24").mean() for frame in file.decode(video=0)]
    names, times, _ = listed(path)
    assert b"elst" in path.read_bytes() and len(names) == len(times) == len(decoded) < 24
    assert video(path).share == pytest.approx(1) and "breaks off" not in caplog.text
    for split in ("calib", "val", "test"):
        part = part_of(names, split)
        assert part and [p.image.mean() for p in read(path, part)] == [decoded[int(i)] for i in part]


def test_each_part_of_a_video_has_its_own_rate(tmp_path):
    """A phone in the dark: 30 frames/s, then 15. A part in which the rate changes has none."""
    path = written(tmp_path / "dark.mp4", 24, times=[*range(12), *range(12, 36, 2)])
    boxed(path, range(24))
    rates = {split: open_pictures(path, split, None, SIDE, (256, 192)).fps for split in ("calib", "val", "test")}
    assert rates == {"calib": pytest.approx(30), "val": pytest.approx(15), "test": pytest.approx(15)}
    written(path, 24, times=[*range(20), *range(20, 32, 3)])  # 30 frames/s, then 10, within `test`
    found = open_pictures(path, "test", None, SIDE, (256, 192))
    assert found.fps is None and found.follow and found.notes["mean_fps"] == pytest.approx(5 * 30 / 11)
    assert found.times == pytest.approx([18 / 30, 19 / 30, 20 / 30, 23 / 30, 26 / 30, 29 / 30])
    boxed(path, [18, 19, 21, 22, 23])
    assert not open_pictures(path, "test", None, SIDE, (256, 192)).follow  # one is left out
    assert rate_of(listed(path)[1]) is None and rate_of([0.0]) is None
    assert rate_of([0.0, 0.033, 0.067, 0.1, 0.133]) == pytest.approx(30, rel=0.01)  # rounded to milliseconds


@pytest.mark.parametrize(("kind", "codec", "side"), [("mp4", "png", 64), ("mkv", "mpeg4", 32)])
def test_of_several_streams_the_one_that_players_show_is_read(tmp_path, caplog, kind, codec, side):
    """A cover is a stream of one picture. Of two films the first one is shown unless another is asked for."""
    path = tmp_path / f"two.{kind}"
    with av.open(str(path), "w") as file:
        other, film = file.add_stream(codec, rate=30), file.add_stream("mpeg4", rate=30)
        other.width, other.height, other.pix_fmt = 32, 32, "rgb24" if codec == "png" else "yuv420p"
        film.width, film.height, film.pix_fmt = 64, 64, "yuv420p"
        if codec == "png":
            other.disposition = av.stream.Disposition.attached_pic
        for stream, count in ((other, 1 if codec == "png" else 11), (film, 11)):
            for i in range(count):
                shown = np.full((stream.height, stream.width, 3), 20 * i + 20, np.uint8)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(shown, "rgb24")))
            file.mux(stream.encode())
    (photo,) = read(path, ["10"])
    assert len(listed(path)[0]) == 11 and photo.image.shape == (side, side, 3) and abs(photo.image.mean() - 220) < 4
    assert ("of its 2 streams of pictures the one of 32 x 32 pixels is read" in caplog.text) == (codec != "png")


def test_a_file_without_pictures_is_no_video(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        stream = file.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        file.mux([*stream.encode(frame), *stream.encode()])
    with pytest.raises(BadInput, match=r"a\.mp4: not a video that can be read: it holds sound alone"):
        listed(tmp_path / "a.mp4")


def test_frames_without_times_come_at_the_files_rate(tmp_path, caplog):
    assert known([0.0, 0.5, 0.6], None, tmp_path) == (0.0, 0.5, 0.6)
    assert known([0.0, None, 0.6], Fraction(25), tmp_path) == (0.0, 0.04, 0.08)
    assert "they are taken at 25 frames/s" in caplog.text
    with pytest.raises(BadInput, match="neither times of its frames nor their rate"):
        known([None], None, tmp_path)


CODECS = [("mpeg4", "mp4"), ("mpeg4", "avi"), ("libx264", "mkv"), ("libvpx", "webm")]


@pytest.mark.parametrize(("codec", "kind"), CODECS)
def test_what_decodes_behind_damage_is_kept_and_the_damage_is_counted(tmp_path, caplog, codec, kind):
    """Noise over the middle of a video, each tenth frame of which stands alone: what is kept is as it was filmed."""
    rng, path = np.random.default_rng(0), tmp_path / f"walk.{kind}"
    wall = rng.integers(0, 256, (48, 128, 3), dtype=np.uint8)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=25, options={"g": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(60):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(wall[:, i : i + 64]), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    clean = [photo.image.astype(int) for photo in read(path, listed(path)[0])]
    assert len(clean) == 60 and not video(path).notes and not caplog.text
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 600] = rng.bytes(600)
    path.write_bytes(content)
    names, times, notes = listed(path)
    behind = [name for name in names if times[int(name)] > 1.6]
    assert 35 <= len(names) < 60 and len(behind) >= 10
    assert notes["damaged_frames"] >= 60 - len(names)
    assert notes["share_read"] == pytest.approx(len(names) / 60, abs=0.02)
    assert "within it are not there or do not decode" in caplog.text or "are damaged and left out" in caplog.text
    for photo in read(path, behind):
        assert np.abs(clean[round(25 * times[int(photo.name)])] - photo.image).max() == 0
    boxed(path, range(len(times)))
    assert notes.items() <= open_pictures(path, "calib", None, SIDE, (256, 192)).notes.items()


def test_holes_are_of_steady_videos_alone():
    assert missing((0.0, 0.1, 0.2, 0.3)) == 0 == missing(()) == missing((0.0,))
    assert missing((*(np.arange(12) / 25), *(0.6 + np.arange(12) / 25))) == 3
    assert missing((*(np.arange(12) / 30), *(0.4 + np.arange(12) / 15))) == 0  # a phone in the dark


@pytest.mark.parametrize("kind", ["mp4", "mkv", "avi", "mov"])
def test_a_video_that_breaks_off_counts_as_far_as_it_goes(tmp_path, caplog, kind):
    path = written(tmp_path / f"whole.{kind}", 24)
    assert video(path).share == pytest.approx(1) and "breaks off" not in caplog.text
    content = path.read_bytes()
    path.write_bytes(content[: 3 * len(content) // 4])
    found = video(path)
    assert 0 < len(found.times) < 24 and "the video breaks off" in caplog.text
    assert found.share == pytest.approx(len(found.times) / 24, abs=0.1)
