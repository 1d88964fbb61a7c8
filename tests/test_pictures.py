"""Pictures and masks as they show: every kind of file against the pixels it was made from."""

from __future__ import annotations

import io
import os
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from compress.errors import BadInput
from hmr.data.masks import MaskFiles
from hmr.data.pictures import Photo, listed, open_pictures
from hmr.media.listing import pictures_in, recording_of
from hmr.media.mask import at_size, person
from hmr.media.picture import GREY, picture, say_once
from hmr.models.families import FAMILIES

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
