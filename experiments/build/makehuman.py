"""Reader of MakeHuman's garments: how one fits the base mesh hm08 (`.mhclo.gz`), and its faces (`.obj.gz`)."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Fit:
    """What a `.mhclo` holds: base vertices (V,3) and their shares (V,3), offsets (V,3) in units of `scale`, the base
    vertices below, and for each axis the two vertices and the distance that the offsets were made for."""

    corners: np.ndarray
    shares: np.ndarray
    offsets: np.ndarray
    below: np.ndarray
    scale: dict[int, tuple[int, int, float]]


def lines(path: Path) -> list[list[str]]:
    """The words of each line of a gzipped text."""
    with gzip.open(path, "rt", errors="replace") as stream:
        return [line.split() for line in stream]


def read_fit(path: Path) -> Fit:
    """A `.mhclo.gz`, MakeHuman's text format."""
    rows: list[tuple[list[int], list[float], list[float]]] = []
    below: list[str] = []
    scale, mode = {}, ""
    for words in lines(path):
        if not words or words[0].startswith("#"):
            continue
        if words[0] in ("x_scale", "y_scale", "z_scale"):
            scale["xyz".index(words[0][0])] = (int(words[1]), int(words[2]), float(words[3]))
        elif words[0][0].isalpha():
            mode = words[0] if words[0] in ("verts", "delete_verts") else mode
        elif mode == "delete_verts":
            below += words
        elif mode == "verts" and len(words) == 1:
            rows.append(([int(words[0])] * 3, [1.0, 0, 0], [0.0, 0, 0]))
        elif mode == "verts":
            rows.append(([int(w) for w in words[:3]], [float(w) for w in words[3:6]], [float(w) for w in words[6:9]]))
    corners, shares, offsets = (np.array(column) for column in zip(*rows, strict=True))
    return Fit(corners, shares, offsets, np.array(list(numbers(below)), int), scale)


def numbers(words: list[str]) -> Iterator[int]:
    """`3 5 - 7` -> 3, 5, 6, 7."""
    i = 0
    while i < len(words):
        if words[i + 1 : i + 2] == ["-"]:
            yield from range(int(words[i]), int(words[i + 2]) + 1)
            i += 3
        else:
            yield int(words[i])
            i += 1


def read_faces(path: Path) -> np.ndarray:
    """Triangles (F,3) of a gzipped `.obj` of polygons."""
    found = []
    for words in lines(path):
        if words and words[0] == "f":
            corner = [int(word.split("/")[0]) - 1 for word in words[1:]]
            found += [[corner[0], corner[k], corner[k + 1]] for k in range(1, len(corner) - 1)]
    return np.array(found)
