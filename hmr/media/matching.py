"""Names of boxes or of mask files, matched to the pictures that they are of, all by one rule."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from hmr.media.listing import spelt

Key = Callable[[str], str]
LONGEST = 18  # digits of a number in a name


@dataclass(frozen=True)
class Match:
    """pictures: of each name that has one. rule: how they were found, for people."""

    pictures: dict[str, str]
    rule: str

    @property
    def example(self) -> str:
        """One name and its picture, for people."""
        name, picture = next(iter(self.pictures.items()))
        return f"{spelt(name)} is of {'frame ' if picture.isdecimal() else ''}{spelt(picture)}"


def match(names: Iterable[str], pictures: Sequence[str], own_names: bool, first: int = 0) -> Match:
    """Match names to pictures, which are paths in a folder, or the numbers of a video's frames.

    Of all rules the one that finds most pictures is taken, of equal ones the stricter. A video's frames are found by
    number alone. In a folder numbers count where no name does, or else, unless the names are to be the pictures'
    `own_names`, where every name has a picture only so. `first` is what the first frame of a video is called where
    that is not to be seen.
    """
    given = list(dict.fromkeys(names))
    if of_video(pictures):
        return by_number(given, pictures, first)
    best = max((by_key(given, pictures, *rule) for rule in RULES), key=lambda found: len(found.pictures))
    numbered = by_number(given, pictures, first)
    complete = not own_names and len(best.pictures) < len(numbered.pictures) == len(given)
    return numbered if complete or not best.pictures else best


def by_key(names: Sequence[str], pictures: Sequence[str], rule: str, of_name: Key, of_picture: Key) -> Match:
    """Those whose keys are equal; a key that several pictures have finds none."""
    keys = [of_picture(picture) for picture in pictures]
    times = Counter(keys)
    places = {key: picture for key, picture in zip(keys, pictures, strict=True) if times[key] == 1}
    return Match({name: places[of_name(name)] for name in names if of_name(name) in places}, rule)


def by_number(names: Sequence[str], pictures: Sequence[str], first: int) -> Match:
    """Those with equal numbers, where names may count from one more or one less than pictures."""
    numbers = {picture: number_of(picture) for picture in pictures}
    alone = len(set(numbers.values())) == len(pictures)  # else the pictures of each folder are counted apart
    places = {("" if alone else folder(p), number): p for p, number in numbers.items() if number is not None}
    if len(places) < sum(number is not None for number in numbers.values()):
        return Match({}, "by number")
    keys = [("" if alone else folder(name), number, name) for name in names if (number := number_of(name)) is not None]
    video = of_video(pictures)
    found = [
        Match({name: p for where, n, name in keys if (p := places.get((where, n - shift)))}, counted(shift, video))
        for shift in ((first, 1 - first) if video else (0, 1, -1))
    ]
    best = max(found, key=lambda one: len(one.pictures))
    open_ = video and len(found[0].pictures) == len(found[1].pictures)
    return Match(best.pictures, f"{best.rule}, as nothing tells whether from 0 or 1") if open_ else best


def counted(shift: int, video: bool) -> str:
    """The rule by which a name has the number of its picture plus `shift`."""
    if video:
        return f"by number, frames counted from {shift}"
    return f"by number, one {'more' if shift > 0 else 'less'} than the picture's" if shift else "by number"


def of_video(pictures: Sequence[str]) -> bool:
    """Whether names of pictures are the numbers of a video's frames."""
    return all(picture.isdecimal() for picture in pictures)


def number_of(name: str) -> int | None:
    """The last number in a file's name; None where there is none."""
    parts = re.findall(r"[0-9]+", stem(name).rpartition("/")[2])
    return int(parts[-1]) if parts and len(parts[-1]) <= LONGEST else None


def path_of(name: str) -> str:
    """A path as systems other than this one write it too."""
    return PurePosixPath(name.replace("\\", "/").strip()).as_posix()


def stem(name: str) -> str:
    """A path without its suffix; behind a point, a number is none."""
    path = PurePosixPath(path_of(name))
    return path.as_posix() if path.suffix[1:].isdecimal() or not path.suffix else path.with_suffix("").as_posix()


def folded(name: str) -> str:
    """Equal for names that differ in case or in how accents are composed."""
    return unicodedata.normalize("NFC", path_of(name)).casefold()


def folder(name: str) -> str:
    return PurePosixPath(path_of(name)).parent.as_posix()


def last(name: str) -> str:
    return folded(stem(name)).rpartition("/")[2]


RULES: tuple[tuple[str, Key, Key], ...] = (
    ("by name", path_of, path_of),
    ("by name, whatever its case", folded, folded),
    ("by name but for the suffix", stem, stem),
    ("by name with a suffix behind it", stem, path_of),
    ("by name but for suffix and case", lambda name: folded(stem(name)), lambda name: folded(stem(name))),
    ("by name with a suffix behind it, whatever its case", lambda name: folded(stem(name)), folded),
    ("by the last part of the name", last, last),
    ("by the last part of the name with a suffix behind it", last, lambda name: folded(name).rpartition("/")[2]),
)
