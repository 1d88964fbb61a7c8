"""Names of boxes and of masks and the pictures that they are of: by one rule, which is told."""

from __future__ import annotations

import pytest

from hmr.media.listing import some
from hmr.media.matching import match, number_of

PICTURES = [f"{i:03d}.jpg" for i in range(4)]
FRAMES = [str(i) for i in range(12)]


@pytest.mark.parametrize(
    ("names", "rule"),
    [
        (PICTURES, "by name"),
        ([f"{i:03d}.png" for i in range(4)], "by name but for the suffix"),
        ([f"{i:03d}" for i in range(4)], "by name but for the suffix"),
        ([f"{i:03d}.jpg.png" for i in range(4)], "by name with a suffix behind it"),
        (["000.jpg", "001.JPG", "002.Jpg", "003.jpg"], "by name, whatever its case"),
        (["/data/x/000.png", "C:\\x\\001.png", "x/002.png", "./003.png"], "by the last part of the name"),
        ([f"mask_{i}.png" for i in range(4)], "by number"),
        ([f"frame_{i:05d}.png" for i in range(1, 5)], "by number, one more than the picture's"),
    ],
)
@pytest.mark.parametrize("own_names", [True, False])
def test_a_folder_of_pictures(names, rule, own_names):
    found = match(names, PICTURES, own_names)
    assert (found.pictures, found.rule) == (dict(zip(names, PICTURES, strict=True)), rule)


@pytest.mark.parametrize("style", ["{}", "{}.png", "{:05d}.png", "frame_{:05d}.png", "walk_2.mp4_{:03d}.png"])
@pytest.mark.parametrize("first", [0, 1])
def test_frames_of_a_video_count_from_zero_or_one(style, first):
    names = [style.format(i + first) for i in range(12)]
    found = match(names, FRAMES, own_names=False)
    assert found.pictures == dict(zip(names, FRAMES, strict=True))
    assert found.rule == f"by number, frames counted from {first}"


def test_where_nothing_tells_the_first_number_it_is_said():
    names = ["3.png", "5.png"]
    found = match(names, FRAMES, own_names=False)
    assert found.pictures == {"3.png": "3", "5.png": "5"} and "nothing tells whether from 0 or 1" in found.rule
    assert match(["3", "5"], FRAMES, own_names=False, first=1).pictures == {"3": "2", "5": "4"}


def test_masks_that_count_from_one_are_not_taken_for_those_of_the_next_picture():
    """Fifteen names of sixteen fit by name; all do by number. Rows that name pictures mean what they say."""
    pictures, names = [f"{i:03d}.png" for i in range(16)], [f"{i:03d}.png" for i in range(1, 17)]
    assert match(names, pictures, own_names=False).pictures == dict(zip(names, pictures, strict=True))
    assert match(names, pictures, own_names=True).pictures == {name: name for name in names[:-1]}


def test_every_folder_counts_for_itself():
    pictures = ["a/frame1.jpg", "a/frame2.jpg", "b/frame1.jpg"]
    names = ["a/m_1.png", "a/m_2.png", "b/m_1.png", "c/m_1.png"]
    assert match(names, pictures, own_names=False).pictures == dict(zip(names[:3], pictures, strict=True))


def test_what_two_pictures_could_be_is_none_of_them():
    assert match(["1.png"], ["1.jpg", "1.bmp"], own_names=False).pictures == {}
    assert match(["x1.png"], ["1_a.jpg", "1_b.jpg", "2_1.jpg", "3_1.jpg"], own_names=False).pictures == {}


def test_accents_are_the_same_however_they_are_composed():
    assert match(["cafe\u0301.png"], ["caf\u00e9.png"], own_names=True).pictures == {"cafe\u0301.png": "caf\u00e9.png"}


def test_names_for_people():
    assert number_of("walk_2.mp4_00012.png") == 12 and number_of("me.png") is None and number_of("9" * 30) is None
    assert some(list("abcd"), 2) == "a, b and 2 more" and some(["caf\udce9"]) == "caf\\xe9"
