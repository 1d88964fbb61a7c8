"""People from a file, whatever found them: a table of boxes, MOTChallenge's tracks, or arrays with masks."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.errors import BadInput
from hmr.media.box_formats import Row, table_rows
from hmr.media.boxes import left_out
from hmr.media.listing import some
from hmr.media.shot import Shot
from hmr.people.finders import Mask, Person

KINDS = (".csv", ".txt", ".npz")
NEEDED = {"frame": 1, "box": 2}  # arrays of an npz, and their dimensions
ALLOWED = {**NEEDED, "id": 1, "score": 1, "mask": 3}


class KnownPeople:
    """A `hmr.people.finders.Finder` that reads a file: frames count from 0, in MOTChallenge's files from 1.

    An npz has frame (N,) and box (N, 4), left, top, right, bottom in pixels; if it likes, id (N,), score (N,) 0..1 and
    mask (N, H, W), as large as the frames.
    """

    state: Any = None

    def __init__(self, path: Path) -> None:
        """Raises BadInput, with the line, for what is not understood."""
        self.path, self.name = path, f"boxes{path.suffix.lower()}"
        self.of = read_arrays(path) if path.suffix.lower() == ".npz" else read_table(path)
        self.identity = [self.name, hashlib.sha256(path.read_bytes()).hexdigest()]

    def find(self, shot: Shot) -> list[Person]:
        """Those of a frame whose box has something of it. Raises BadInput for a mask of another size."""
        height, width = shot.image.shape[:2]
        people = self.of.get(shot.number, [])
        for person in people:
            if person.mask and person.mask().shape != (height, width):
                shape = " x ".join(map(str, person.mask().shape[::-1]))
                raise BadInput(f"{self.path}: masks of {shape} for frames of {width} x {height}")
        return [one for one in people if one.box[0] < width and one.box[1] < height and min(one.box[2:]) > 0]

    def restore(self, state: Any) -> None:
        """Nothing: the file is there."""


def read_table(path: Path) -> dict[int, list[Person]]:
    """The people of a table by frame."""
    try:
        rows = table_rows(path)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from error
    why = left_out(rows)
    sure = [row for i, row in enumerate(rows) if i not in why]
    if odd := [row.name for row in sure if not row.name.isdecimal()]:
        raise BadInput(f"{path}: {some(odd, 3)}: boxes of a video name frames by their numbers, from 0")
    refuse_some_named(path, sure)
    of: dict[int, list[Person]] = {}
    for row in sure:
        number = int(row.name) - row.from_one
        of.setdefault(number, []).append(Person(row.corners, 1.0 if row.score is None else row.score, name=row.person))
    return of


def refuse_some_named(path: Path, rows: Sequence[Row]) -> None:
    """Raise BadInput where some rows say who it is and others do not, or one says so twice in a frame."""
    named = [(row.name, row.person) for row in rows if row.person is not None]
    if named and len(named) < len(rows):
        raise BadInput(f"{path}: {len(rows) - len(named)} of {len(rows)} rows have no id: give all one, or none")
    if len(set(named)) < len(named):
        twice = next(one for one in named if named.count(one) > 1)
        raise BadInput(f"{path}: frame {twice[0]} has the id {twice[1]} twice")


def read_arrays(path: Path) -> dict[int, list[Person]]:
    """The people of an npz by frame. Raises BadInput; nothing in it is run."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if name in ALLOWED}
            strange = set(file.files) - ALLOWED.keys()
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise BadInput(f"{path}: not an npz that can be read ({error})") from error
    if strange or not arrays.keys() >= NEEDED.keys():
        raise BadInput(f"{path}: an npz of people has the arrays {', '.join(NEEDED)}, and may have id, score and mask")
    count = len(arrays["frame"]) if arrays["frame"].ndim else 0
    for name, values in arrays.items():
        if values.ndim != ALLOWED[name] or len(values) != count or (name == "box" and values.shape[1] != 4):
            raise BadInput(f"{path}: {name} has the shape {values.shape}, and there are {count} frames")
    boxes = arrays["box"]
    if not (np.isfinite(boxes).all() and (boxes[:, :2] < boxes[:, 2:]).all()):
        raise BadInput(f"{path}: a box is left, top, right, bottom in pixels, and one has no area or is not finite")
    of: dict[int, list[Person]] = {}
    for i, number in enumerate(arrays["frame"].tolist()):
        of.setdefault(int(number), []).append(person_at(arrays, i))
    return of


def person_at(arrays: dict[str, NDArray[Any]], row: int) -> Person:
    """The person in a row of an npz."""

    def mask() -> Mask:
        return np.asarray(arrays["mask"][row], np.bool_)

    left, top, right, bottom = map(float, arrays["box"][row])
    return Person(
        (left, top, right, bottom),
        float(arrays["score"][row]) if "score" in arrays else 1.0,
        mask if "mask" in arrays else None,
        str(arrays["id"][row]) if "id" in arrays else None,
    )
