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
from scipy.ndimage import binary_erosion
from torch import Tensor

from compress.tokens import DROPPED, Tokens
from hmr.body.camera import FOCAL
from hmr.body.model import BodyModel
from hmr.data.sample import Sample
from hmr.models.head import HMROutput
from hmr.world.raster import draw_solid

Picture = NDArray[np.uint8]  # (H, W, 3)
SKIN = {"original": (86, 180, 233), "compressed": (230, 159, 0)}  # Okabe and Ito's sky blue and orange
LIGHT = np.array([-0.3, -0.5, -0.8], np.float32) / np.float32(0.99)  # from the camera's upper left
OPACITY = 0.85  # of a mesh
SCALE = 2  # token pictures are drawn this much larger, so that borders are thin
MASK, FORCED = (240, 228, 66), (213, 94, 0)  # yellow and vermilion


def tokens_drawn(sample: Sample, tokens: Tokens, index: int) -> Picture:
    """The crop as frame `index` of `tokens` stands for it (2 H, 2 W, 3), as Bolya et al. 2023 draw it.

    A token of one patch shows its pixels; patches that share a token have their mean colour and one outline, which is
    white, or red where a patch of the person is among them; dropped patches are crossed out on grey. The outline of the
    person mask is drawn over it.
    """
    rows, columns = tokens.grid
    patch = sample.image.shape[0] // rows
    source = tokens.source[index].reshape(rows, columns).cpu().numpy()  # (N0,) -> (rows, columns)
    image = sample.image.astype(np.float32)
    cell = source.repeat(patch, 0).repeat(patch, 1)  # (H, W)
    for token in np.unique(source):
        here = cell == token
        if token == DROPPED:
            image[here] = 205
        elif here.sum() > patch * patch:
            image[here] = image[here].mean(0)
    drawn = image.clip(0, 255).astype(np.uint8).repeat(SCALE, 0).repeat(SCALE, 1)
    crossed(drawn, source)
    outlined(drawn, source, tokens.protected[index].cpu().numpy())
    if sample.mask is not None:
        mask = sample.mask.repeat(SCALE, 0).repeat(SCALE, 1)
        drawn[mask & ~binary_erosion(mask, iterations=2, border_value=1)] = MASK
    return drawn


def crossed(drawn: Picture, source: NDArray[np.int64]) -> None:
    """Put a diagonal through every dropped patch, in place."""
    side = len(drawn) // len(source)
    step = np.arange(side)
    for row, column in zip(*np.nonzero(source == DROPPED), strict=True):
        drawn[row * side + step, column * side + step] = 140


def outlined(drawn: Picture, source: NDArray[np.int64], protected: NDArray[np.bool_]) -> None:
    """Lines where a merged token meets another one, in place; red where it is `protected` (N,)."""
    size = np.bincount(source[source != DROPPED], minlength=len(protected))
    shared = (source != DROPPED) & (size[source.clip(0)] > 1)
    side, line = len(drawn) // len(source), slice(0, 2)
    for row, column in zip(*np.nonzero(shared), strict=True):
        cell = drawn[row * side : (row + 1) * side, column * side : (column + 1) * side]  # (side, side, 3)
        edges = {(-1, 0): cell[line], (1, 0): cell[::-1][line], (0, -1): cell[:, line], (0, 1): cell[:, ::-1][:, line]}
        for (down, right), edge in edges.items():
            r, c = row + down, column + right
            within = 0 <= r < source.shape[0] and 0 <= c < source.shape[1]
            if not within or source[r, c] != source[row, column]:
                edge[:] = FORCED if protected[source[row, column]] else 255


def counted(tokens: Tokens, index: int) -> tuple[int, int, int, int]:
    """Of frame `index`: tokens that are one patch, tokens that are several, patches in those, patches that are gone."""
    source = tokens.source[index].cpu().numpy()
    size = np.bincount(source[source != DROPPED])
    return int((size == 1).sum()), int((size > 1).sum()), int(size[size > 1].sum()), int((source == DROPPED).sum())


def body_drawn(sample: Sample, body: BodyModel, output: HMROutput, index: int, who: str) -> Picture:
    """The crop with the mesh that a model sees in it, frame `index` of its `output`, under the crop's own camera."""
    chosen = slice(index, index + 1)
    with torch.no_grad():
        posed = body(output.rotations[chosen].float(), output.betas[chosen].float())
    vertices = (posed.vertices[0].cpu() + place(output.camera[index].float().cpu(), sample)).numpy().astype(np.float32)
    faces = body.faces.cpu().numpy().astype(np.int32)
    image = sample.image.astype(np.float32)
    colours = np.tile(np.array(SKIN[who], np.float32), (len(vertices), 1))
    draw_solid(image, vertices, faces, focal_of(sample), colours, LIGHT, 0.35)
    seen = OPACITY * image + (1 - OPACITY) * sample.image  # the person shows through
    return seen.round().clip(0, 255).astype(np.uint8)


def place(camera: Tensor, sample: Sample) -> Tensor:
    """camera (3,) = (s, tx, ty) -> where the body's origin lies in the crop's camera (3,) m: depth 2 f / (H s)."""
    height = len(sample.image)
    depth = 2 * focal_of(sample) / (height * camera[0].clamp_min(0.05))
    return torch.stack((camera[1], camera[2], depth))


def focal_of(sample: Sample) -> float:
    """Pixels; the user's own pictures come without one, and are drawn as HMR2.0 draws them."""
    return FOCAL if sample.focal is None else sample.focal


def data_uri(picture: Picture, kind: Literal["png", "jpeg"] = "png") -> str:
    """The picture inside an address; a JPEG is a tenth as large, for pages of many."""
    stream = BytesIO()
    Image.fromarray(picture).save(stream, kind, optimize=True, quality=85)
    return f"data:image/{kind};base64," + base64.b64encode(stream.getvalue()).decode()


def spread(count: int, wanted: int) -> Sequence[int]:
    """At most `wanted` of `count` indices, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(wanted, count)).round().astype(int)).tolist()
