"""Drawings over crops for reports: which tokens were merged or dropped, and what bodies two models see."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from compress.tokens import DROPPED, Tokens
from hmr import render
from hmr.body import BodyModel
from hmr.camera import FOCAL
from hmr.data.view import Sample
from hmr.head import HMROutput
from hmr.vit import PATCH

Picture = NDArray[np.uint8]  # (H, W, 3)
SKIN = {"original": (86, 180, 233), "compressed": (230, 159, 0)}  # Okabe and Ito's sky blue and orange
LIGHT = np.array([-0.3, -0.5, -0.8], np.float32) / np.float32(0.99)  # from the camera's upper left
SCALE = 2  # token pictures are drawn this much larger, so that borders are thin


def masked(sample: Sample) -> Picture:
    """The crop with all but the person mask faded."""
    faded = (255 - (255 - sample.image.astype(np.int32)) // 4).astype(np.uint8)
    return np.where(sample.mask[..., None], sample.image, faded)


def tokens_drawn(sample: Sample, tokens: Tokens, index: int) -> Picture:
    """The crop as frame `index` of `tokens` stands for it (2 H, 2 W, 3), as Bolya et al. 2023 draw it.

    A token of one patch shows its pixels; patches that share a token have their mean colour and one outline; dropped
    patches are crossed out on grey.
    """
    rows, columns = tokens.grid
    source = tokens.source[index].reshape(rows, columns).numpy()  # (N0,) -> (rows, columns)
    image = sample.image.astype(np.float32)
    cell = source.repeat(PATCH, 0).repeat(PATCH, 1)  # (H, W)
    for token in np.unique(source):
        here = cell == token
        if token == DROPPED:
            image[here] = 205
        elif here.sum() > PATCH * PATCH:
            image[here] = image[here].mean(0)
    drawn = image.clip(0, 255).astype(np.uint8).repeat(SCALE, 0).repeat(SCALE, 1)
    crossed(drawn, source)
    return outlined(drawn, source)


def crossed(drawn: Picture, source: NDArray[np.int64]) -> None:
    """Put a diagonal through every dropped patch, in place."""
    side = PATCH * SCALE
    step = np.arange(side)
    for row, column in zip(*np.nonzero(source == DROPPED), strict=True):
        drawn[row * side + step, column * side + step] = 140


def outlined(drawn: Picture, source: NDArray[np.int64]) -> Picture:
    """White lines where a merged token meets another one."""
    size = np.bincount(source[source != DROPPED], minlength=1)
    shared = (source != DROPPED) & (size[source.clip(0)] > 1)
    side = PATCH * SCALE
    for row, column in zip(*np.nonzero(shared), strict=True):
        y, x = row * side, column * side
        for dy, dx, edge in ((-1, 0, np.s_[y, x : x + side]), (1, 0, np.s_[y + side - 1, x : x + side]),
                             (0, -1, np.s_[y : y + side, x]), (0, 1, np.s_[y : y + side, x + side - 1])):  # fmt: skip
            r, c = row + dy, column + dx
            inside = 0 <= r < source.shape[0] and 0 <= c < source.shape[1]
            if not inside or source[r, c] != source[row, column]:
                drawn[edge] = 255
    return drawn


def body_drawn(sample: Sample, body: BodyModel, output: HMROutput, index: int, who: str) -> Picture:
    """The crop with the mesh that a model sees in it, frame `index` of its `output`, under the crop's own camera."""
    chosen = slice(index, index + 1)
    with torch.no_grad():
        posed = body(output.rotations[chosen].float(), output.betas[chosen].float())
    vertices = (posed.vertices[0].cpu() + place(output.camera[index].float().cpu(), sample)).numpy().astype(np.float32)
    faces = body.faces.cpu().numpy().astype(np.int64)
    height, width = sample.mask.shape
    image = sample.image.astype(np.float32)
    face_id = np.full((height, width), render.NO_FACE, np.int32)
    bary, near = np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.float32)
    render.rasterise(vertices, faces, focal_of(sample), face_id, bary, near, 0)
    colours = np.tile(np.array(SKIN[who], np.float32), (len(vertices), 1))
    normals = render.vertex_normals(vertices, faces)
    render.shade(image, face_id, bary, 0, faces, normals, colours, LIGHT, 0.35)
    return image.clip(0, 255).astype(np.uint8)


def place(camera: Tensor, sample: Sample) -> Tensor:
    """camera (3,) = (s, tx, ty) -> where the body's origin lies in the crop's camera (3,) m: depth 2 f / (H s)."""
    height = sample.mask.shape[0]
    depth = 2 * focal_of(sample) / (height * camera[0].clamp_min(0.05))
    return torch.stack((camera[1], camera[2], depth))


def focal_of(sample: Sample) -> float:
    """Pixels; the user's own pictures come without one, and are drawn as HMR2.0 draws them."""
    return float(getattr(sample, "focal", FOCAL))


def data_uri(picture: Picture, kind: Literal["png", "jpeg"] = "png") -> str:
    """The picture inside an address; a JPEG is a tenth as large, for pages of many."""
    stream = BytesIO()
    Image.fromarray(picture).save(stream, kind, optimize=True, quality=85)
    return f"data:image/{kind};base64," + base64.b64encode(stream.getvalue()).decode()


def spread(count: int, wanted: int) -> Sequence[int]:
    """At most `wanted` of `count` indices, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(wanted, count)).round().astype(int)).tolist()
