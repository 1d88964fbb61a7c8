"""What a mesh's samples look like: numba kernels that evaluate materials by rest coordinates. Light is linear.

A material is a row of numbers; `fabric` draws them.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from hmr.world.geometry import Scalar
from hmr.world.textures import (
    FACE,
    FACE_SPAN,
    GRAIN_BLOTCH,
    GRAIN_FOLD,
    GRAIN_WEAR,
    GRAIN_WEAVE,
    PATTERNS,
    STRANDS,
    TILE,
)

Array = NDArray[np.float32]
Faces = NDArray[np.int32]
Bytes = NDArray[np.uint8]

CLOTH, SKIN, HAIR = 0, 1, 2
PLAIN, RINGS, LINES, CHECKS, PATTERN, SIDE_STRIPE = range(6)
NOSE, HEAD, SIDE_SEAM = 0.697, 0.116, 0.075  # m, the open body's height of the nose, depth of the head joint and hips
# columns of a material; colours take three
KIND, FIRST, SECOND, THIRD, FIGURE, TILE_ID, PERIOD, DUTY, WEAVE, WEAR, FOLDS, SHIFT_U, SHIFT_V = (
    0, 1, 4, 7, 10, 11, 12, 13, 14, 15, 16, 17, 18,
)  # fmt: skip
PRINT, PRINT_X, PRINT_Y, PRINT_SIZE, PRINT_BACK, BAND_LOW, BAND_HIGH, HAIRLINE, FACE_ID, COLUMNS = (
    19, 20, 21, 22, 23, 24, 25, 26, 27, 28,
)  # fmt: skip


@numba.njit(cache=True, fastmath=True)
def paint(
    image: Array,
    cover: Array,
    face_id: Faces,
    bary: Array,
    screen: Array,
    faces: Faces,
    rest: Array,
    light: Array,
    material: NDArray[np.int16],
    axis: Bytes,
    materials: Array,
    tiles: Bytes,
    prints: Bytes,
    faces_seen: Bytes,
) -> None:
    """Add what the z-buffer (2H,2W) shows to image (H,W,3), and the share it covers to cover (H,W).

    rest (V,3) m are coordinates that surfaces are painted by, light (V,4) what `vertex_light` found, material and axis
    (F,) the row of `materials` and the plane of rest coordinates that a face is painted in.
    """
    colour = np.empty(3, np.float32)
    height, width = cover.shape
    for y in range(height):
        for x in range(width):
            first = face_id[2 * y, 2 * x]
            alike = first >= 0
            for k in range(1, 4):
                t = face_id[2 * y + k // 2, 2 * x + k % 2]
                alike = alike and t >= 0 and material[t] == material[first]
            # within one material two samples of the four do, across each other
            share = np.float32(0.5 if alike else 0.25)
            for k in range(0, 4, 3 if alike else 1):
                i, j = 2 * y + k // 2, 2 * x + k % 2
                t = face_id[i, j]
                if t < 0:
                    continue
                a, b, c = faces[t, 0], faces[t, 1], faces[t, 2]
                w0, w1 = bary[i, j, 0], bary[i, j, 1]
                w2 = 1 - w0 - w1
                px = w0 * rest[a, 0] + w1 * rest[b, 0] + w2 * rest[c, 0]
                py = w0 * rest[a, 1] + w1 * rest[b, 1] + w2 * rest[c, 1]
                pz = w0 * rest[a, 2] + w1 * rest[b, 2] + w2 * rest[c, 2]
                shine = surface(colour, materials[material[t]], axis[t], px, py, pz, tiles, prints, faces_seen)
                ux, uy = screen[b, 0] - screen[a, 0], screen[b, 1] - screen[a, 1]
                vx, vy = screen[c, 0] - screen[a, 0], screen[c, 1] - screen[a, 1]
                dim = share * (np.float32(0.55) if ux * vy - vx * uy > 0 else np.float32(1.0))  # cloth from inside
                gloss = w0 * light[a, 3] + w1 * light[b, 3] + w2 * light[c, 3]
                for n in range(3):
                    value = w0 * light[a, n] + w1 * light[b, n] + w2 * light[c, n]
                    image[y, x, n] += dim * (shine * colour[n] * value + gloss)
                cover[y, x] += share


@numba.njit(cache=True, fastmath=True)
def surface(
    colour: Array,
    m: Array,
    axis: int,
    px: Scalar,
    py: Scalar,
    pz: Scalar,
    tiles: Bytes,
    prints: Bytes,
    faces_seen: Bytes,
) -> Scalar:
    """Colour (3,) of a material at rest coordinates m, written in place; returns what folds make of the light there."""
    u, v = px, py
    if axis == 1:
        u = pz
    elif axis == 2:
        u, v = py, px
    elif axis == 3:
        u, v = pz, px
    elif axis == 4:
        v = pz
    if m[KIND] == HAIR:
        hair(colour, m, u + pz, v, tiles)
        return np.float32(1)
    if m[KIND] == SKIN:
        skin(colour, m, px, py, pz, u, v, tiles, faces_seen)
        return np.float32(1)
    cloth(colour, m, axis, px, py, pz, u, v, tiles, prints)
    return max(1 + m[FOLDS] * texel(tiles, GRAIN_FOLD, m, u, v, np.float32(260)), np.float32(0.2))


@numba.njit(cache=True, fastmath=True)
def texel(tiles: Bytes, tile: int, m: Array, u: Scalar, v: Scalar, scale: Scalar) -> Scalar:
    """One of the tiles, of `scale` pixels a metre at u, v m, moved by the material's own shift: -1..1."""
    # tiles are read at positive coordinates
    i, j = int((v + m[SHIFT_V] + 8) * scale) % TILE, int((u + m[SHIFT_U] + 8) * scale) % TILE
    return (np.float32(tiles[tile, i, j]) - np.float32(128)) / np.float32(128)


@numba.njit(cache=True, fastmath=True)
def hair(colour: Array, m: Array, u: Scalar, v: Scalar, tiles: Bytes) -> None:
    """Strands that run down."""
    i, j = int((v + m[SHIFT_V] + 8) * 160) % TILE, int((u + m[SHIFT_U] + 8) * 500) % TILE
    level = np.float32(tiles[STRANDS, i, j]) / np.float32(128)
    for k in range(3):
        colour[k] = m[FIRST + k] * level * level


@numba.njit(cache=True, fastmath=True)
def skin(
    colour: Array, m: Array, px: Scalar, py: Scalar, pz: Scalar, u: Scalar, v: Scalar, tiles: Bytes, faces_seen: Bytes
) -> None:
    """Blotched skin; on the head a face in front and hair above a line from the brow to the neck."""
    blotch = m[WEAVE] * texel(tiles, GRAIN_BLOTCH, m, u, v, np.float32(300))
    for k in range(3):  # blood shows least in red
        colour[k] = m[FIRST + k] * (1 + blotch * (np.float32(0.6) if k == 0 else np.float32(1.2)))
    up, ahead = py - np.float32(NOSE), pz - np.float32(HEAD)
    if up < np.float32(-0.13) or px > np.float32(0.13) or px < np.float32(-0.13):
        return
    if up > m[HAIRLINE] + np.float32(0.9) * ahead and up > np.float32(-0.06):
        for k in range(3):
            colour[k] = m[SECOND + k]
    elif ahead > np.float32(0.02):
        i = int((np.float32(FACE_SPAN[0] / 2) - up) * np.float32(FACE[0] / FACE_SPAN[0]))
        j = int((px + np.float32(FACE_SPAN[1] / 2)) * np.float32(FACE[1] / FACE_SPAN[1]))
        if 0 <= i < FACE[0] and 0 <= j < FACE[1]:
            which = int(m[FACE_ID])
            share = faces_seen[which, i, j, 3] / np.float32(255)
            for k in range(3):
                level = faces_seen[which, i, j, k] / np.float32(255)
                colour[k] += share * (level * level - colour[k])


@numba.njit(cache=True, fastmath=True)
def figure(m: Array, axis: int, pz: Scalar, u: Scalar, v: Scalar, tiles: Bytes) -> Scalar:
    """How much of its second colour a cloth shows, 0..1."""
    su, sv = u + m[SHIFT_U] + 8, v + m[SHIFT_V] + 8
    kind = m[FIGURE]
    if kind == RINGS:
        return np.float32((sv / m[PERIOD]) % 1 < m[DUTY])
    if kind == LINES:
        return np.float32((su / m[PERIOD]) % 1 < m[DUTY])
    if kind == CHECKS:
        return (np.float32((su / m[PERIOD]) % 1 < m[DUTY]) + np.float32((sv / m[PERIOD]) % 1 < m[DUTY])) / 2
    if kind == PATTERN:
        scale = TILE / (np.float32(8) * m[PERIOD])
        i, j = int(sv * scale) % TILE, int(su * scale) % TILE
        return np.float32(tiles[PATTERNS + int(m[TILE_ID]), i, j]) / np.float32(255)
    if kind == SIDE_STRIPE:
        return np.float32((axis == 1 or axis == 3) and abs(pz - np.float32(SIDE_SEAM)) < m[PERIOD] / 4)
    return np.float32(0)


@numba.njit(cache=True, fastmath=True)
def cloth(
    colour: Array,
    m: Array,
    axis: int,
    px: Scalar,
    py: Scalar,
    pz: Scalar,
    u: Scalar,
    v: Scalar,
    tiles: Bytes,
    prints: Bytes,
) -> None:
    """A figured cloth, a band across it, a print on chest or back, weave and wear over all."""
    mix = figure(m, axis, pz, u, v, tiles)
    for k in range(3):
        colour[k] = m[FIRST + k] + mix * (m[SECOND + k] - m[FIRST + k])
    if m[BAND_LOW] < v < m[BAND_HIGH] and axis < 2:
        for k in range(3):
            colour[k] = m[THIRD + k]
    if m[PRINT] >= 0 and axis == 0 and (pz < np.float32(0.06)) == (m[PRINT_BACK] > 0):
        side = -px if m[PRINT_BACK] > 0 else px
        i = int((m[PRINT_Y] - py) / m[PRINT_SIZE] * 24 + 24)
        j = int((side - m[PRINT_X]) / m[PRINT_SIZE] * 24 + 24)
        if 0 <= i < 48 and 0 <= j < 48:
            share = prints[int(m[PRINT]), i, j] / np.float32(255)
            for k in range(3):
                colour[k] += share * (m[THIRD + k] - colour[k])
    level = 1 + m[WEAVE] * texel(tiles, GRAIN_WEAVE, m, u, v, np.float32(200))
    level += m[WEAR] * texel(tiles, GRAIN_WEAR, m, u, v, np.float32(180))
    for k in range(3):
        colour[k] *= max(level, np.float32(0.1))
