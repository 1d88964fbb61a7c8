"""Who is who: people who pass, who are out of sight, who are unsure."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hmr.people.finders import Person
from hmr.people.tracker import PATIENCE, Tracker, overlaps


def person(x: float, y: float = 50.0, score: float = 0.9, name: str | None = None) -> Person:
    return Person((x - 10, y - 25, x + 10, y + 25), score, name=name)


def test_people_who_pass_each_other_stay_who_they_are():
    """One walks right, one left, and at the middle their boxes are one: from there on each goes on as before."""
    tracker, seen = Tracker(), []
    for i in range(41):
        ids = tracker.step([person(20 + 4.0 * i), person(180 - 4.0 * i)], i / 25)
        seen.append(ids)
    assert all(ids == [1, 2] for ids in seen)


def test_somebody_out_of_sight_comes_back_as_themselves_and_after_long_as_somebody_else():
    tracker = Tracker()
    for i in range(10):
        assert tracker.step([person(20 + 2.0 * i)], i / 25) == [1]
    assert tracker.step([], 0.5) == []
    assert tracker.step([person(44)], 0.7) == [1]
    assert tracker.step([person(44)], 0.7 + PATIENCE + 0.1) == [2]


def test_arms_that_swing_make_nobody_else():
    """A walker whose box is now wide and now narrow, from one frame to the next."""
    tracker = Tracker()
    for i in range(30):
        x, half = 400 - 8.0 * i, (10, 45)[i // 3 % 2]
        assert tracker.step([Person((x - half, 0, x + half, 150), 0.9)], i / 30) == [1]


def test_somebody_who_stops_or_jumps_while_out_of_sight_is_still_themselves():
    """Not where they were going: there a third of a second later where they were, and with a box of another shape."""
    tracker = Tracker()
    for i in range(10):
        tracker.step([person(20 + 5.0 * i)], i / 30)
    assert tracker.step([Person((50, 35, 85, 60), 0.9)], 9 / 30 + 0.35) == [1]


def test_somebody_elsewhere_is_somebody_else():
    tracker = Tracker()
    assert tracker.step([person(20)], 0.0) == [1]
    assert tracker.step([person(20), person(100)], 0.04) == [1, 2]
    assert tracker.step([person(100), person(20)], 0.08) == [2, 1]


def test_the_unsure_go_on_and_never_begin():
    tracker = Tracker()
    assert tracker.step([person(20, score=0.3)], 0.0) == [None]
    assert tracker.step([person(20)], 0.04) == [1]
    assert tracker.step([person(21, score=0.3)], 0.08) == [1]


def test_people_with_names_keep_them_wherever_they_are():
    tracker = Tracker()
    assert tracker.step([person(20, name="b"), person(90, name="a")], 0.0) == [1, 2]
    assert tracker.step([person(20, name="a")], 9.0) == [2]


def test_a_tracker_goes_on_from_its_state():
    """As JSON keeps it: the next frames are told the same numbers."""
    one, other = Tracker(), Tracker()
    for i in range(6):
        one.step([person(20 + 3.0 * i), person(90)], i / 25)
    other.restore(json.loads(json.dumps(one.state)))
    frames = [[person(90), person(41)], [person(43)], [person(160), person(90)]]
    assert [one.step(each, 0.3 + i / 25) for i, each in enumerate(frames)] == [
        other.step(each, 0.3 + i / 25) for i, each in enumerate(frames)
    ]


def test_overlap_of_boxes():
    boxes = np.array([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 21, 21]])
    assert overlaps(boxes, boxes) == pytest.approx(np.array([[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 1]]))
