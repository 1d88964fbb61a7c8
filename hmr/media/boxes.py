"""Boxes of people beside a folder, a picture or a video, from files as people have them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from compress.errors import BadInput
from hmr.media.box_formats import Row, coco_rows, table_rows
from hmr.media.listing import some
from hmr.media.matching import Match, match
from hmr.media.picture import IMAGES, say_once

Corners = tuple[float, float, float, float]  # left, top, right, bottom in pixels
SURE = 0.5  # score of a person who counts
READERS: dict[str, Callable[[Path], list[Row]]] = {".csv": table_rows, ".txt": table_rows, ".json": coco_rows}


@dataclass(frozen=True)
class Boxes:
    """Boxes of people by picture.

    sizes: (width, height) of pictures, where the file has them. notes: how many rows and pictures have no counterpart,
    and how many rows do not count, as JSON values.
    """

    source: str  # name of the kind of file
    of: dict[str, list[Corners]]
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)


def box_files(path: Path) -> list[Path]:
    """The files of boxes of a folder, a picture or a video; a picture's may be its folder's.

    Raises BadInput where a folder in the folder has boxes, which nobody would look at.
    """
    if path.is_dir():
        whole = named(path, "boxes")
        inner = [file for file in path.rglob("boxes.*") if file.suffix.lower() in READERS and file.parent != path]
        if inner and not whole:
            raise BadInput(f"{inner[0]}: boxes are read from {path}/boxes.csv alone: join all there, with paths")
        return whole
    return named(path.parent, f"{path.name}.boxes") or (
        named(path.parent, "boxes") if path.suffix.lower() in IMAGES else []
    )


def named(folder: Path, name: str) -> list[Path]:
    """The files of a folder that are called so, in whatever case, and are of a kind that is read."""
    wanted = {f"{name}{kind}".casefold() for kind in READERS}
    return sorted(file for file in folder.iterdir() if file.name.casefold() in wanted and file.is_file())


def read_boxes(path: Path, pictures: Sequence[str]) -> Boxes | None:
    """The boxes of a folder, a picture or a video with these pictures; None where there is no file of boxes.

    How names were matched to pictures, and what has no counterpart, is logged. Raises BadInput, with the line, for what
    is not understood, for two files, and where no row names a picture.
    """
    files = box_files(path)
    if len(files) > 1:
        raise BadInput(f"{files[0]} and {files[1].name}: which of them has the boxes? Remove or rename the other")
    if not files:
        return None
    (file,) = files
    try:
        rows = READERS[file.suffix.lower()](file)
    except OSError as error:
        raise BadInput(f"{file}: cannot be read ({error.strerror})") from error
    if any(row.person is not None and not row.from_one for row in rows):
        say_once(file, "its column of ids is not used: each row is a person")
    why = left_out(rows)
    sure = [row for i, row in enumerate(rows) if i not in why]
    numbers = all(row.name.isdecimal() for row in sure)
    found = match((row.name for row in sure), pictures, not numbers, first=int(any(row.from_one for row in sure)))
    if not found.pictures:
        names = f"rows name {some([row.name for row in sure])}" if sure else "no row counts"
        raise BadInput(f"{file}: no row names a picture: {names}, pictures are {some(pictures)}")
    for reason, count in Counter(why.values()).items():
        say_once(file, f"{count} of {len(rows)} rows are left out: each {reason}")
    boxes = gathered(file, sure, found, pictures)
    return replace(boxes, notes={**boxes.notes, "rows_left_out": len(why)})


def left_out(rows: Sequence[Row]) -> dict[int, str]:
    """Why rows do not count, by their places: those that say so, of people who may not be there, or said before."""
    out: dict[int, str] = {}
    before: set[tuple[str, Corners]] = set()
    for i, row in enumerate(rows):
        if row.left_out is not None:
            out[i] = row.left_out
        elif row.score is not None and row.score < SURE:
            out[i] = f"has a score below {SURE}"
        elif (row.name, row.corners) in before:
            out[i] = "repeats another row"
        before |= set() if i in out else {(row.name, row.corners)}
    return out


def gathered(file: Path, rows: Sequence[Row], match: Match, pictures: Sequence[str]) -> Boxes:
    """The boxes of rows by picture; rows without a picture and pictures without a row are logged and counted."""
    of: dict[str, list[Corners]] = {}
    for row in rows:
        if row.name in match.pictures:
            of.setdefault(match.pictures[row.name], []).append(row.corners)
    sizes = {match.pictures[row.name]: row.size for row in rows if row.size and row.name in match.pictures}
    lost = [row.name for row in rows if row.name not in match.pictures]
    bare = [picture for picture in pictures if picture not in of]
    if match.rule != "by name":
        say_once(file, f"its rows are matched to pictures {match.rule}: {match.example}")
    if lost:
        say_once(file, f"{len(lost)} of {len(rows)} rows name no picture that is there: {some(lost)}")
    if bare:
        say_once(file, f"{len(bare)} of {len(pictures)} pictures have no row and are left out: {some(bare)}")
    notes = {"rows_without_picture": len(lost), "pictures_without_row": len(bare)}
    return Boxes(f"boxes{file.suffix.lower()}", of, sizes, notes)
