"""People in a frame: what finds them, with a box, a score and, where it is known, a mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from compress.errors import BadInput
from hmr.data.blazepose import SURE, Detector, LandmarkNetwork, Landmarks, Square, people_in_picture, same
from hmr.data.masks import Detections, rfdetr_people, yolo_people
from hmr.data.pictures import Photo
from hmr.media.boxes import Corners
from hmr.media.shot import Shot

FOLLOWED = 0.5  # least score of a person who was seen in the frame before
MARGIN = 1.2  # of a box around BlazePose's landmarks, as `hmr.data.real_people.dataset` has it

Mask = NDArray[np.bool_]  # (H, W)


@dataclass(frozen=True)
class Person:
    """Somebody in a frame. name: who it is, where whoever found them knows that."""

    box: Corners
    score: float  # 0..1
    mask: Callable[[], Mask] | None = None  # of the whole frame; made when it is asked for
    name: str | None = None


class Finder(Protocol):
    """Whatever finds the people of a video's frames, which it is shown in their order.

    `state` is what it remembers, as JSON values, so that a run that was stopped goes on with the same people;
    `identity` is whatever decides whom it finds, as JSON values too: a run goes on only where it is the same.
    """

    name: str

    @property
    def identity(self) -> Any: ...

    def find(self, shot: Shot) -> list[Person]:
        """The people of a frame."""

    @property
    def state(self) -> Any: ...

    def restore(self, state: Any) -> None: ...


class BlazePoseFinder:
    """MediaPipe's networks: the detector looks for people in overlapping squares of each `every`-th frame, and
    whenever somebody was lost; between them each person's landmarks say where they are in the frame that follows."""

    name = "blazepose"

    def __init__(self, every: int, networks: tuple[Detector, LandmarkNetwork] | None = None) -> None:
        self.detector, self.landmarks = networks or (Detector(), LandmarkNetwork())
        self.every = every
        self.squares: list[Square] = []  # where those who were seen last will be
        self.wait = 0  # frames until the detector looks again

    def find(self, shot: Shot) -> list[Person]:
        followed = [self.landmarks.see(shot.image, square) for square in self.squares]
        people = distinct([person for person in followed if person.score >= FOLLOWED])
        if self.wait <= 0 or len(people) < len(self.squares):
            people = distinct([*people, *people_in_picture(shot.image, self.detector, self.landmarks)])
            self.wait = self.every
        self.wait -= 1
        self.squares = [person.next for person in people]
        return [person_of(each, shot.image.shape[:2]) for each in people]

    @property
    def identity(self) -> Any:
        return [self.name, self.every]

    @property
    def state(self) -> Any:
        return {"wait": self.wait, "squares": [[*s.centre, s.side, s.angle] for s in self.squares]}

    def restore(self, state: Any) -> None:
        self.wait = state["wait"]
        self.squares = [Square((x, y), side, angle) for x, y, side, angle in state["squares"]]


def distinct(people: Sequence[Landmarks]) -> list[Landmarks]:
    """Each person once, the first of those who are the same."""
    found: list[Landmarks] = []
    for person in people:
        if not any(same(person, other) for other in found):
            found.append(person)
    return found


def person_of(seen: Landmarks, size: tuple[int, int]) -> Person:
    """BlazePose's person in a frame of `size` (height, width)."""
    low, high = seen.pixels.min(0), seen.pixels.max(0)
    middle, half = (low + high) / 2, MARGIN * (high - low) / 2
    left, top, right, bottom = map(float, (*(middle - half), *(middle + half)))

    def mask() -> Mask:
        return seen.square.pasted(seen.mask * np.uint8(255), size) > 127

    return Person((left, top, right, bottom), float(seen.score), mask)


class DetectionFinder:
    """A detector that finds everybody with their masks in one look, at every frame."""

    state: Any = None

    def __init__(self, name: str) -> None:
        self.name = self.identity = name
        self.detections = Detections(name)

    def find(self, shot: Shot) -> list[Person]:
        read = rfdetr_people if self.name == "rfdetr" else yolo_people
        found = read(self.detections.network, Photo(str(shot.number), shot.image))
        return [Person(box, SURE, lambda mask=mask: mask) for box, mask in found]  # type: ignore[misc]  # a default

    def restore(self, state: Any) -> None:
        """Nothing: each frame is looked at by itself."""


def finder(name: str, every: int) -> Finder:
    """`blazepose`, whose detector looks at each `every`-th frame, `rfdetr` or `ultralytics`. Raises BadInput for
    another name, and where it is not installed."""
    if name == "blazepose":
        return BlazePoseFinder(every)
    if name in ("rfdetr", "ultralytics"):
        return DetectionFinder(name)
    raise BadInput(f"--people {name}: choose one of blazepose, rfdetr, ultralytics, or name a file of boxes")
