"""Calibrated cameras: points of the world to pixels, pixels to rays, and Qualisys' calibration files.

Axes of a camera: x right, y down, z forward, metres. Pixel centres lie at +0.5, as everywhere in fasthmr. Lenses bend
as in Brown, "Decentering distortion of lenses", 1966, with two radial and two tangential coefficients. Tensors are
float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from xml.etree import ElementTree

import torch
from torch import Tensor

from compress.errors import BadInput

SUBPIXELS = 64.0  # of a pixel, Qualisys' unit of intrinsics
FLIP = torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)  # Qualisys' cameras have y up and look along -z
LONGEST = 1_000_000  # bytes of a calibration file; one of four cameras has 5 kB


@dataclass(frozen=True)
class Camera:
    """One camera, or V of them where each field has V in front: a point X of the world, in metres, lies at
    rotation X + translation in the camera's axes."""

    rotation: Tensor  # (3, 3)
    translation: Tensor  # (3,) m
    focal: Tensor  # (2,) pixels
    centre: Tensor  # (2,) pixels, the principal point
    distortion: Tensor  # (4,) two radial coefficients, two tangential

    def __getitem__(self, index: int | Sequence[int]) -> Camera:
        """One of V cameras, or some."""
        return Camera(*(getattr(self, field.name)[index] for field in fields(self)))

    def __len__(self) -> int:
        return len(self.rotation)

    def seen(self, points: Tensor) -> Tensor:
        """Points (P, 3) m of the world in the camera's axes; of V cameras (V, P, 3)."""
        return points @ self.rotation.mT + self.translation[..., None, :]

    def project(self, points: Tensor) -> Tensor:
        """Pixels (P, 2) of points (P, 3) m of the world, which lie before the camera; of V cameras (V, P, 2)."""
        seen = self.seen(points)
        return self.pixels(seen[..., :2] / seen[..., 2:])

    def pixels(self, rays: Tensor) -> Tensor:
        """Pixels (..., P, 2) of the rays (x, y, 1), given as (..., P, 2) in the camera's axes."""
        return self.focal[..., None, :] * self.bent(rays) + self.centre[..., None, :]

    def rays(self, pixels: Tensor, steps: int = 20) -> Tensor:
        """What pixels (..., P, 2) are pictures of, (x, y, 1) given as (..., P, 2), by fixed-point iteration."""
        target = (pixels - self.centre[..., None, :]) / self.focal[..., None, :]
        rays = target
        for _ in range(steps):
            off = self.bent(rays) - target
            rays = rays - off
            if not off.any():  # at once where nothing is bent
                break
        return rays

    def bent(self, rays: Tensor) -> Tensor:
        """Where the lens puts rays (..., P, 2)."""
        k1, k2, p1, p2 = self.distortion[..., None].unbind(-2)  # (1,) each; of V cameras (V, 1)
        x, y = rays.unbind(-1)
        square = x * x + y * y
        radial = 1 + k1 * square + k2 * square * square
        across = x * radial + 2 * p1 * x * y + p2 * (square + 2 * x * x)
        down = y * radial + p1 * (square + 2 * y * y) + 2 * p2 * x * y
        return torch.stack([across, down], -1)


def read_qualisys(text: bytes, name: str) -> Camera:
    """The V cameras of a Qualisys calibration (`.qca.txt`), in its order; `name` is for messages.

    Intrinsics are in 64ths of a pixel, places in mm, and pixel centres at whole numbers. Raises BadInput.
    """
    if len(text) > LONGEST or b"<!" in text:  # no entities: they can grow without end
        raise BadInput(f"{name}: too long for a calibration, or with declarations, which none has")
    try:
        found = ElementTree.fromstring(text).findall(".//camera")
        cameras = [_camera(entry.find("transform"), entry.find("intrinsic")) for entry in found]
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise BadInput(f"{name}: no calibration by Qualisys that can be read ({error!r})") from error
    if not cameras:
        raise BadInput(f"{name}: holds no cameras")
    return Camera(*(torch.stack([getattr(one, field.name) for one in cameras]) for field in fields(Camera)))


def _camera(transform: ElementTree.Element | None, intrinsic: ElementTree.Element | None) -> Camera:
    if transform is None or intrinsic is None:
        raise ValueError("a camera without transform or intrinsic")
    turn = _numbers(transform.attrib, *(f"r{i}{j}" for i in (1, 2, 3) for j in (1, 2, 3)))
    place = _numbers(transform.attrib, "x", "y", "z") / 1000
    rotation = FLIP[:, None] * turn.view(3, 3)  # (9,) -> (3, 3)
    if (rotation @ rotation.mT - torch.eye(3)).abs().max() > 1e-3:
        raise ValueError("r11..r33 are no rotation")
    focal = _numbers(intrinsic.attrib, "focalLengthU", "focalLengthV") / SUBPIXELS
    centre = _numbers(intrinsic.attrib, "centerPointU", "centerPointV") / SUBPIXELS + 0.5
    radial = _numbers(intrinsic.attrib, "radialDistortion1", "radialDistortion2")
    tangential = _numbers(intrinsic.attrib, "tangentalDistortion1", "tangentalDistortion2")
    return Camera(rotation, -rotation @ place, focal, centre, torch.cat([radial, tangential]))


def _numbers(attributes: Mapping[str, str], *keys: str) -> Tensor:
    values = torch.tensor([float(attributes[key]) for key in keys], dtype=torch.float64)
    if not values.isfinite().all():
        raise ValueError(f"{', '.join(keys)} are not finite")
    return values
