"""Crops as a camera turned to the person takes them.

A plain crop from the side of a picture shows a person turned by as much as their place is off the axis: labels in the
picture's axes do not fit what is seen. The camera of such a crop has the same place, looks through the crop's middle,
and its lens does not bend; it is as much rolled as the picture's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

from hmr.data.real_people.camera import Camera

Side = Callable[[float, float], float]  # width and height of a box -> side of its square, as families have it


def toward(ray: Tensor) -> Tensor:
    """The smallest rotation (3, 3) that takes the ray (x, y, 1), given as (2,), to +z (Rodrigues' formula)."""
    x, y, z = torch.cat([ray, ray.new_ones(1)]) / torch.hypot(ray.norm(), ray.new_ones(()))
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, zero, -x, zero, zero, -y, x, y, zero]).view(3, 3)  # (9,) -> (3, 3)
    return torch.eye(3, dtype=ray.dtype) + cross + cross @ cross / (1 + z)


def turned(camera: Camera, pixels: Tensor, side: Side, size: tuple[int, int]) -> Camera:
    """The camera of the crop, of `size` (height, width), around the box of pixels (P, 2) of a picture by `camera`."""
    height, width = size
    rays = camera.rays(pixels)
    rays = torch.cat([rays, torch.ones_like(rays[:, :1])], 1)  # (P, 3)
    rotation = torch.eye(3, dtype=rays.dtype)
    for _ in range(4):  # the middle of the box moves a little when the camera turns to it
        seen = rays @ rotation.mT
        low, high = torch.aminmax(seen[:, :2] / seen[:, 2:], dim=0)
        rotation = toward((low + high) / 2) @ rotation
    focal = camera.focal.mean()
    across, down = (focal * (high - low)).tolist()
    return Camera(
        rotation @ camera.rotation,
        rotation @ camera.translation,
        (height * focal / side(across, down)).expand(2),
        focal.new_tensor([width / 2, height / 2]),
        torch.zeros_like(camera.distortion),
    )


def taken(image: NDArray[np.uint8], camera: Camera, crop: Camera, size: tuple[int, int]) -> NDArray[np.uint8]:
    """What `crop`, a camera at the place of `camera`, sees of a picture (H, W, 3) or mask (H, W) in 0..255, as `size`
    (height, width). Black where the picture ends; where it shrinks, pixels are averaged."""
    pixels = torch.tensor(image.reshape(*image.shape[:2], -1)).permute(2, 0, 1)[None].float()  # (1, C, H, W)
    finer = math.ceil(float((camera.focal / crop.focal).max()) / 2)  # bilinear sampling spans two pixels
    places = sources(camera, finely(crop, finer), (size[0] * finer, size[1] * finer))
    extent = places.new_tensor([image.shape[1], image.shape[0]])
    grid = (2 * places / extent - 1).float()[None]
    seen = avg_pool2d(grid_sample(pixels, grid, align_corners=False), finer)[0]
    shape = (*size, *image.shape[2:])
    return seen.round().byte().permute(1, 2, 0).reshape(shape).numpy()  # (H, W, 1) -> (H, W) of a mask


def sources(camera: Camera, crop: Camera, size: tuple[int, int]) -> Tensor:
    """Where in the picture of `camera` each pixel's middle of a crop of `size` (height, width) lies: (H, W, 2)."""
    rows, columns = (torch.arange(count, dtype=torch.float64) + 0.5 for count in size)
    pixels = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)
    rays = crop.rays(pixels.flatten(0, 1))  # (H, W, 2) -> (H * W, 2)
    rays = torch.cat([rays, torch.ones_like(rays[:, :1])], 1) @ (camera.rotation @ crop.rotation.mT).mT
    return camera.pixels(rays[:, :2] / rays[:, 2:]).view(*size, 2)  # (H * W, 2) -> (H, W, 2)


def places_in(crop: Camera, camera: Camera, pixels: Tensor) -> Tensor:
    """Where in a crop pixels (P, 2) of the picture of `camera` lie, the way back from `sources`."""
    rays = camera.rays(pixels)
    rays = torch.cat([rays, torch.ones_like(rays[:, :1])], 1) @ (crop.rotation @ camera.rotation.mT).mT
    return crop.pixels(rays[:, :2] / rays[:, 2:])


def finely(camera: Camera, times: int) -> Camera:
    """The same camera with pixels `times` as small."""
    return replace(camera, focal=camera.focal * times, centre=camera.centre * times)
