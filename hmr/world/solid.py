"""A mesh of plain vertex colours under one light, for reports: a recovered body over a photograph, a pose on a sheet."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hmr.world import geometry, raster

Array = NDArray[np.float32]
NOWHERE = np.zeros(3, np.float32)


def draw_solid(
    image: Array, vertices: Array, faces: NDArray[np.int32], focal: float, colours: Array, light: Array, ambient: float
) -> None:
    """Draw a mesh over image (H,W,3), in place: vertices (V,3) m in camera axes (x right, y down, z forward), colours
    (V,3) in the image's units, Lambert's law under `light` (3,), a unit vector towards it."""
    height, width = image.shape[:2]
    count = np.zeros(len(vertices), np.float32)
    flat = np.eye(3, dtype=np.float32)
    vertices = np.ascontiguousarray(vertices, np.float32)
    screen = geometry.project(vertices, flat, NOWHERE, focal, width, height, count)
    face_id = np.full((height, width), raster.NO_FACE, np.int32)
    bary, near = np.empty((height, width, 2), np.float32), np.zeros((height, width), np.float32)
    both_sides = np.zeros(len(faces), bool)
    raster.rasterise(screen, count, faces, both_sides, face_id, bary, near)
    seen = face_id >= 0
    corners, share = faces[face_id[seen]], bary[seen]
    share = np.concatenate([share, 1 - share.sum(1, keepdims=True)], 1)[..., None]  # (P, 3, 1)
    normals = (geometry.vertex_normals(vertices, faces)[corners] * share).sum(1)
    lit = ambient + (1 - ambient) * np.maximum(normals @ light, 0)[:, None]
    image[seen] = (colours[corners] * share).sum(1) * lit
