"""Rows of boxes out of tables whose header tells what they hold, MOTChallenge's tables, and COCO's JSON."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from compress.errors import BadInput
from hmr.media.picture import say_once

ROLES = {  # what headers call each column, in small letters, with _ for other signs between words
    "name": "name picture picture_name image image_name image_id img file filename file_name path frame frame_id",
    "left": "left l x x1 xmin x_min min_x bb_left bbox_left box_left bbox_x bbox_x1 x_left",
    "top": "top t y y1 ymin y_min min_y bb_top bbox_top box_top bbox_y bbox_y1 y_top",
    "right": "right r x2 xmax x_max max_x bb_right bbox_right box_right bbox_x2 x_right",
    "bottom": "bottom b y2 ymax y_max max_y bb_bottom bbox_bottom box_bottom bbox_y2 y_bottom",
    "width": "width w bb_width bbox_width box_width bbox_w",
    "height": "height h bb_height bbox_height box_height bbox_h",
    "cx": "cx xc x_center center_x x_centre centre_x xcenter centerx",
    "cy": "cy yc y_center center_y y_centre centre_y ycenter centery",
    "score": "score conf confidence",
    "id": "id track_id track person person_id",
}
ROLE_OF = {word: role for role, words in ROLES.items() for word in words.split()}
ACROSS = ({"left", "right"}, {"left", "width"}, {"cx", "width"})
DOWN = ({"top", "bottom"}, {"top", "height"}, {"cy", "height"})
PLAIN = ("name", "left", "top", "right", "bottom")  # of tables without a header
MOT = range(7, 11)  # columns: frame, id, left, top, width, height, confidence, then class and visibility, or x, y, z
PEOPLE = ("person", "people", "pedestrian")  # names of COCO's category of them
HEADERS = "columns are name and x,y,w,h, or x1,y1,x2,y2, or left,top,right,bottom, or cx,cy,w,h"


@dataclass(frozen=True)
class Row:
    """One person's box, in pixels, in the picture that the file calls `name`.

    size: (width, height) of the picture as the file has it. left_out: why the file itself says not to count it.
    from_one: the name is a number, and frames are counted from 1. person: who it is, as the file calls them.
    """

    name: str
    corners: tuple[float, float, float, float]  # left, top, right, bottom
    score: float | None = None
    size: tuple[int, int] | None = None
    left_out: str | None = None
    from_one: bool = False
    person: str | None = None


# ---- tables


def table_rows(file: Path) -> list[Row]:
    """Rows of a table whose header says what its columns are. Without a header a table of numbers in 7 to 10 columns is
    MOTChallenge's, and five columns are name,left,top,right,bottom. Raises BadInput with the line."""
    lines = [(number, cells) for number, cells in cells_of(file) if any(cells)]
    if not lines:
        raise BadInput(f"{file}: no box is in it")
    first = lines[0][1]
    if not any(map(is_number, first[1:])):
        places = header(file, first)
        if len(lines) == 1:
            raise BadInput(f"{file}: no box is below its header")
        return [headed(file, number, cells, places) for number, cells in lines[1:]]
    if len(first) in MOT and all(map(is_number, first)):
        say_once(file, "it has no header and is read as MOTChallenge's: frame,id,left,top,width,height,confidence,...")
        return [mot(file, number, cells) for number, cells in lines]
    if len(first) != len(PLAIN):
        raise BadInput(f"{file}: {len(first)} columns without a header: put one above them; {HEADERS}")
    say_once(file, f"it has no header: its columns are taken for {','.join(PLAIN)}")
    return [headed(file, number, cells, dict(zip(PLAIN, range(5), strict=True))) for number, cells in lines]


def cells_of(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each line. UTF-16, a byte order mark, tabs and semicolons are understood."""
    content = file.read_bytes()
    wide = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig", "strict" if wide else "surrogateescape")
    except UnicodeDecodeError as error:
        raise BadInput(f"{file}: not UTF-16, which it begins as ({error.reason})") from error
    sign = max(",;\t", key=text.lstrip().partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=sign, skipinitialspace=True)
    try:
        for cells in reader:
            plain = [cell.strip() for cell in cells]
            decimal = sign == ";"  # where numbers have commas
            yield reader.line_num, [re.sub(r"^(-?\d+),(\d+)$", r"\1.\2", cell) if decimal else cell for cell in plain]
    except csv.Error as error:
        raise BadInput(f"{file}, line {reader.line_num}: {error}") from error


def header(file: Path, cells: Sequence[str]) -> dict[str, int]:
    """The place of each column; raises BadInput where a column is unknown, or what they hold is not one box."""
    words = ["_".join(cell.lstrip("# ").replace("-", " ").replace(".", " ").casefold().split()) for cell in cells]
    roles = {**ROLE_OF, "x0": "left", "y0": "top", **({"x1": "right", "y1": "bottom"} if "x0" in words else {})}
    if odd := [cell for cell, word in zip(cells, words, strict=True) if word not in roles]:
        raise BadInput(f"{file}: the column '{odd[0]}' of its header is not known: leave it out; {HEADERS}")
    ids = [i for i, word in enumerate(words) if roles[word] == "id"]
    places = [(roles[word], i) for i, word in enumerate(words) if roles[word] != "id"]
    found = dict(places)
    across, down = found.keys() & set.union(*ACROSS), found.keys() & set.union(*DOWN)
    if len(found) < len(places) or "name" not in found or across not in ACROSS or down not in DOWN:
        raise BadInput(f"{file}: its header, {','.join(cells)}, does not name one box: {HEADERS}")
    return {**found, "columns": len(cells), **({"id": ids[0]} if ids else {})}


def headed(file: Path, line: int, cells: Sequence[str], places: dict[str, int]) -> Row:
    """A line of a table whose columns are known."""
    wanted = places.get("columns", len(PLAIN))
    if len(cells) != wanted:
        raise BadInput(f"{file}, line {line}: {len(cells)} cells where there are {wanted} columns")
    value = {role: number(file, line, cells[i]) for role, i in places.items() if role not in ("name", "columns", "id")}
    left, right = span(value, "left", "right", "width", "cx")
    top, bottom = span(value, "top", "bottom", "height", "cy")
    score = value.get("score")
    if score is not None and not 0 <= score <= 1:
        raise BadInput(f"{file}, line {line}: a score of {score:g}: scores are 0 to 1")
    bare = "" if "columns" in places else "; where the last two are width and height, put a header above: name,x,y,w,h"
    who = cells[places["id"]] if "id" in places else None
    return Row(cells[places["name"]], box(f"{file}, line {line}", left, top, right, bottom, bare), score, person=who)


def span(value: dict[str, float], low: str, high: str, size: str, middle: str) -> tuple[float, float]:
    """Where a box begins and ends along one axis."""
    if size not in value:
        return value[low], value[high]
    begin = value[low] if low in value else value[middle] - value[size] / 2
    return begin, begin + value[size]


def mot(file: Path, line: int, cells: Sequence[str]) -> Row:
    """A line of MOTChallenge's detections, tracks or truth (with nine columns, where class 1 is a pedestrian)."""
    if len(cells) not in MOT:
        raise BadInput(f"{file}, line {line}: {len(cells)} cells: MOTChallenge's lines have 7 to 10")
    frame, who, left, top, width, height, score, *rest = (number(file, line, cell) for cell in cells)
    if frame != int(frame) or frame < 0:
        raise BadInput(f"{file}, line {line}: {cells[0]} is no number of a frame")
    other = len(cells) == 9 and rest[0] != 1
    corners = box(f"{file}, line {line}", left, top, left + width, top + height)
    left_out = "is of another class than 1, pedestrian" if other else None
    person = None if who < 0 else f"{who:g}"  # detections, which are nobody's track, have -1
    return Row(str(int(frame)), corners, score if 0 <= score <= 1 else None, None, left_out, True, person)


def number(file: Path, line: int, cell: str) -> float:
    if not is_number(cell):
        raise BadInput(f"{file}, line {line}: '{cell}' is not a number")
    return float(cell)


def is_number(cell: str) -> bool:
    try:
        return "_" not in cell and math.isfinite(float(cell))
    except ValueError:
        return False


def box(
    where: str, left: float, top: float, right: float, bottom: float, hint: str = ""
) -> tuple[float, float, float, float]:
    """The corners of a box; raises BadInput, with a hint, where it has no area or is a share of the picture."""
    if not all(map(math.isfinite, (left, top, right, bottom))) or left >= right or top >= bottom:
        raise BadInput(
            f"{where}: no box: left {left:g} has to be below right {right:g}, top {top:g} below bottom {bottom:g}{hint}"
        )
    if min(left, top) >= 0 and max(right, bottom) <= 1:
        raise BadInput(f"{where}: a box within one pixel: boxes are in pixels, not in shares of the picture")
    return left, top, right, bottom


# ---- COCO


class Loose(BaseModel):
    """Fields that count; others of the format are not looked at."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)


class Picture(Loose):
    id: int | str
    file_name: str
    width: int | None = None
    height: int | None = None


class Category(Loose):
    id: int
    name: str


class Annotation(Loose):
    image_id: int | str
    bbox: tuple[float, float, float, float]  # left, top, width, height
    category_id: int | None = None
    iscrowd: int = 0
    score: float | None = Field(None, ge=0, le=1)


class Coco(Loose):
    images: list[Picture]
    annotations: list[Annotation]
    categories: list[Category] = []


RESULTS = TypeAdapter(list[Annotation])


def coco_rows(file: Path) -> list[Row]:
    """Rows of COCO's annotations, or of its results, a list of detections whose image_id names the picture. Raises
    BadInput with the field, and where there is no box of a person, or images and their ids do not fit."""
    found = coco_of(file)
    pictures = {picture.id: picture for picture in found.images}
    if len(pictures) < len(found.images):
        raise BadInput(f"{file}: two images have one id")
    if not found.annotations:
        raise BadInput(f"{file}: no box is in it")
    if lost := [one.image_id for one in found.annotations if one.image_id not in pictures]:
        raise BadInput(f"{file}: no image has the id {lost[0]}, which an annotation names")
    kinds = person_kinds(file, found)
    return [coco_row(f"{file}: annotation {i}", one, pictures, kinds) for i, one in enumerate(found.annotations)]


def coco_of(file: Path) -> Coco:
    """A file as annotations; of results, images are called as their ids."""
    content = file.read_bytes().removeprefix(b"\xef\xbb\xbf").lstrip()
    try:
        if content.startswith(b"["):
            people = RESULTS.validate_json(content)
            ids = dict.fromkeys(one.image_id for one in people)
            return Coco(images=[Picture(id=each, file_name=str(each)) for each in ids], annotations=people)
        return Coco.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{part}: " for part in [".".join(map(str, first["loc"]))] if part)
        raise BadInput(f"{file}: not boxes as COCO has them: {where}{first['msg']}") from error


def person_kinds(file: Path, coco: Coco) -> set[int | None]:
    """The ids of people: of the category that is called so; without names 1, as COCO has it, or 0 or none where nothing
    else is there."""
    ids = {one.category_id for one in coco.annotations}
    if coco.categories:
        named: set[int | None] = {one.id for one in coco.categories if one.name.casefold() in PEOPLE}
        if not named:
            names = ", ".join(one.name for one in coco.categories)
            raise BadInput(f"{file}: none of its categories is called person: {names}")
        return named
    if ids in ({None}, {0}):
        return ids
    if 1 not in ids:
        raise BadInput(f"{file}: it has no categories, and none of its boxes has 1, which is COCO's person")
    return {1}


def coco_row(where: str, one: Annotation, pictures: dict[int | str, Picture], kinds: set[int | None]) -> Row:
    """One annotation."""
    left, top, width, height = one.bbox
    picture = pictures[one.image_id]
    size = (picture.width, picture.height) if picture.width and picture.height else None
    reason = "is a crowd" if one.iscrowd else None if one.category_id in kinds else "is not of the category person"
    corners = box(where, left, top, left + width, top + height)
    return Row(picture.file_name, corners, one.score, size, reason)
