"""A user's pictures or video, cut to what a model sees; with masks or none, without labels."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from compress.errors import BadInput
from hmr.data.crop import Cutter, cut, cut_by, cut_mask
from hmr.data.dataset import Frames, frames_of
from hmr.data.sample import CropSquare, Sample
from hmr.media.boxes import READERS, Boxes, Corners, read_boxes
from hmr.media.listing import PARTS, part_of, pictures_in, recording_of, some, spread
from hmr.media.matching import of_video
from hmr.media.picture import IMAGES, picture, say_once
from hmr.media.video import VIDEOS, frames_of_video, rate_of, video

log = logging.getLogger(__name__)

LIMITS = {"calib": 512, "val": 1000, "test": 2000}  # pictures, as many as the synthetic splits have
SMALL = 32  # pixels, the longer side of a person of whom little is to be seen
FINDERS = "--masks blazepose, rfdetr, ultralytics or a folder of masks"
WHY = {  # people are left out, by the name of their number in reports
    "without_mask": "have no mask",
    "empty_masks": "have an empty mask",
    "boxes_outside": "have their box outside of the picture",
}

Side = Callable[[float, float], float]  # a family's rule: width and height of a box -> side of its square
Focal = Callable[[NDArray[np.uint8]], float]  # a whole picture (H, W, 3) -> focal length of its camera in pixels
Mask = NDArray[np.bool_]  # (H, W)


@dataclass(frozen=True)
class Photo:
    """One picture as it came."""

    name: str  # path in its folder, or the number of the frame in its video
    image: NDArray[np.uint8]  # (H, W, 3) RGB


class Segmenter(Protocol):
    """Whatever finds the pixels of a person; `hmr.data.masks` has those there are."""

    name: str
    everybody: bool = False  # whether a mask may show other people too, so that it is cut to one's box
    folder: Path | None = None  # that its masks are files of

    def among(self, pictures: Sequence[str]) -> Segmenter:
        """The same for these pictures, and no others; raises BadInput where it has nothing for any of them."""
        return self

    def lacks(self, name: str) -> bool:
        """Whether it is known, before the picture is looked at, that it has no mask of it."""
        return False

    def mask(self, photo: Photo, box: Corners | None) -> Mask | None:
        """The person (H, W) in `box`, or the largest or surest one without; None where there is nobody."""


@dataclass
class Tally:
    """Which people are left out, each by its picture and box, and why; and pictures that are the person altogether, or
    in which a person is small."""

    lost: dict[tuple[str, Corners | None], str] = field(default_factory=dict)  # a name in `WHY`
    full: set[str] = field(default_factory=set)
    small: set[str] = field(default_factory=set)

    @property
    def notes(self) -> dict[str, int]:
        """Counts by their names in reports."""
        seen = {"full_masks": len(self.full), "small_people": len(self.small)}
        return {**dict.fromkeys(WHY, 0), **Counter(self.lost.values()), **seen}

    @property
    def reasons(self) -> str:
        """Why people are left out, for people."""
        names = {why: [name for (name, _), one in self.lost.items() if one == why] for why in WHY}
        return "; ".join(f"{len(found)} {WHY[why]}: {some(found, 5)}" for why, found in names.items() if found)

    def refuse_most(self, path: Path, total: int) -> None:
        """Raise BadInput where more than half of all people are left out: the rest would be measured on a guess."""
        if 2 * len(self.lost) > total:
            raise BadInput(
                f"{path}: in {len(self.lost)} of {total} places nobody is seen for sure ({self.reasons}), and what is "
                f"measured would be a guess: bring boxes or masks of the others (docs/your-own-videos.md), or find "
                f"people by {FINDERS}"
            )


@dataclass(frozen=True)
class PersonCropper:
    """How a person is cut out of a picture."""

    side: Side
    size: tuple[int, int]  # (height, width) of crops
    segmenter: Segmenter | None = None
    cutter: Cutter | None = None  # how else an adapter cuts

    def see(
        self, photo: Photo, box: Corners | None, recording: str, focal: float | None, tally: Tally
    ) -> Sample | None:
        """The crop around one person, by a camera of `focal` pixels; None where nobody is there, which is counted."""
        if box is not None and not overlaps(box, photo.image.shape[:2]):
            tally.lost[photo.name, box] = "boxes_outside"
            return None
        person = self.segmenter.mask(photo, box) if self.segmenter else None
        if self.segmenter and person is None:
            tally.lost[photo.name, box] = "without_mask"
            return None
        if person is not None:
            refuse_other_shape(photo, person)
            tally.full |= {photo.name} if person.all() else set()
            if box and self.segmenter and self.segmenter.everybody:
                person = within(person, box)
            if person.any() and box is None:
                box = around(person)
        try:
            sample = self.cut(photo, box, person, recording, focal, tally)
        except BadInput as error:
            raise BadInput(f"{photo.name}: {error}") from error
        if sample.mask is not None and not sample.mask.any():
            tally.lost[photo.name, box] = "empty_masks"
            return None
        return sample

    def cut(
        self, photo: Photo, box: Corners | None, person: Mask | None, recording: str, focal: float | None, tally: Tally
    ) -> Sample:
        """The crop around a box, or of the whole picture; small people are counted."""
        height, width = photo.image.shape[:2]
        left, top, right, bottom = box or (0, 0, width, height)
        if max(right - left, bottom - top) < SMALL:
            tally.small.add(photo.name)
        if self.cutter is not None:
            whole = (left, top, right, bottom)
            mask = None if person is None else cut_mask(self.cutter, person, whole, self.size)
            return Sample(cut_by(self.cutter, photo.image, whole, self.size), recording, mask)
        centre, square = ((left + right) / 2, (top + bottom) / 2), self.side(right - left, bottom - top)
        place = CropSquare(centre, square, (height, width), focal)
        mask = None if person is None else cut(person.astype(np.uint8) * 255, centre, square, self.size) > 127
        return Sample(cut(photo.image, centre, square, self.size), recording, mask, place)


def open_pictures(
    path: Path,
    split: str,
    frames: int | None,
    side: Side,
    size: tuple[int, int],
    segmenter: Segmenter | None = None,
    focal: Focal | None = None,
    cutter: Cutter | None = None,
) -> Frames:
    """The people in a folder or a video. The first half of each recording (the video, or a folder in the folder) is
    `calib`, then come `val` and `test`, a quarter each: neighbouring frames are nearly the same, and choices must
    not see what reports.

    At most `frames` pictures, spread evenly, in crops of `size` (height, width). Boxes come from a file of boxes (see
    `hmr.media.boxes`), else from masks of whole pictures; else a picture is taken whole, which is logged. People of
    whom nothing is seen are left out, counted and named. Where the model asks how its crops lie before the camera,
    `focal` says how long that is. `cutter` cuts otherwise than a square.

    Raises BadInput where nothing is left, nobody is known to be in more than half of the pictures, a video comes
    without boxes and masks, or something cannot be read.
    """
    if split not in PARTS:
        raise BadInput(f"frames has no split '{split}': choose from {', '.join(PARTS)}")
    names, times, damage = listed(path)
    names = without_masks(path, names, segmenter.folder if segmenter else None)
    boxes = read_boxes(path, names)
    if boxes is None:
        refuse_guess(path, names, segmenter)
    every = part_of(names, split)
    mine = [name for name in every if boxes is None or name in boxes.of]
    limit = LIMITS[split]
    if len(mine) > limit and (frames is None or frames > limit):
        say_once(path, f"of {len(mine)} pictures of split {split}, {limit} are taken, evenly spread: it takes no more")
    chosen = spread(mine, min(frames or limit, limit))
    if not chosen:
        raise BadInput(f"{path}: no picture of split {split} is there, or none with a box: {len(names)} in all splits")
    tally = Tally()
    cropper = PersonCropper(side, size, segmenter.among(names) if segmenter else None, cutter)
    found = seen_in(path, chosen, boxes, cropper, focal, tally)
    if tally.lost:
        log.warning("%s: %d people of split %s are left out: %s", path, len(tally.lost), split, tally.reasons)
    if tally.small:
        log.warning("%s: people are less than %d pixels high in %s", path, SMALL, some(sorted(tally.small), 5))
    samples = [sample for _, sample in found]
    follow = bool(times) and [name for name, _ in found] == every and one_person(path, samples)
    shown = [float(times[int(name)]) for name in every] if follow else []
    return timed(samples, shown, {**noted(segmenter, boxes, tally), **damage})


def without_masks(path: Path, names: list[str], masks: Path | None) -> list[str]:
    """The names of pictures in a folder that do not lie in the folder of masks; raises BadInput where both are one."""
    if masks is None or not path.is_dir() or not masks.resolve().is_relative_to(path.resolve()):
        return names
    inner = masks.resolve().relative_to(path.resolve())
    if inner == Path():
        raise BadInput(f"{path}: its pictures cannot be their own masks: put the masks into a folder of their own")
    say_once(masks, "what is in it are masks, and no pictures")
    return [name for name in names if not Path(name).is_relative_to(inner)]


def refuse_guess(path: Path, names: Sequence[str], segmenter: Segmenter | None) -> None:
    """Where no file has boxes: log who is looked at. Raises BadInput for a video in which nobody looks for people."""
    if segmenter and not segmenter.everybody:
        say_once(path, f"no file has boxes: of several people, {segmenter.name} takes the surest or largest one")
    if segmenter is None and of_video(names):
        raise BadInput(
            f"{path}: it is not known where people are in this video: write {path.name}.boxes.csv beside it "
            f"(name,left,top,right,bottom; the name is the frame's number), or find them by {FINDERS}"
        )
    if segmenter is None:
        say_once(path, "neither boxes nor --masks are given: each picture is taken whole, as a crop around one person")
        tables = (file for file in path.glob("*") if file.suffix.lower() in READERS and file.is_file())
        if others := sorted(file.name for file in tables):
            say_once(path, f"{some(others)} is not looked at: a file of boxes is called boxes.csv, .txt or .json")


def seen_in(
    path: Path, chosen: Sequence[str], boxes: Boxes | None, cropper: PersonCropper, focal: Focal | None, tally: Tally
) -> list[tuple[str, Sample]]:
    """The people of the chosen pictures, each with the picture's name. Raises BadInput where most are left out."""
    people: dict[str, Sequence[Corners | None]] = {name: boxes.of[name] if boxes else [None] for name in chosen}
    total = sum(map(len, people.values()))
    bare = [name for name in chosen if cropper.segmenter and cropper.segmenter.lacks(name)]
    known = Tally({(name, box): "without_mask" for name in bare for box in people[name]})
    known.refuse_most(path, total)  # before a picture is read
    found = []
    for photo in read(path, chosen):
        if boxes and photo.name in boxes.sizes:
            refuse_other_size(photo, boxes.sizes[photo.name])
        length = focal(photo.image) if focal else None
        for box in people[photo.name]:
            seen = cropper.see(photo, box, recording_of(path, photo.name), length, tally)
            found += [] if seen is None else [(photo.name, seen)]
    tally.refuse_most(path, total)
    return found


def one_person(path: Path, samples: Sequence[Sample]) -> bool:
    """Whether a video's frames show one person: whoever jumps by half of their height is another, which is logged."""
    places = [sample.place for sample in samples if sample.place]
    jumps = [math.dist(a.centre, b.centre) > max(a.side, b.side) / 2 for a, b in pairwise(places)]
    if any(jumps):
        log.warning("%s: %d times the next frame shows another person: there is no acceleration", path, sum(jumps))
    return not any(jumps)


def noted(segmenter: Segmenter | None, boxes: Boxes | None, tally: Tally) -> dict[str, str | float]:
    """What reports state about the frames."""
    source = boxes.source if boxes else "mask" if segmenter else "whole picture"
    masks, counts = segmenter.name if segmenter else "none", tally.notes
    sources: dict[str, str | float] = {"mask_source": masks, "boxes": source, "left_out": len(tally.lost)}
    outside, small = ({key: counts.pop(key)} for key in ("boxes_outside", "small_people"))
    return {**sources, **small, **(counts if segmenter else {}), **({**boxes.notes, **outside} if boxes else {})}


def timed(samples: Sequence[Sample], times: Sequence[float], notes: dict[str, str | float]) -> Frames:
    """Samples that follow each other at `times` in seconds, if there are any: at their rate or, where that varies, each
    at its own time."""
    rate = rate_of(list(times))
    if rate is not None or len(times) < 2:
        return frames_of(samples, rate, notes=notes)
    if not (np.diff(times) > 0).all():
        log.warning("the times of the video's frames do not grow: there is no acceleration")
        return frames_of(samples, None, notes=notes)
    mean = (len(times) - 1) / (times[-1] - times[0])
    return frames_of(samples, None, times=tuple(times), notes={**notes, "mean_fps": round(mean, 6)})


def refuse_other_shape(photo: Photo, mask: Mask) -> None:
    (height, width), (h, w) = photo.image.shape[:2], mask.shape
    if (height, width) != (h, w):
        raise BadInput(f"{photo.name}: a mask of {w} x {h} for {width} x {height} pixels")


def refuse_other_size(photo: Photo, size: tuple[int, int]) -> None:
    """Raise BadInput where a picture is not of the size (width, height) that its boxes are for."""
    height, width = photo.image.shape[:2]
    if (width, height) != size:
        raise BadInput(f"{photo.name}: {width} x {height} pixels, and its boxes are for {size[0]} x {size[1]}")


def overlaps(box: Corners, size: tuple[int, int]) -> bool:
    """Whether a box has anything of a picture (height, width)."""
    left, top, right, bottom = box
    return left < size[1] and top < size[0] and right > 0 and bottom > 0


def within(mask: Mask, box: Corners) -> Mask:
    """The part of a mask (H, W) that lies in a box: another box of the same picture is another person's."""
    left, top, right, bottom = (max(0, round(value)) for value in box)
    out = np.zeros_like(mask)
    out[top:bottom, left:right] = mask[top:bottom, left:right]
    return out


def around(mask: NDArray[np.bool_]) -> Corners:
    """The box of a mask (H, W) that is not empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def listed(path: Path) -> tuple[list[str], list[float], dict[str, float]]:
    """Names of all pictures in order and, of a video, the time of each frame in seconds, by its number, and what
    reports count what is damaged: damaged frames have no name.

    Raises BadInput where there are none.
    """
    if path.is_dir():
        return pictures_in(path), [], {}
    if not path.is_file():
        raise BadInput(f"{path}: there is no such folder, video or picture")
    if path.suffix.lower() in IMAGES:
        return [path.name], [], {}
    if path.suffix.lower() not in VIDEOS:
        raise BadInput(f"{path}: name a folder of pictures, a picture, or a video ({', '.join(VIDEOS)})")
    found = video(path)
    return [str(i) for i in range(len(found.times)) if i not in found.damaged], list(found.times), found.notes


def read(path: Path, names: Sequence[str]) -> Iterator[Photo]:
    """The named pictures, in order."""
    if path.is_dir() or path.suffix.lower() in IMAGES:
        folder = path if path.is_dir() else path.parent
        yield from (Photo(name, picture(folder / name)) for name in names)
    else:
        yield from (Photo(str(i), image) for i, image in frames_of_video(path, {int(name) for name in names}))
