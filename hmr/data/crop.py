"""From crops as pictures to crops as networks take them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from compress.errors import BadInput

IMAGE_MEAN = (0.485, 0.456, 0.406)  # ImageNet, RGB in 0..1
IMAGE_STD = (0.229, 0.224, 0.225)
LARGEST = 80_000_000  # pixels that are cut out at once

# how an adapter cuts: a picture (H, W, 3) and a box (left, top, right, bottom) in its pixels -> a crop (h, w, 3)
Cutter = Callable[[NDArray[np.uint8], tuple[float, float, float, float]], NDArray[np.uint8]]


def normalised(images: Tensor) -> Tensor:
    """RGB (B, H, W, 3), uint8 or float in 0..255 -> ImageNet-normalised float (B, 3, H, W)."""
    mean, std = constants(images.device)
    return ((images.float() - mean) / std).permute(0, 3, 1, 2)


@cache
def constants(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation (3,) of RGB in 0..255 on a device: put there once, for every batch would wait for the copy."""
    with torch.inference_mode(False):  # what is made in that mode is of no use to a training
        mean, std = (torch.tensor(values, device=device) * 255 for values in (IMAGE_MEAN, IMAGE_STD))
    return mean, std


def window(points: NDArray[np.float64], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the part of a picture of `size` (height, width) that holds points (N, 2) in pixels
    and what bilinear sampling looks at beside them: one pixel at least, wherever they are."""
    height, width = size
    low, high = points.min(0) - 2, points.max(0) + 2
    left, top = int(np.clip(low[0], 0, width - 1)), int(np.clip(low[1], 0, height - 1))
    return left, top, int(np.clip(high[0], left + 1, width)), int(np.clip(high[1], top + 1, height))


def cut(image: NDArray[np.uint8], centre: tuple[float, float], side: float, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The part of a picture (H, W, 3), or of a mask (H, W) in 0..255, that a network sees, as (height, width) `size`.

    centre (x, y) and side are in pixels of the picture: a square of that side, of which the middle columns are left.
    Black where the picture ends. Where it shrinks, pixels are averaged (4D-Humans blurs first, which is nearly the
    same). Raises BadInput for a square without area, and for one much larger than the picture or far from it.
    """
    height, width = size
    far = 16 * max(image.shape[:2])
    of = f"of a {image.shape[1]} x {image.shape[0]} picture"
    if not 0 < side <= far:
        raise BadInput(f"a box of {side:g} pixels cannot be cut out {of}")
    if not max(map(abs, centre)) <= far:
        raise BadInput(f"a box around ({centre[0]:g}, {centre[1]:g}) is too far outside {of}")
    across = side * width / height
    if side * across > LARGEST:  # PIL refuses to cut out so much; what is left of it is small anyway
        times = max(2, math.ceil(math.sqrt(side * across / LARGEST)))
        smaller = np.asarray(Image.fromarray(image).reduce(times))
        return cut(smaller, (centre[0] / times, centre[1] / times), side / times, size)
    left, top = centre[0] - across / 2, centre[1] - side / 2
    x, y = math.floor(left), math.floor(top)
    whole = (x, y, math.ceil(left + across), math.ceil(top + side))
    part = Image.fromarray(image).crop(whole)
    inside = (left - x, top - y, left - x + across, top - y + side)
    return np.asarray(part.resize((width, height), Image.Resampling.BILINEAR, inside))


def cut_by(
    cutter: Cutter, image: NDArray[np.uint8], box: tuple[float, float, float, float], size: tuple[int, int]
) -> NDArray[np.uint8]:
    """A crop (h, w, 3) by an adapter's way; raises BadInput where it is not of (height, width) `size` and in uint8."""
    crop = cutter(image, box)
    if crop.dtype != np.uint8 or crop.shape != (*size, 3):
        raise BadInput(
            f"crops(frame, box) is to give {size[0]} x {size[1]} x 3 numbers in uint8, and gives "
            f"{' x '.join(map(str, crop.shape))} in {crop.dtype}"
        )
    return crop


def cut_mask(
    cutter: Cutter, mask: NDArray[np.bool_], box: tuple[float, float, float, float], size: tuple[int, int]
) -> NDArray[np.bool_]:
    """A mask (h, w) of `size` by the same way, which takes pictures. Raises BadInput as `cut_by`."""
    shown: NDArray[np.uint8] = np.repeat(mask[..., None].astype(np.uint8) * 255, 3, -1)
    return cut_by(cutter, shown, box, size)[..., 0] > 127
