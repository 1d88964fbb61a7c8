"""Masks that recovery gets wrong on purpose."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compress.distillation.masks import boxes, eroded, grown, holed, mistaken

H, W = 50, 40


def person(seed: int = 0) -> torch.Tensor:
    """Masks (6, H, W) bool, each a blob or two; the last is empty."""
    rng = np.random.default_rng(seed)
    masks = torch.zeros(6, H, W, dtype=torch.bool)
    for mask in masks[:-1]:
        for _ in range(2):
            y, x = rng.integers(5, 25, 2)
            mask[y : y + rng.integers(5, 20), x : x + rng.integers(3, 12)] = True
    return masks


def share_changed(masks: torch.Tensor, share: float, times: int) -> torch.Tensor:
    """How often each mask comes back as another (B,)."""
    return torch.stack([(mistaken(masks, share) != masks).flatten(1).any(1) for _ in range(times)]).float().mean(0)


def test_no_share_changes_nothing_and_all_of_it_changes_nearly_all():
    masks = person()
    torch.manual_seed(0)
    assert torch.equal(mistaken(masks, 0.0), masks)
    changed = share_changed(masks, 1.0, 40)
    assert changed[:-1].min() > 0.8 and changed[-1] == 0  # of nobody nothing is told
    half = share_changed(masks, 0.5, 200)
    assert half[:-1].mean().item() == pytest.approx(changed[:-1].mean().item() / 2, abs=0.07)


def test_a_box_is_the_smallest_one_that_holds_the_person():
    for mask, box in zip(person(), boxes(person().float()), strict=True):
        where = mask.nonzero()
        wanted = torch.zeros(H, W)
        if len(where):
            (top, left), (bottom, right) = where.amin(0), where.amax(0)
            wanted[top : bottom + 1, left : right + 1] = 1
        assert torch.equal(box, wanted)


def test_eroded_lies_within_the_person_and_the_person_within_grown():
    masks = person().float()
    assert (eroded(masks) <= masks).all() and (masks <= grown(masks)).all()
    assert eroded(masks).sum() < masks.sum() < grown(masks).sum()


def test_a_hole_is_a_rectangle_of_the_person():
    masks = person().float()
    torch.manual_seed(1)
    lost = masks - holed(masks)
    assert (lost >= 0).all() and lost[:-1].sum() > 0
    for hole, mask in zip(lost, masks, strict=True):
        assert torch.equal(hole, boxes(hole[None])[0] * mask)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_wrong_masks_are_of_the_same_kind_and_follow_from_the_seed(dtype):
    masks = person().to(dtype)
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        found.append(mistaken(masks, 0.7))
    assert found[0].dtype == dtype and torch.equal(*found)
