"""Which pictures a folder holds, in which order, and which of them each split takes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from compress.errors import BadInput
from hmr.media.picture import IMAGES, say_once

OTHERS = (  # kinds of pictures and videos that are no picture of a folder
    *(".heic", ".heif", ".avif", ".gif", ".jfif", ".jp2", ".ppm", ".pgm", ".tga", ".dng", ".cr2", ".nef", ".arw"),
    *(".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v"),
)
PARTS = {"calib": (0.0, 0.5), "val": (0.5, 0.75), "test": (0.75, 1.0)}  # of each recording, in its order


def pictures_in(folder: Path) -> list[str]:
    """Paths of the pictures in a folder and the folders in it, in natural order: 1, 2, 10.

    Files and folders that systems hide are left out, as `._1.png` and `__MACOSX`; pictures of other kinds and videos
    are too, which is logged. Raises BadInput where no picture is there.
    """
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in (*IMAGES, *OTHERS))
    shown = [path for path in paths if not any(map(hidden, path.parts)) and (folder / path).is_file()]
    found = [path for path in shown if path.suffix.lower() in IMAGES]
    if others := sorted(path.as_posix() for path in shown if path.suffix.lower() in OTHERS):
        say_once(folder, f"{len(others)} files are of kinds that are not read, and left out: {some(others)}")
    if not found:
        raise BadInput(f"{folder}: no pictures ({', '.join(IMAGES)}) are in this folder")
    # a folder's own in a row: they are a recording
    return [path.as_posix() for path in sorted(found, key=lambda path: (natural(path.parent), natural(path)))]


def hidden(name: str) -> bool:
    """Whether a system wrote this file or folder for itself."""
    return name.startswith(".") or name == "__MACOSX"


def some(names: Sequence[str], most: int = 10) -> str:
    """The first names of a list, for people."""
    shown = ", ".join(map(spelt, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    """A key that sorts by the value of numbers in names, whatever their case; names that are equal so by themselves."""
    parts = re.split(r"(\d+)", path.as_posix().casefold())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], path.as_posix()


def recording_of(path: Path, name: str) -> str:
    """The recording of a picture: its folder, or the video."""
    parent = Path(name).parent.as_posix()
    named = path.name if parent == "." else f"{path.name}/{parent}"
    return spelt(named)


def spelt(name: str) -> str:
    """A file's name for people: bytes that are no UTF-8 are spelt out."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def part_of(names: Sequence[str], split: str) -> list[str]:
    """A split's names: the same part of each recording. A picture that is alone is there to be looked at: `test`."""
    if len(names) == 1:
        return list(names) if split == "test" else []
    low, high = PARTS[split]
    out: list[str] = []
    for _, group in groupby(names, lambda name: Path(name).parent):
        some = list(group)
        out += some[round(low * len(some)) : round(high * len(some))]
    return out


def spread(names: Sequence[str], count: int) -> list[str]:
    """At most `count` of the names, evenly spread, in order."""
    return [names[i * len(names) // count] for i in range(count)] if count < len(names) else list(names)
