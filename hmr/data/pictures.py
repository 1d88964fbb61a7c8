"""A user's pictures or video, cut to what a model sees; with masks or none, without labels."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from compress.errors import BadInput
from hmr.data.crop import cut
from hmr.data.dataset import Frames, frames_of
from hmr.data.sample import Place, Sample
from hmr.media.listing import PARTS, part_of, pictures_in, recording_of, spread
from hmr.media.picture import IMAGES, picture
from hmr.media.video import VIDEOS, frames_of_video, rate_of, video

LIMITS = {"calib": 512, "val": 1000, "test": 2000}  # pictures, as many as the synthetic splits have

Corners = tuple[float, float, float, float]  # left, top, right, bottom in pixels
Side = Callable[[float, float], float]  # a family's rule: width and height of a box -> side of its square
Focal = Callable[[NDArray[np.uint8]], float]  # a whole picture (H, W, 3) -> focal length of its camera in pixels


@dataclass(frozen=True)
class Photo:
    """One picture as it came."""

    name: str  # path in its folder, or the number of the frame in its video
    image: NDArray[np.uint8]  # (H, W, 3) RGB


class Segmenter(Protocol):
    """Whatever finds the pixels of a person; `hmr.data.masks` has those there are."""

    @property
    def name(self) -> str: ...

    @property
    def needs_box(self) -> bool:
        """Whether it has to be told where the person is: a picture without a box is then taken whole."""

    def mask(self, photo: Photo, box: Corners | None) -> NDArray[np.bool_] | None:
        """The person (H, W) in `box`, or the largest one without; None where there is nobody."""


def open_pictures(
    path: Path,
    split: str,
    frames: int | None,
    side: Side,
    size: tuple[int, int],
    segmenter: Segmenter | None = None,
    focal: Focal | None = None,
) -> Frames:
    """The people in a folder or a video. The first half of each recording (the video, or a folder in the folder) is
    `calib`, then come `val` and `test`, a quarter each: neighbouring frames are nearly the same, and what decides must
    not see what reports.

    At most `frames` pictures, spread evenly, in crops of `size` (height, width). Boxes come from `boxes.csv` in the
    folder or `NAME.boxes.csv` beside the video (name,left,top,right,bottom; several lines for several people), else
    from masks of whole pictures, else the box is the whole picture. Pictures in which the segmenter finds nobody are
    left out and counted. Where the model asks how its crops lie before the camera, `focal` says how long that is.
    Raises BadInput where nothing is left or something cannot be read.
    """
    if split not in PARTS:
        raise BadInput(f"frames has no split '{split}': choose from {', '.join(PARTS)}")
    names, times = listed(path)
    mine, boxes = part_of(names, split), read_boxes(path)
    if boxes is not None:
        mine = [name for name in mine if name in boxes]
    chosen = spread(mine, min(frames or LIMITS[split], LIMITS[split]))
    found: list[Sample] = []
    lost = 0
    for photo in read(path, chosen):
        length = focal(photo.image) if focal else None
        for box in [None] if boxes is None else boxes[photo.name]:
            seen = seen_by(photo, box, side, segmenter, recording_of(path, photo.name), size, length)
            lost += seen is None
            found += [] if seen is None else [seen]
    if not found:
        why = "there are none, or no box names one,"
        if segmenter and lost:
            why = f"{segmenter.name} found no person in {lost}"
        raise BadInput(f"{path}: no picture of split {split} is left: {why} of {len(chosen)}")
    every = bool(times) and len(chosen) == len(mine) and boxes is None and not lost
    fps = rate_of([times[int(name)] for name in chosen]) if every else None
    whole = segmenter is None or segmenter.needs_box
    source = "boxes.csv" if boxes is not None else "whole picture" if whole else "mask"
    notes = {"mask_source": segmenter.name if segmenter else "none", "boxes": source, "left_out": lost}
    return frames_of(found, fps, notes=notes)


def seen_by(
    photo: Photo,
    box: Corners | None,
    side: Side,
    segmenter: Segmenter | None,
    recording: str,
    size: tuple[int, int],
    focal: float | None,
) -> Sample | None:
    """The crop around one person, by a camera of `focal` pixels; None where a segmenter finds nobody there."""
    height, width = photo.image.shape[:2]
    person = segmenter.mask(photo, box) if segmenter else None
    if segmenter and (person is None or not person.any()):
        return None
    if person is not None and person.shape != (height, width):
        raise BadInput(f"{photo.name}: a mask of {person.shape[1]} x {person.shape[0]} for {width} x {height} pixels")
    if box is None and person is not None and segmenter and not segmenter.needs_box:
        box = around(person)
    left, top, right, bottom = box or (0, 0, width, height)
    centre, square = ((left + right) / 2, (top + bottom) / 2), side(right - left, bottom - top)
    image, place = cut(photo.image, centre, square, size), Place(centre, square, (height, width), focal)
    mask = None if person is None else cut(person.astype(np.uint8) * 255, centre, square, size) > 127
    if mask is not None and not mask.any():
        return None
    return Sample(image, recording, mask, place)


def around(mask: NDArray[np.bool_]) -> Corners:
    """The box of a mask (H, W) that is not empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def listed(path: Path) -> tuple[list[str], list[float]]:
    """Names of all pictures in order and, of a video's frames, the time of each in seconds.

    Raises BadInput where there are none.
    """
    if path.is_dir():
        return pictures_in(path), []
    if not path.is_file():
        raise BadInput(f"{path}: there is no such folder, video or picture")
    if path.suffix.lower() in IMAGES:
        return [path.name], []
    if path.suffix.lower() not in VIDEOS:
        raise BadInput(f"{path}: name a folder of pictures, a picture, or a video ({', '.join(VIDEOS)})")
    times = video(path).times
    return [str(i) for i in range(len(times))], list(times)


def read(path: Path, names: Sequence[str]) -> Iterator[Photo]:
    """The named pictures, in order."""
    if path.is_dir() or path.suffix.lower() in IMAGES:
        folder = path if path.is_dir() else path.parent
        yield from (Photo(name, picture(folder / name)) for name in names)
    else:
        yield from (Photo(str(i), image) for i, image in frames_of_video(path, {int(name) for name in names}))


def read_boxes(path: Path) -> dict[str, list[Corners]] | None:
    """The boxes of people by picture, from the file of boxes where there is one. Raises BadInput with its line."""
    file = path / "boxes.csv" if path.is_dir() else path.with_name(f"{path.name}.boxes.csv")
    if not file.is_file():
        return None
    out: dict[str, list[Corners]] = {}
    with file.open(newline="", encoding="utf-8", errors="replace") as lines:
        for number, row in enumerate(rows(file, lines), 1):
            if not row or (number == 1 and row[0] == "name"):
                continue
            try:
                name, (left, top, right, bottom) = row[0], map(float, row[1:])
            except ValueError as error:
                raise BadInput(f"{file}, line {number}: not name,left,top,right,bottom ({error})") from error
            if not all(map(math.isfinite, (left, top, right, bottom))) or left >= right or top >= bottom:
                raise BadInput(f"{file}, line {number}: no box: left has to be below right, top below bottom")
            out.setdefault(name, []).append((left, top, right, bottom))
    return out


def rows(file: Path, lines: Iterable[str]) -> Iterator[list[str]]:
    """The rows of a csv file; raises BadInput where a quote never ends."""
    reader = csv.reader(lines)
    try:
        yield from reader
    except csv.Error as error:
        raise BadInput(f"{file}, line {reader.line_num}: {error}") from error
