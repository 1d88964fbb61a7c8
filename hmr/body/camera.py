"""From a network's prediction for its crop to metres in front of a camera, and from a box to what CameraHMR asks for.

Camera axes: x right, y down, z forward. Boxes are squares of `side` pixels around `center` (x, y) in the whole image.
"""

from __future__ import annotations

import torch
from torch import Tensor

FOCAL = 5000.0  # pixels of a 256 pixel crop: what HMR2.0, HaMeR and TokenHMR take as given


def full_translation(camera: Tensor, center: Tensor, side: Tensor, image: Tensor, focal: Tensor) -> Tensor:
    """camera (B, 3) of a crop -> translation (B, 3) in m as seen by the camera of the whole image (CameraHMR, CLIFF).

    center (B, 2), side (B,), image (B, 2) = (width, height) and focal (B,), all in pixels. tz = 2 f / (side s), and the
    offset of the box from the image's middle is added to x and y.
    """
    wide = side * camera[:, 0]  # (B,) pixels that 2 m fill
    offset = 2 * (center - image / 2) / wide[:, None]  # (B, 2) m
    return torch.cat((camera[:, 1:] + offset, (2 * focal / wide)[:, None]), 1)


def bbox_info(center: Tensor, side: Tensor, image: Tensor, focal: Tensor) -> Tensor:
    """CameraHMR's condition (B, 3): the box's place and side in units of the focal length; arguments as above."""
    return torch.cat((center - image / 2, side[:, None]), 1) / focal[:, None]


def focal_length(vertical_fov: Tensor, height: Tensor) -> Tensor:
    """Focal length (B,) in pixels of images `height` (B,) pixels high that span `vertical_fov` (B,) radians."""
    return height / (2 * torch.tan(vertical_fov / 2))
