"""Whatever finds people in a frame: BlazePose's networks by what they are shown, and files of people."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from compress.errors import BadInput
from hmr.data.blazepose import Detector, LandmarkNetwork, Landmarks, Square
from hmr.media.shot import Shot
from hmr.people.finders import MARGIN, BlazePoseFinder, finder
from hmr.people.known import KnownPeople

SHAPE = (200, 300, 3)


def shot(number: int) -> Shot:
    return Shot(number, number / 30, np.full(SHAPE, number, np.uint8))


class World(Detector, LandmarkNetwork):
    """Both networks; people stand at `places` (x, y) in the frame whose number a picture's brightness is."""

    def __init__(self, places: dict[int, list[tuple[float, float]]]) -> None:
        self.places = places
        self.looked: list[int] = []  # frames in which the detector looked

    def there(self, image: np.ndarray) -> list[tuple[float, float]]:
        return self.places[int(image[0, 0, 0])]

    def people(self, image: np.ndarray, least: float = 0.5, part: Square | None = None) -> list[Square]:
        number = int(image[0, 0, 0])
        self.looked += [number] * (number not in self.looked)
        assert part is not None
        return [Square((x + 4, y), 50) for x, y in self.there(image) if abs(x - part.centre[0]) < part.side / 2]

    def see(self, image: np.ndarray, square: Square) -> Landmarks:
        near = min(self.there(image), key=lambda at: np.hypot(*np.subtract(at, square.centre)), default=(-999, -999))
        score = 0.95 if np.hypot(*np.subtract(near, square.centre)) < 30 else 0.1
        pixels = np.array(near) + np.array([[-10.0, -20], [10, 20], [0, 0]] * 11)
        mask = np.ones((256, 256), bool)
        return Landmarks(pixels, np.ones(33), np.zeros((33, 3)), score, mask, square, Square(near, 50))


def middles(found) -> list[tuple[float, float]]:
    return sorted(((p.box[0] + p.box[2]) / 2, (p.box[1] + p.box[3]) / 2) for p in found)


def test_people_are_followed_between_looks_of_the_detector():
    """One walks, a second comes in frame 3 and is found at the next look, then leaves; where somebody is lost the
    detector looks at once."""
    walk = [(60 + 4.0 * i, 90.0) for i in range(12)]
    places = {i: [walk[i], *([(220.0, 100.0)] if 3 <= i < 9 else [])] for i in range(12)}
    world = World(places)
    finder = BlazePoseFinder(5, (world, world))
    counts = []
    for i in range(12):
        found = finder.find(shot(i))
        assert walk[i] in [pytest.approx(at) for at in middles(found)]
        counts.append(len(found))
    assert counts == [1] * 5 + [2] * 4 + [1] * 3
    assert world.looked == [0, 5, 9]


def test_a_box_is_around_the_landmarks_and_a_mask_where_the_square_is():
    world = World({0: [(100.0, 90.0)]})
    [person] = BlazePoseFinder(5, (world, world)).find(shot(0))
    assert person.box == pytest.approx((100 - 10 * MARGIN, 90 - 20 * MARGIN, 100 + 10 * MARGIN, 90 + 20 * MARGIN))
    assert person.mask is not None and person.name is None
    mask = person.mask()
    rows, columns = np.nonzero(mask)
    assert (
        mask.shape == SHAPE[:2]
        and (columns.min(), rows.min()) == (75, 65)
        and (columns.max(), rows.max()) == (124, 114)
    )


def test_two_who_are_the_same_are_one():
    """Both were followed to one person: from there on there is one."""
    places = {0: [(80.0, 90.0), (140.0, 90.0)], 1: [(110.0, 90.0)], 2: [(112.0, 90.0)]}
    world = World(places)
    finder = BlazePoseFinder(9, (world, world))
    assert [len(finder.find(shot(i))) for i in range(3)] == [2, 1, 1]


def test_a_finder_goes_on_from_its_state():
    places = {i: [(60 + 3.0 * i, 90.0)] for i in range(8)}
    one, other = (BlazePoseFinder(4, (World(places), World(places))) for _ in range(2))
    for i in range(3):
        one.find(shot(i))
    other.restore(json.loads(json.dumps(one.state)))
    for i in range(3, 8):
        assert [p.box for p in one.find(shot(i))] == [p.box for p in other.find(shot(i))]
    assert one.detector.looked[1:] == other.detector.looked  # type: ignore[attr-defined]


def test_an_unknown_finder_is_refused():
    with pytest.raises(BadInput, match="choose one of blazepose"):
        finder("yolo", 10)


# ---- files


def test_tables_say_who_is_where(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(
        "frame,track_id,x,y,w,h,score\n0,ann,10,20,30,40,0.9\n0,bob,50,20,30,40,0.8\n2,bob,52,20,30,40,0.2\n"
    )
    people = KnownPeople(path)
    assert [(p.name, p.box, p.score) for p in people.find(shot(0))] == [
        ("ann", (10, 20, 40, 60), 0.9), ("bob", (50, 20, 80, 60), 0.8),
    ]  # fmt: skip
    assert people.find(shot(1)) == people.find(shot(2)) == []  # a score below one half does not count


def test_motchallenges_frames_are_counted_from_one(tmp_path):
    path = tmp_path / "mot.txt"
    path.write_text("1,7,10,20,30,40,1,-1,-1,-1\n2,7,12,20,30,40,1,-1,-1,-1\n")
    people = KnownPeople(path)
    assert [people.find(shot(i))[0].box[0] for i in (0, 1)] == [10, 12]
    assert people.find(shot(0))[0].name == "7"
    path.write_text("1,-1,10,20,30,40,1,-1,-1,-1\n")
    assert KnownPeople(path).find(shot(0))[0].name is None


def test_an_npz_brings_masks(tmp_path):
    path, masks = tmp_path / "a.npz", np.zeros((2, *SHAPE[:2]), bool)
    masks[1, 5:9, 5:9] = True
    np.savez(
        path, frame=[0, 3], box=np.array([[1.0, 2, 30, 40], [5, 5, 9, 9]]), id=["x", "y"], score=[1.0, 0.5], mask=masks
    )
    [person] = KnownPeople(path).find(shot(3))
    assert (
        person.mask is not None
        and np.array_equal(person.mask(), masks[1])
        and (person.name, person.score) == ("y", 0.5)
    )
    np.savez(path, frame=[0], box=[[1.0, 2, 30, 40]], mask=np.zeros((1, 4, 4), bool))
    with pytest.raises(BadInput, match="masks of 4 x 4 for frames of 300 x 200"):
        KnownPeople(path).find(shot(0))


@pytest.mark.parametrize(
    "arrays, hint",
    [
        ({"frame": [0]}, "has the arrays frame, box"),
        ({"frame": [0], "box": [[1, 2, 3, 4]], "boxes": [0]}, "has the arrays"),
        ({"frame": [0], "box": [[1, 2, 3]]}, "shape"),
        ({"frame": [0, 1], "box": [[1, 2, 3, 4]]}, "shape"),
        ({"frame": [0], "box": [[5, 2, 3, 4]]}, "no area"),
        ({"frame": [0], "box": [[1, 2, np.nan, 4]]}, "not finite"),
    ],
)
def test_arrays_that_are_no_people_are_refused(tmp_path, arrays: dict[str, Any], hint):
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)
    with pytest.raises(BadInput, match=hint):
        KnownPeople(path)


@pytest.mark.parametrize(
    "text, hint",
    [
        ("frame,id,x,y,w,h\n0,a,1,1,9,9\n0,a,2,2,9,9\n", "twice"),
        ("frame,x,y,w,h\nwalk.png,1,1,9,9\n", "by their numbers"),
        ("", "no box"),
    ],
)
def test_tables_that_are_no_tracks_are_refused(tmp_path, text, hint):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(BadInput, match=hint):
        KnownPeople(path)
