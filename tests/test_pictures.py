"""Pictures, masks and videos as they show: every kind of file against the pixels it was made from."""

from __future__ import annotations

import io
import os
import struct
import zlib
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from compress.errors import BadInput
from hmr.data.masks import MaskFiles
from hmr.data.pictures import Photo, listed, open_pictures, read
from hmr.media.listing import part_of, pictures_in, recording_of
from hmr.media.mask import at_size, person
from hmr.media.picture import GREY, picture, say_once
from hmr.media.video import known, missing, rate_of, video
from hmr.models.families import FAMILIES
from hmr.video.frames import Film
from tests.test_media import boxed

SIDE = FAMILIES["hmr2"].box.side
ROWS, COLUMNS = np.mgrid[:64, :48]
COLOUR = np.stack([ROWS * 4, COLUMNS * 5, 255 - ROWS * 2], -1).astype(np.uint8)  # (64, 48, 3), no symmetry
LUMA = np.asarray(Image.fromarray(COLOUR).convert("L"))
GREYS = np.repeat(LUMA[..., None], 3, 2)
INSIDE = (ROWS > 10) & (ROWS < 50) & (COLUMNS > 15) & (COLUMNS < 30)


def png16(colour: np.ndarray) -> bytes:
    """A png with 16 bits a channel, which PIL does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = colour.shape
    lines = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in colour)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


RGB = Image.fromarray(COLOUR)
ORIENTATION = 0x0112
TURNED = Image.Exif()
TURNED[ORIENTATION] = 6  # to be shown turned by 90 degrees clockwise
CLEAR = Image.fromarray(np.dstack([COLOUR, np.where(INSIDE, 255, 0).astype(np.uint8)]))
KINDS = {
    "grey.png": (saved(RGB.convert("L"), "png"), GREYS, 0),
    "grey16.png": (saved(Image.fromarray(LUMA.astype(np.uint16) * 257), "png"), GREYS, 0),
    "grey16.tif": (saved(Image.fromarray(LUMA.astype(np.uint16) * 257), "tiff"), GREYS, 0),
    "integers.tif": (saved(Image.fromarray(LUMA.astype(np.int32) * 257), "tiff"), GREYS, 0),
    "floats.tif": (saved(Image.fromarray(LUMA.astype(np.float32) / 255), "tiff"), GREYS, 0),
    "floats255.tif": (saved(Image.fromarray(LUMA.astype(np.float32)), "tiff"), GREYS, 0),
    "rgb16.png": (png16(COLOUR), COLOUR, 1),
    "one.png": (saved(Image.fromarray(INSIDE), "png"), np.repeat(INSIDE[..., None] * np.uint8(255), 3, 2), 0),
    "palette.gif.png": (saved(RGB.quantize(256), "png"), COLOUR, 12),
    "cmyk.jpg": (saved(RGB.convert("CMYK"), "jpeg", quality=95), COLOUR, 6),
    "turned.jpg": (saved(RGB.transpose(Image.Transpose.ROTATE_90), "jpeg", exif=TURNED, quality=95), COLOUR, 6),
    "clear.png": (saved(CLEAR, "png"), np.where(INSIDE[..., None], COLOUR, np.uint8(GREY[0])), 0),
    "la.png": (saved(CLEAR.convert("LA"), "png"), np.where(INSIDE[..., None], GREYS, np.uint8(GREY[0])), 0),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_picture_is_read_as_it_shows(tmp_path, name):
    content, true, near = KINDS[name]
    (tmp_path / name).write_bytes(content)
    found = picture(tmp_path / name)
    assert found.shape == true.shape and np.abs(found.astype(int) - true).mean() <= near


EXIF_AXES = {
    2: (-1, 1),
    3: (-1, -1),
    4: (1, -1),
    5: (1, 1),
    6: (-1, 1),
    7: (-1, -1),
    8: (1, -1),
}  # steps to the right, down


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff"])
def test_pictures_and_masks_are_upright_by_their_exif(tmp_path, orientation, kind):
    """0 and 9 are no orientations; from 5 on rows are columns."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    across, down = EXIF_AXES.get(orientation, (1, 1))
    for file, stored, reader, near in (
        ("photo", COLOUR, picture, 6), ("grey", LUMA, picture, 4), ("mask", INSIDE * np.uint8(255), person, 0),
    ):  # fmt: skip
        (tmp_path / file).write_bytes(saved(Image.fromarray(stored), kind, exif=exif, quality=95))
        turned = stored.swapaxes(0, 1) if 5 <= orientation <= 8 else stored
        true = turned[::down, ::across]
        true = {"photo": true, "grey": np.repeat(true[..., None], 3, -1), "mask": true > 0}[file]
        found = reader(tmp_path / file)
        assert found.shape == true.shape and np.abs(found.astype(int) - true).mean() <= near * (kind != "png")


def test_a_picture_with_damaged_exif_is_read_or_refused(tmp_path):
    exif = Image.Exif()
    exif[0x010F], exif[ORIENTATION] = "me", 6
    content, rng = saved(RGB, "jpeg", exif=exif), np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(content)
        for place in rng.integers(24, 70, 3):  # of the directory and its values
            damaged[place] = rng.integers(256)
        (tmp_path / "a.jpg").write_bytes(damaged)
        for read_file in (picture, person):
            with suppress(BadInput):
                assert sorted(read_file(tmp_path / "a.jpg").shape[:2]) == [48, 64]


def test_what_is_done_to_a_folder_is_said_once(tmp_path, caplog):
    for i in range(3):
        CLEAR.save(tmp_path / f"{i}.png")
        picture(tmp_path / f"{i}.png")
    assert caplog.text.count("transparent pixels are shown on mid grey") == 1 and str(tmp_path) in caplog.text
    say_once.cache_clear()


@pytest.mark.parametrize("value", [-1.0, 1e6, float("nan"), float("inf")])
def test_grey_of_no_known_range_is_refused(tmp_path, value):
    Image.fromarray(np.where(INSIDE, value, 0).astype(np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(BadInput, match=r"a\.tif: grey values .*: save it as 0 to 1"):
        picture(tmp_path / "a.tif")


def test_folders_are_in_natural_order_without_what_systems_put_there(tmp_path, caplog):
    for name in ("10.png", "2.png", "1.PNG", "._1.png", ".hidden.jpg", "b/9.jpg", "b/11.jpg", "__MACOSX/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        RGB.save(tmp_path / name, "png")
    for name in ("Thumbs.db", ".DS_Store", "b/me.HEIC", "walk.mp4"):
        (tmp_path / name).write_bytes(b"x")
    assert pictures_in(tmp_path) == ["1.PNG", "2.png", "10.png", "b/9.jpg", "b/11.jpg"]
    assert "2 files are of kinds that are not read, and left out: b/me.HEIC, walk.mp4" in caplog.text


def test_one_picture_alone(tmp_path):
    RGB.save(tmp_path / "me.png")
    found = open_pictures(tmp_path / "me.png", "test", None, SIDE, (256, 192))
    assert len(found) == 1 and found.recordings == ["me.png"]
    assert listed(tmp_path / "me.png") == (["me.png"], [], {})
    with pytest.raises(BadInput, match="no picture of split calib"):
        open_pictures(tmp_path / "me.png", "calib", None, SIDE, (256, 192))


def test_names_that_are_no_utf8(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    for i in range(4):
        RGB.save(folder / f"{i}.png")
    found = open_pictures(tmp_path, "test", None, SIDE, (256, 192))
    assert found.recordings == [f"{tmp_path.name}/caf\\xe9"] * len(found)
    assert recording_of(tmp_path, "a/b.png") == f"{tmp_path.name}/a"


VOC = Image.fromarray(INSIDE.astype(np.uint8))
VOC.putpalette([0, 0, 0, 128, 0, 0] + [0] * 762)
SOFT = np.clip(255 - 4 * np.hypot(ROWS - 30, COLUMNS - 22), 0, 255).astype(np.uint8)
ONE = Fraction(1)
MASKS = {
    "255": Image.fromarray(INSIDE * np.uint8(255)),
    "labels": Image.fromarray(INSIDE * np.uint8(1)),
    "palette": VOC,
    "65535": Image.fromarray(INSIDE * np.uint16(65535)),
    "16 bit labels": Image.fromarray(INSIDE * np.uint16(1)),
    "1 bit": Image.fromarray(INSIDE),
    "red": Image.fromarray(np.dstack([INSIDE * np.uint8(255), 0 * ROWS, 0 * ROWS]).astype(np.uint8)),
    "alpha": Image.fromarray(np.dstack([np.full((64, 48, 3), 255), INSIDE * 255]).astype(np.uint8)),
    "opaque": Image.fromarray(np.dstack([np.repeat(INSIDE[..., None] * 255, 3, 2), 0 * ROWS + 255]).astype(np.uint8)),
    "floats": Image.fromarray(INSIDE.astype(np.float32)),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_is_the_person_however_it_is_written(tmp_path, name):
    kind = "tiff" if name == "floats" else "png"
    MASKS[name].save(tmp_path / "a.png", kind)
    assert np.array_equal(person(tmp_path / "a.png"), INSIDE)


def test_masks_of_nobody_are_empty_and_odd_ones_refused(tmp_path):
    for i, empty in enumerate((MASKS["alpha"].getchannel(0).convert("RGBA"), Image.new("L", (48, 64)))):
        if i == 0:
            empty.putalpha(0)
        empty.save(tmp_path / "a.png")
        assert not person(tmp_path / "a.png").any()
    for value in (np.nan, np.inf):
        Image.fromarray(np.where(INSIDE, value, 0).astype(np.float32)).save(tmp_path / "b.png", "tiff")
        with pytest.raises(BadInput, match=r"b\.png: not a mask: it holds values that are not finite"):
            person(tmp_path / "b.png")


def test_jpeg_and_soft_masks_are_cut_at_half(tmp_path):
    Image.fromarray(INSIDE * np.uint8(255)).save(tmp_path / "a.jpg", quality=60)
    assert (person(tmp_path / "a.jpg") != INSIDE).sum() < 4
    for kind, options in (("webp", {"quality": 80}), ("tiff", {"compression": "jpeg"})):
        Image.fromarray(INSIDE * np.uint8(255)).save(tmp_path / "c.png", kind, **options)
        assert (person(tmp_path / "c.png") != INSIDE).sum() < 4
    Image.fromarray(INSIDE * np.uint8(1)).save(tmp_path / "d.webp", lossless=True)
    assert np.array_equal(person(tmp_path / "d.webp"), INSIDE)
    Image.fromarray(SOFT).save(tmp_path / "b.png")
    assert np.array_equal(person(tmp_path / "b.png"), SOFT.max() / 2 < SOFT)


def test_a_mask_at_another_scale_is_scaled_and_one_of_another_shape_refused(tmp_path):
    MASKS["labels"].resize((24, 32), Image.Resampling.NEAREST).save(tmp_path / "a.png")
    found = MaskFiles(tmp_path).among(["a.png"]).mask(Photo("a.png", COLOUR), None)
    assert found is not None and found.shape == INSIDE.shape and (found != INSIDE).mean() < 0.05
    with pytest.raises(BadInput, match="48 x 32 pixels, its picture has 48 x 64"):
        at_size(INSIDE[:32], (64, 48), tmp_path / "a.png")


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
