"""Who is who from frame to frame: boxes that overlap where people are expected, in rounds (ByteTrack).

Zhang et al., "ByteTrack", 2022: sure people are matched first, unsure ones continue tracks and never begin one. Tracks
that were lost look for their person in a box that grows (Yang et al., "Hard to Track Objects with Irregular Motions
and Similar Appearances", 2023). People swing their arms, so a box is expected to move and to keep its size; whoever is
not where they were going may still be where they were.

NOTE: the package `trackers` has the same tracker and stands on opencv-python, which does not load on a machine without
libGL, weighs 190 MB, and is silent about everybody's first frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from hmr.media.boxes import Corners
from hmr.people.finders import Person

PATIENCE = 1.0  # s, for how long somebody may be out of sight
OVERLAP = 0.2  # least intersection over union
BEGINS = 0.6  # least score of a person who begins a track
GROWTH = 1.0  # of a lost person's box, in its own size for each second
MOVES = 0.3  # s, for how long a lost person is taken to move on
BLINK = 0.1  # s, for how long their box keeps its size
INERTIA = 0.6  # of the velocity at each frame

Doubles = NDArray[np.float64]


@dataclass
class Known:
    """Somebody who is being tracked."""

    id: int
    box: Doubles  # (4,) left, top, right, bottom in pixels, when they were last seen
    velocity: Doubles  # (2,) pixels a second, of its middle
    seen: float  # s

    def expected(self, time: float, moves: bool = True) -> Doubles:
        """Their box (4,) at a moment, larger the longer nobody has seen them; unless it moves, where they were."""
        gone = time - self.seen
        box = self.box + np.tile(self.velocity, 2) * min(gone, MOVES) * moves
        size = np.tile(box[2:] - box[:2], 2)
        return box + size * np.array([-1, -1, 1, 1]) * GROWTH * max(0.0, gone - BLINK) / 2


class Tracker:
    """Gives each person of a frame a number that stays theirs."""

    def __init__(self) -> None:
        self.known: list[Known] = []
        self.next = 1
        self.names: dict[str, int] = {}  # of people whom the finder knows by name

    def step(self, people: Sequence[Person], time: float) -> list[int | None]:
        """Numbers of the people of the frame at `time` in seconds, which grows from call to call; None for somebody
        unsure who continues nobody's track."""
        if any(person.name is not None for person in people):
            return [self._named(person) for person in people]
        self.known = [one for one in self.known if time - one.seen <= PATIENCE]
        ids: list[int | None] = [None] * len(people)
        for sure, moves in ((True, True), (True, False), (False, True)):
            rest = [i for i, person in enumerate(people) if ids[i] is None and (person.score >= BEGINS) == sure]
            free = [one for one in self.known if one.id not in ids]
            for i, one in matched([people[i].box for i in rest], [one.expected(time, moves) for one in free]):
                ids[rest[i]] = free[one].id
                self._follow(free[one], people[rest[i]].box, time)
        for i, person in enumerate(people):
            if ids[i] is None and person.score >= BEGINS:
                ids[i] = self._begin(person.box, time)
        return ids

    def _named(self, person: Person) -> int | None:
        if person.name is None:
            return None
        return self.names.setdefault(person.name, len(self.names) + 1)

    def _begin(self, box: Corners, time: float) -> int:
        self.known.append(Known(self.next, np.array(box), np.zeros(2), time))
        self.next += 1
        return self.next - 1

    def _follow(self, one: Known, box: Corners, time: float) -> None:
        middles = (np.reshape(each, (2, 2)).mean(0) for each in (one.box, box))
        moved = -np.subtract(*middles) / max(time - one.seen, 1e-6)
        one.velocity = INERTIA * one.velocity + (1 - INERTIA) * moved
        one.box, one.seen = np.array(box), time

    @property
    def state(self) -> Any:
        """All that it remembers, as JSON values."""
        known = [[one.id, one.box.tolist(), one.velocity.tolist(), one.seen] for one in self.known]
        return {"next": self.next, "names": self.names, "known": known}

    def restore(self, state: Any) -> None:
        """Go on from a `state`."""
        self.next, self.names = state["next"], dict(state["names"])
        self.known = [Known(id, np.array(box), np.array(v), seen) for id, box, v, seen in state["known"]]


def matched(boxes: Sequence[Corners], expected: Sequence[Doubles]) -> list[tuple[int, int]]:
    """Pairs of a box and an expected one with the largest sum of overlaps, each of which is at least OVERLAP."""
    if not boxes or not expected:
        return []
    shared = overlaps(np.array(boxes), np.array(expected))
    pairs = zip(*linear_sum_assignment(-shared), strict=True)
    return [(int(i), int(j)) for i, j in pairs if shared[i, j] >= OVERLAP]


def overlaps(one: Doubles, other: Doubles) -> Doubles:
    """Intersection over union of boxes (N, 4) and (M, 4): (N, M)."""
    low, high = np.maximum(one[:, None, :2], other[:, :2]), np.minimum(one[:, None, 2:], other[:, 2:])
    inside = np.maximum(high - low, 0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (one, other)]
    shared: Doubles = inside / np.maximum(areas[0][:, None] + areas[1] - inside, math.ulp(1.0))
    return shared
