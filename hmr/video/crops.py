"""From people in a frame to crops as a model takes them, and from what it says of crops back to the frame's camera.

Axes of a camera: x right, y down, z forward. A camera looks through the middle of its picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from compress.errors import BadInput
from hmr.adapters.adapted import AdaptedModel
from hmr.body.camera import full_translation
from hmr.data.crop import cut, cut_by, cut_mask, window
from hmr.data.real_people.camera import Camera
from hmr.data.real_people.crops import turned
from hmr.data.sample import Array, CropSquare
from hmr.media.boxes import Corners
from hmr.media.shot import Pixels
from hmr.models.model import HMRModel
from hmr.people.finders import Mask

SMALLEST = 0.05  # of the camera's scale s: what is said to be smaller is as far away as this


@dataclass(frozen=True)
class FrameCropper:
    """How crops are cut for a model out of frames of `size` (height, width) by a camera of `focal` pixels."""

    model: HMRModel
    focal: float
    size: tuple[int, int]

    @cached_property
    def camera(self) -> Camera:
        """The frame's camera; the world has its axes."""
        height, width = self.size
        zero = torch.zeros(4, dtype=torch.float64)
        middle = torch.tensor([width / 2, height / 2], dtype=torch.float64)
        return Camera(torch.eye(3, dtype=torch.float64), zero[:3], zero[:2] + self.focal, middle, zero)

    def square(self, box: Corners) -> CropSquare:
        """The square that a plain crop is cut from."""
        left, top, right, bottom = box
        side = self.model.family.box.side(right - left, bottom - top)
        return CropSquare(((left + right) / 2, (top + bottom) / 2), side, self.size, self.focal)

    def turned(self, box: Corners) -> Camera:
        """The camera of a crop, turned to the middle of a box."""
        left, top, right, bottom = box
        corners = torch.tensor([[left, top], [right, top], [left, bottom], [right, bottom]], dtype=torch.float64)
        return turned(self.camera, corners, self.model.family.box.side, self.model.crop_size)

    def condition(self, box: Corners) -> Array | None:
        """What the model asks for beside a crop, (3,)."""
        return self.square(box).bbox_info if self.model.needs_condition else None

    def cut(self, image: Pixels, mask: Mask | None, box: Corners) -> tuple[Pixels, Mask | None]:
        """The crop (H, W, 3) around a box, and the mask's. Raises BadInput for a box that cannot be cut."""
        place, shape = self.square(box), self.model.crop_size
        whole = [image] if mask is None else [image, mask.astype(np.uint8) * 255]
        if not self.model.family.turned:
            crops = [cut(each, place.centre, place.side, shape) for each in whole]
        else:
            if not 0 < place.side <= 16 * max(self.size):  # as `cut` has it
                raise BadInput(f"a box of {place.side:g} pixels cannot be cut out of a frame of {max(self.size)}")
            crops = [seen(each, self.camera, self.turned(box), shape) for each in whole]
        return crops[0], None if mask is None else crops[1] > 127

    def placed(self, boxes: NDArray[Any], rotations: Tensor, camera: Tensor, pelvis: Tensor) -> tuple[Tensor, Tensor]:
        """Rotations (T, J, 3, 3) in the axes of the frame's camera, and where the pelvis is there (T, 3) m.

        Of crops around boxes (T, 4) that a model saw these rotations in, as `camera` (T, 3) = s, tx, ty;
        pelvis (T, 3) m: its place on the body as posed.
        """
        camera = torch.cat([camera[:, :1].clamp_min(SMALLEST), camera[:, 1:]], 1)
        rows = [(float(a), float(b), float(c), float(d)) for a, b, c, d in boxes]
        if not self.model.family.turned:
            places = [self.square(row) for row in rows]
            centre, side = torch.tensor([p.centre for p in places]), torch.tensor([p.side for p in places])
            image = torch.tensor(self.size[::-1]).expand(len(rows), 2)
            at = full_translation(camera, centre, side, image, torch.full((len(rows),), self.focal))
            return rotations, at + pelvis
        cameras = [self.turned(row) for row in rows]
        back = torch.stack([each.rotation.mT for each in cameras]).to(rotations)  # (T, 3, 3)
        focal = torch.stack([each.focal[0] for each in cameras]).to(camera)
        depth = 2 * focal / (self.model.crop_size[0] * camera[:, 0])
        at = torch.cat([camera[:, 1:], depth[:, None]], 1) + pelvis
        return torch.cat([back[:, None] @ rotations[:, :1], rotations[:, 1:]], 1), (back @ at[..., None])[..., 0]


@dataclass(frozen=True)
class AdapterCropper:
    """How an adapter cuts crops, by itself."""

    model: AdaptedModel

    def condition(self, box: Corners) -> None:
        """Its model asks for nothing beside a crop."""

    def cut(self, image: Pixels, mask: Mask | None, box: Corners) -> tuple[Pixels, Mask | None]:
        """The crop (H, W, 3) around a box, and the mask's. Raises BadInput where they are not what was promised."""
        cutter, size = self.model.adapter.crops, self.model.crop_size
        crop = cut_by(cutter, image, box, size)
        return crop, None if mask is None else cut_mask(cutter, mask, box, size)


def cropper_of(model: Any, focal: float, size: tuple[int, int]) -> FrameCropper | AdapterCropper:
    """How crops are cut for a model out of frames of `size` (height, width) by a camera of `focal` pixels."""
    return AdapterCropper(model) if isinstance(model, AdaptedModel) else FrameCropper(model, focal, size)


def seen(image: NDArray[np.uint8], camera: Camera, crop: Camera, size: tuple[int, int]) -> NDArray[np.uint8]:
    """`hmr.data.real_people.crops.taken` for lenses that do not bend, where the two pictures are a homography apart:
    the crop of `size` (height, width) out of a picture (H, W, 3) or a mask (H, W) in 0..255."""
    finer = math.ceil(float((camera.focal / crop.focal).max()) / 2)  # bilinear sampling spans two pixels
    shrunk = torch.diag(torch.tensor([1 / finer, 1 / finer, 1.0], dtype=torch.float64))
    there = intrinsics(camera) @ camera.rotation @ crop.rotation.mT @ torch.linalg.inv(intrinsics(crop)) @ shrunk
    shape, way = (size[1] * finer, size[0] * finer), Image.Transform.PERSPECTIVE
    edges = there.numpy() @ [[0, shape[0], 0, shape[0]], [0, 0, shape[1], shape[1]], [1, 1, 1, 1]]  # (3, 4)
    if not (edges[2] > 0).all():  # a crop that reaches behind the camera: of all of the picture
        edges = np.array([[0, image.shape[1]], [0, image.shape[0]], [1, 1]])
    left, top, right, bottom = window((edges[:2] / edges[2]).T, image.shape[:2])  # PIL copies what it is given
    there = torch.tensor([[1, 0, -left], [0, 1, -top], [0, 0, 1]], dtype=torch.float64) @ there
    numbers = tuple((there / there[2, 2]).flatten()[:8].tolist())
    out = Image.fromarray(image[top:bottom, left:right]).transform(shape, way, numbers, Image.Resampling.BILINEAR)
    return np.asarray(out.reduce(finer))


def intrinsics(camera: Camera) -> Tensor:
    """(3, 3): rays (x, y, 1) to pixels."""
    (fx, fy), (cx, cy) = camera.focal.tolist(), camera.centre.tolist()
    return torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)
