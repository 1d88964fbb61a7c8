"""Meshes to samples of a picture: numba kernels on plain arrays, deterministic, single-threaded."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from hmr.world.geometry import project, vertex_normals

Array = NDArray[np.float32]
Faces = NDArray[np.int32]

NO_FACE = -1
NOWHERE = np.zeros(3, np.float32)


@numba.njit(cache=True, fastmath=True)
def rasterise(
    screen: Array, cut: Array, faces: Faces, culled: NDArray[np.bool_], face_id: Faces, bary: Array, near: Array
) -> None:
    """Draw faces (F,3) into a z-buffer: screen (V,3) holds x, y in its pixels and 1 / depth (0: too near to be drawn).

    `face_id` (H,W) gets the face's number, `bary` (H,W,2) its first two perspective-correct barycentric coordinates,
    `near` (H,W) 1 / depth. Where `cut` (V,) is above 0 the cloth is cut off; `culled` (F,) faces show one side only.
    """
    height, width = face_id.shape
    half = np.float32(0.5)
    for t in range(len(faces)):
        a, b, c = faces[t, 0], faces[t, 1], faces[t, 2]
        ia, ib, ic = screen[a, 2], screen[b, 2], screen[c, 2]
        if ia == 0 or ib == 0 or ic == 0:
            continue
        x0, y0, x1, y1, x2, y2 = screen[a, 0], screen[a, 1], screen[b, 0], screen[b, 1], screen[c, 0], screen[c, 1]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if abs(area) < np.float32(1e-6) or (culled[t] and area > 0):
            continue
        left, right = int(np.ceil(min(x0, x1, x2) - half)), int(np.floor(max(x0, x1, x2) - half))
        top, low = int(np.ceil(min(y0, y1, y2) - half)), int(np.floor(max(y0, y1, y2) - half))
        left, right, top, low = max(left, 0), min(right, width - 1), max(top, 0), min(low, height - 1)
        if left > right or top > low:
            continue
        ka, kb, kc = cut[a], cut[b], cut[c]
        if ka > 0 and kb > 0 and kc > 0:
            continue
        whole = ka <= 0 and kb <= 0 and kc <= 0
        inverse = np.float32(1) / area
        step0, step1 = (y1 - y2) * inverse, (y2 - y0) * inverse
        for y in range(top, low + 1):
            py, px = y + half, left + half
            w0 = ((x1 - px) * (y2 - py) - (x2 - px) * (y1 - py)) * inverse
            w1 = ((x2 - px) * (y0 - py) - (x0 - px) * (y2 - py)) * inverse
            for x in range(left, right + 1):
                w2 = 1 - w0 - w1
                if w0 >= 0 and w1 >= 0 and w2 >= 0:
                    depth = w0 * ia + w1 * ib + w2 * ic
                    if depth > near[y, x] and (whole or w0 * ka + w1 * kb + w2 * kc <= 0):
                        near[y, x] = depth
                        face_id[y, x] = t
                        bary[y, x, 0], bary[y, x, 1] = w0 * ia / depth, w1 * ib / depth
                w0 += step0
                w1 += step1


@numba.njit(cache=True)
def shown(face_id: Faces, count: int) -> NDArray[np.bool_]:
    """Pixels (H,W) of which at least two of the four samples (2H,2W) show one of the first `count` faces."""
    height, width = face_id.shape[0] // 2, face_id.shape[1] // 2
    out = np.empty((height, width), np.bool_)
    for y in range(height):
        for x in range(width):
            hits = 0
            for k in range(4):
                t = face_id[2 * y + k // 2, 2 * x + k % 2]
                hits += 0 <= t < count
            out[y, x] = hits >= 2
    return out


def draw_solid(
    image: Array, vertices: Array, faces: NDArray[np.int32], focal: float, colours: Array, light: Array, ambient: float
) -> None:
    """Draw a mesh over image (H,W,3), in place: vertices (V,3) m in camera axes (x right, y down, z forward), colours
    (V,3) in the image's units, Lambert's law under `light` (3,), a unit vector towards it."""
    height, width = image.shape[:2]
    count = np.zeros(len(vertices), np.float32)
    flat = np.eye(3, dtype=np.float32)
    vertices = np.ascontiguousarray(vertices, np.float32)
    screen = project(vertices, flat, NOWHERE, focal, width, height, count)
    face_id = np.full((height, width), NO_FACE, np.int32)
    bary, near = np.empty((height, width, 2), np.float32), np.zeros((height, width), np.float32)
    both_sides = np.zeros(len(faces), bool)
    rasterise(screen, count, faces, both_sides, face_id, bary, near)
    seen = face_id >= 0
    corners, share = faces[face_id[seen]], bary[seen]
    share = np.concatenate([share, 1 - share.sum(1, keepdims=True)], 1)[..., None]  # (P, 3, 1)
    normals = (vertex_normals(vertices, faces)[corners] * share).sum(1)
    lit = ambient + (1 - ambient) * np.maximum(normals @ light, 0)[:, None]
    image[seen] = (colours[corners] * share).sum(1) * lit
