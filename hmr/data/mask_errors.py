"""Person masks as segmenters get them wrong: what a method that trusts its mask has to live with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from hmr.data.dataset import Frames
from hmr.data.sample import Sample, known
from hmr.world.poses import LIMBS

Mask = NDArray[np.bool_]
LOSABLE = tuple(limb for limb in LIMBS if 3 not in limb)  # not the trunk


def exact(sample: Sample, index: int = 0) -> Mask:
    """(H, W): the person; raises BadInput where there is no mask."""
    return known(sample.mask, "person masks")


def dilated(sample: Sample, index: int = 0) -> Mask:
    """(H, W): the person and all within half a patch of it, rows and columns."""
    return grown(exact(sample), patch_of(sample) // 2)


def eroded(sample: Sample, index: int = 0) -> Mask:
    """(H, W): the person without what lies within half a patch of its outline."""
    return ~grown(~exact(sample), patch_of(sample) // 2)


def box(sample: Sample, index: int = 0) -> Mask:
    """(H, W): the smallest upright box around the person, all of it; empty where nobody is seen."""
    rows, columns = np.any(exact(sample), axis=1), np.any(exact(sample), axis=0)
    return np.logical_and.outer(extent(rows), extent(columns))


def limb_missing(sample: Sample, index: int = 0) -> Mask:
    """(H, W): the person without one arm or leg, the index-th in turn, by whole patches."""
    limb = LOSABLE[index % len(LOSABLE)]
    lost = np.isin(known(sample.part, "body parts"), [joint + 1 for joint in limb])  # (16, 12)
    patch = patch_of(sample)
    return exact(sample) & ~lost.repeat(patch, 0).repeat(patch, 1)


def patch_of(sample: Sample) -> int:
    """Pixels of a patch and side."""
    return len(sample.image) // len(known(sample.part, "body parts"))


MASKS: dict[str, Callable[[Sample, int], Mask]] = {
    "exact": exact,
    "dilated": dilated,
    "eroded": eroded,
    "box": box,
    "limb missing": limb_missing,
}


def with_masks(frames: Frames, kind: str) -> Frames:
    """The same frames with masks of a `kind` of MASKS; raises BadInput where there is no exact mask to change."""
    if kind == "exact":
        return frames
    return frames.with_samples([replace(sample, mask=MASKS[kind](sample, i)) for i, sample in enumerate(frames)])


def grown(mask: Mask, by: int) -> Mask:
    """(H, W): all within a square of 2 `by` + 1 pixels around a pixel of the mask."""
    pixels = torch.from_numpy(mask).float()[None, None]  # (1, 1, H, W)
    return F.max_pool2d(pixels, 2 * by + 1, 1, by)[0, 0].bool().numpy()


def extent(line: Mask) -> Mask:
    """(L,): everything from the first True to the last."""
    return np.logical_or.accumulate(line) & np.logical_or.accumulate(line[::-1])[::-1]
