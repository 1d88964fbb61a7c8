"""Readers of boxes, masks and clips against whatever a file may hold: a right value or one sentence, nothing else.

A hundred examples of each, 2,000 in the slow suite. Right values come from what the file was made of.
"""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save

from compress.errors import BadInput
from hmr.data.masks import MaskFiles
from hmr.data.pictures import Photo, open_pictures
from hmr.media.boxes import read_boxes
from hmr.media.mask import person
from hmr.media.matching import match
from hmr.motion.clip_file import open_clips, read_file
from tests.test_boxes import PICTURES, coco

EXAMPLES = pytest.mark.parametrize("examples", [100, pytest.param(2000, marks=pytest.mark.slow)])
JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers(), max_size=5),
    st.sampled_from(["1", "", "../x", "/etc/passwd", "nan", 10**400, -1, 0, 1e308, {}, [[]], "\x00", "é" * 300]),
)  # fmt: skip
CELLS = st.one_of(
    st.sampled_from([*PICTURES, *"xywh", "name", "x1", "left", "0", "1", "-1", "1e9", "inf", "0,5", "1_0", ""]),
    st.floats().map(str), st.integers().map(str), st.text(max_size=4),
)  # fmt: skip
BOX = st.tuples(*[st.integers(-50, 400)] * 2, *[st.integers(2, 300)] * 2)  # left, top, width, height


def fuzzed(examples: int, check: Callable[..., None], **given_values: st.SearchStrategy[Any]) -> None:
    """Run a check on that many examples."""
    settings(max_examples=examples, suppress_health_check=list(HealthCheck))(given(**given_values)(check))()


# ---- boxes


@pytest.fixture
def folder(tmp_path):
    for name in PICTURES:
        Image.new("RGB", (30, 20)).save(tmp_path / name)
    return tmp_path


@EXAMPLES
@pytest.mark.parametrize("kind", ["csv", "txt", "json"])
def test_whatever_a_file_of_boxes_holds(folder, examples, kind):
    lines = st.lists(st.lists(CELLS, max_size=11), max_size=5)
    tables = st.builds(lambda rows, sign: "\n".join(map(sign.join, rows)), lines, st.sampled_from(",;\t"))
    texts = st.one_of(tables, st.text(), JUNK.map(json.dumps), st.just("[" * 2000))

    def check(content: str | bytes) -> None:
        file = folder / f"boxes.{kind}"
        file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        try:
            found = read_boxes(folder, PICTURES)
        except BadInput as error:
            assert str(folder) in str(error)
            return
        assert found is not None and found.of.keys() <= {*PICTURES} and found.of
        for left, top, right, bottom in (box for boxes in found.of.values() for box in boxes):
            assert -np.inf < left < right < np.inf and -np.inf < top < bottom < np.inf

    fuzzed(examples, check, content=st.one_of(texts, st.binary()))


VALUES: dict[str, Callable[[float, float], float]] = {
    "begin": lambda begin, size: begin,
    "end": lambda begin, size: begin + size,
    "size": lambda begin, size: size,
    "middle": lambda begin, size: begin + size / 2,
}
ACROSS = ("x begin w size", "x1 begin x2 end", "LEFT begin Right end", "cx middle width size", "x-min begin X_Max end")
DOWN = ("y begin h size", "y1 begin y2 end", "top begin BOTTOM end", "CY middle height size", "t begin bb_height size")


@st.composite
def tables(draw: st.DrawFn) -> tuple[str, dict[str, list[tuple[float, ...]]]]:
    """A table of boxes in one of all layouts, and the boxes that it has."""
    layouts = [draw(st.sampled_from(kinds)).split() for kinds in (ACROSS, DOWN)]
    extra = draw(st.sampled_from([[], ["score"], ["track_id"], ["Confidence"]]))
    columns = draw(st.permutations(["name", *extra, *(name for one in layouts for name in one[::2])]))
    sign, end = draw(st.sampled_from(",;\t")), draw(st.sampled_from(["\n", "\r\n"]))
    lines, true = [sign.join(columns)], dict[str, list[tuple[float, ...]]]()
    for picture, box in draw(st.lists(st.tuples(st.sampled_from(PICTURES), BOX), min_size=1, max_size=5)):
        score = draw(st.sampled_from([0.2, 0.5, 1.0]))
        cells = {"name": picture, **dict.fromkeys(extra, str(score))}
        for (first, low, second, high), span in zip(layouts, (box[::2], box[1::2]), strict=True):
            cells |= {first: str(VALUES[low](*span)), second: str(VALUES[high](*span))}
        decimal = "," if sign == ";" else "."
        lines.append(sign.join(v if k == "name" else v.replace(".", decimal) for k in columns for v in [cells[k]]))
        left, top, width, height = box
        corners = (left, top, left + width, top + height)
        if (extra in ([], ["track_id"]) or score >= 0.5) and corners not in true.get(picture, []):
            true.setdefault(picture, []).append(corners)
    return draw(st.sampled_from(["", "\ufeff"])) + end.join(lines) + draw(st.sampled_from(["", end, 2 * end])), true


@EXAMPLES
def test_every_layout_of_a_table(folder, examples):
    def check(table: tuple[str, dict[str, list[tuple[float, ...]]]]) -> None:
        content, true = table
        (folder / "boxes.csv").write_bytes(content.encode())
        try:
            found = read_boxes(folder, PICTURES)
        except BadInput as error:
            assert not true and "no row counts" in str(error)
            return
        assert found is not None and found.of == true

    fuzzed(examples, check, table=tables())


@EXAMPLES
def test_annotations_with_something_wrong(folder, examples):
    """Whatever stands in one place: a file is refused, or its other boxes are what they were."""
    true = {name: [(100.0 + i, 60.0, 300.0 + i, 480.0)] for i, name in enumerate(PICTURES)}
    paths = list(places(coco()))

    def check(path: tuple[Any, ...], value: Any) -> None:
        (folder / "boxes.json").write_text(json.dumps(changed(coco(), path, value)))
        try:
            found = read_boxes(folder, PICTURES)
        except BadInput:
            return
        assert found is not None
        i = path[1] if path[0] in ("annotations", "images") and len(path) > 1 else None
        assert all({*true[name]} <= {*found.of[name]} for j, name in enumerate(PICTURES) if j != i)

    fuzzed(examples, check, path=st.sampled_from(paths), value=JUNK)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything in a JSON value."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A JSON value with another one in a place."""
    value = copy.deepcopy(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return value


@EXAMPLES
def test_every_box_is_cut_out_left_out_or_refused(folder, examples):
    numbers = st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-40, 60))

    def check(rows: list[tuple[str, float, float, float, float]]) -> None:
        (folder / "boxes.csv").write_text("\n".join(["name,x1,y1,x2,y2", *(",".join(map(str, row)) for row in rows)]))
        try:
            found = open_pictures(folder, "calib", None, max, (16, 12))
        except BadInput:
            return
        counted = {row for row in rows if row[0] in PICTURES[:2]}
        assert len(found) + found.notes["left_out"] == len(counted) and len(found) >= found.notes["left_out"]
        for sample in found:
            assert sample.image.shape == (16, 12, 3)

    row = st.tuples(st.sampled_from(PICTURES), *[numbers] * 4)
    places, sizes = st.integers(-40, 40), st.integers(2, 60)
    likely = st.tuples(st.sampled_from(PICTURES), places, places, sizes, sizes)
    likely = likely.map(lambda row: (row[0], row[1], row[2], row[1] + row[3], row[2] + row[4]))
    fuzzed(examples, check, rows=st.lists(st.one_of(likely, likely, row), min_size=1, max_size=6))


# ---- masks


def encoded(inside: np.ndarray, how: str, value: int) -> tuple[Image.Image, str]:
    """A mask in one of the ways that people write masks, `value` where the person is."""
    height, width = inside.shape
    grey = inside.astype(np.uint8) * np.uint8(value)
    match how:
        case "palette":
            image = Image.frombytes("P", (width, height), grey.tobytes())
            image.putpalette([value] * 768)
            return image, "png"
        case "1 bit":
            return Image.fromarray(inside), "png"
        case "16 bit":
            return Image.fromarray(inside.astype(np.uint16) * np.uint16(257 * value)), "png"
        case "float":
            return Image.fromarray(inside.astype(np.float32) * np.float32(value / 255)), "tiff"
        case "colour":
            return Image.fromarray(np.stack([grey, 0 * grey, 0 * grey], -1)), "png"
        case "alpha":
            return Image.fromarray(np.dstack([np.full((height, width, 3), 200, np.uint8), grey])), "png"
        case "jpeg":
            return Image.fromarray(inside * np.uint8(255)), "jpeg"
    return Image.fromarray(grey), "png"


@EXAMPLES
def test_every_mask_however_it_is_written(tmp_path, examples):
    shapes = st.tuples(st.integers(1, 12), st.integers(1, 12))
    masks = shapes.flatmap(lambda size: st.lists(st.booleans(), min_size=size[0] * size[1], max_size=size[0] * size[1])
                           .map(lambda values: np.array(values).reshape(size)))  # fmt: skip

    def check(inside: np.ndarray, how: str, value: int) -> None:
        if how == "jpeg":
            inside = np.kron(inside, np.ones((16, 16), bool))  # JPEG's blocks are of one colour
        if how == "alpha" and inside.all():
            return  # nothing tells it from a picture of any colour
        image, kind = encoded(inside, how, value)
        image.save(tmp_path / "a.png", kind, quality=95) if kind == "jpeg" else image.save(tmp_path / "a.png", kind)
        found = person(tmp_path / "a.png")
        assert (found != inside).mean() < (0.02 if how == "jpeg" else 1e-9)
        photo = Photo("a.jpg", np.zeros((*inside.shape, 3), np.uint8))
        read = MaskFiles(tmp_path).among(["a.jpg"]).mask(photo, None)
        assert read is not None and np.array_equal(read, found)

    how = st.sampled_from(["palette", "1 bit", "16 bit", "float", "colour", "alpha", "jpeg", "grey"])
    fuzzed(examples, check, inside=masks, how=how, value=st.integers(1, 255))


def picture_bytes(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray((np.mgrid[:12, :16][0] > 5).astype(np.uint8) * 255).save(file, kind)
    return file.getvalue()


@EXAMPLES
def test_whatever_a_mask_holds(tmp_path, examples):
    whole = [picture_bytes(kind) for kind in ("png", "jpeg", "tiff", "bmp", "webp")]

    def check(content: bytes) -> None:
        (tmp_path / "a.png").write_bytes(content)
        try:
            found = person(tmp_path / "a.png")
        except BadInput as error:
            assert "a.png: not a mask" in str(error)
            return
        assert found.dtype == np.bool_ and found.ndim == 2

    fuzzed(examples, check, content=st.one_of(st.binary(max_size=99), damaged(whole)))


@st.composite
def damaged(draw: st.DrawFn, whole: list[bytes]) -> bytes:
    """A file with some bytes changed, or cut off."""
    content = bytearray(draw(st.sampled_from(whole)))
    for place, value in draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=4)):
        content[place] = value
    return bytes(content[: draw(st.sampled_from([len(content), draw(st.integers(0, len(content)))]))])


@EXAMPLES
def test_names_find_pictures_that_are_there(examples):
    likely = st.from_regex(r"[a-b]?/?(frame_)?0{0,4}[0-9]{1,2}(\.png|\.jpg)?", fullmatch=True)
    names = st.one_of(st.text(max_size=8), likely)
    folder = st.lists(st.from_regex(r"([a-b]/)?(img)?[0-9]{1,3}[a-b]?\.jpg", fullmatch=True), min_size=1, unique=True)
    frames = st.integers(1, 40).map(lambda count: [str(i) for i in range(count)])

    def check(given_names: list[str], pictures: list[str], own_names: bool, first: int) -> None:
        found = match(given_names, pictures, own_names, first)
        assert found.pictures.keys() <= {*given_names} and {*found.pictures.values()} <= {*pictures} and found.rule
        assert match(pictures, pictures, own_names, first).pictures == {name: name for name in pictures}

    fuzzed(examples, check, given_names=st.lists(names, max_size=9), pictures=st.one_of(folder, frames),
           own_names=st.booleans(), first=st.sampled_from([0, 1]))  # fmt: skip


# ---- clips.json


@pytest.fixture
def clips(tmp_path):
    """The folder of a file of one clip of two frames, and what the file says."""
    for i in range(2):
        Image.new("RGB", (8, 6), (40 * i, 0, 0)).save(tmp_path / f"{i}.png")
        Image.new("L", (8, 6), 255).save(tmp_path / f"m{i}.png")
    boxes = np.tile(np.array([0, 0, 8, 6], np.float32), (2, 1))
    turns = np.tile(np.eye(3, dtype=np.float32), (2, 24, 1, 1))
    arrays = {"rotations": turns, "betas": np.zeros((2, 10), np.float32), "boxes": boxes}
    (tmp_path / "a.safetensors").write_bytes(save(arrays))
    clip = {"name": "walk", "split": "train", "fps": 30.0, "arrays": "a.safetensors", "frames": ["0.png", "1.png"],
            "masks": ["m0.png", "m1.png"], "focal": 100.0}  # fmt: skip
    return tmp_path, {"schema_version": 1, "clips": [clip]}


@EXAMPLES
def test_a_file_of_clips_with_something_wrong(clips, examples):
    """Whatever stands in one place, or is missing: the file is refused, or all that it says is what comes out."""
    folder, right = clips
    file, gone = folder / "clips.json", object()

    def check(path: tuple[Any, ...], value: Any) -> None:
        wrong = changed(right, path, value)
        if value is gone:
            inner = wrong
            for key in path[:-1]:
                inner = inner[key]
            del inner[path[-1]]
        file.write_text(json.dumps(wrong))
        try:
            found = open_clips(file, "train", max, (16, 12))
            samples = list(found)
        except BadInput as error:
            assert str(folder) in str(error)
            return
        (clip,) = wrong["clips"]
        masked, focal = bool(clip.get("masks")), clip.get("focal")
        assert wrong.get("schema_version", 1) == 1 and found.fps == float(clip["fps"]) and len(clip["frames"]) == 2
        assert found.recordings == [clip["name"]] * 2 and found.has_masks == masked
        for sample, name in zip(samples, clip["frames"], strict=True):
            assert sample.image[8, 6, 0] == 40 * int(name[0]) and (sample.mask is not None) == masked
            assert sample.place and sample.place.focal == (focal if focal is None else float(focal))

    fuzzed(examples, check, path=st.sampled_from(list(places(right))), value=st.one_of(st.just(gone), JUNK))


@EXAMPLES
def test_whatever_a_file_of_clips_and_its_arrays_hold(clips, examples):
    folder, right = clips
    texts = [json.dumps(right).encode(), (folder / "a.safetensors").read_bytes()]

    def check(content: bytes, arrays: bytes) -> None:
        (folder / "clips.json").write_bytes(content)
        (folder / "a.safetensors").write_bytes(arrays)
        try:
            found = read_file(folder / "clips.json")
            frames = open_clips(folder / "clips.json", "train", max, (16, 12))
            samples = [frames[i] for i in range(len(frames))]
        except BadInput as error:
            assert str(folder) in str(error)
            return
        assert found.clips and all(sample.rotations is not None for sample in samples)

    junk = JUNK.map(lambda value: json.dumps(value).encode())
    content = st.one_of(st.just(texts[0]), damaged(texts[:1]), st.binary(), junk)
    fuzzed(examples, check, content=content, arrays=st.one_of(st.just(texts[1]), damaged(texts[1:]), st.binary()))
