"""Wrong masks against brute force, pixel by pixel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hmr.data.dataset import frames_of
from hmr.data.mask_errors import LOSABLE, MASKS, box, grown, limb_missing, with_masks
from hmr.data.sample import known
from hmr.world.synthetic import open_world


@pytest.fixture(scope="module")
def samples():
    return [*open_world("synth", "val", 4)]


@settings(max_examples=25)
@given(seed=st.integers(0, 999), by=st.integers(1, 4))
def test_grown_is_the_brute_force_square(seed, by):
    mask = np.random.default_rng(seed).random((12, 9)) < 0.1
    rows, columns = np.nonzero(mask)
    brute = np.zeros_like(mask)
    for r, c in zip(rows, columns, strict=True):
        brute[max(r - by, 0) : r + by + 1, max(c - by, 0) : c + by + 1] = True
    assert (grown(mask, by) == brute).all()


def test_wrong_masks_lie_around_or_inside_the_person(samples):
    for i, sample in enumerate(samples):
        masks = {kind: change(sample, i) for kind, change in MASKS.items()}
        assert (masks["exact"] == sample.mask).all()
        for larger in ("dilated", "box"):
            assert (masks[larger] | sample.mask == masks[larger]).all() and masks[larger].sum() > sample.mask.sum()
        for smaller in ("eroded", "limb missing"):
            assert (masks[smaller] & sample.mask == masks[smaller]).all()
        assert masks["eroded"].sum() < sample.mask.sum()


def test_a_box_touches_the_person_on_all_sides(samples):
    rows, columns = np.nonzero(samples[0].mask)
    expected = np.zeros_like(samples[0].mask)
    expected[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    assert (box(samples[0]) == expected).all()


def test_nobody_has_no_box_and_stays_nobody(samples):
    nobody = replace(samples[0], mask=np.zeros_like(samples[0].mask), part=np.zeros_like(samples[0].part))
    for kind in MASKS:
        assert not known(with_masks(frames_of([nobody]), kind)[0].mask, "masks").any()


def test_a_missing_limb_is_that_limb_alone(samples):
    for index, limb in enumerate(LOSABLE):
        lost = samples[0].mask & ~limb_missing(samples[0], index)
        labels = samples[0].part.repeat(14, 0).repeat(14, 1)[lost]
        assert set(labels.tolist()) <= {joint + 1 for joint in limb}
    assert any((limb_missing(samples[0], index) != samples[0].mask).any() for index in range(len(LOSABLE)))


def test_all_else_stays(samples):
    for before, after in zip(samples, with_masks(frames_of(samples), "box"), strict=True):
        assert after.image is before.image and after.rotations is before.rotations
