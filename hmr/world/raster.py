"""Meshes and surroundings to pixels: numba kernels on plain arrays, deterministic, single-threaded.

People and things are drawn with 2 x 2 samples a pixel, what lies behind them with one; light is linear, 1 is white.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from hmr.world.geometry import shaded
from hmr.world.textures import FACE, FACE_SPAN, TILE

Array = NDArray[np.float32]
Faces = NDArray[np.int32]
Bytes = NDArray[np.uint8]

NO_FACE = -1
CLOTH, SKIN, HAIR = 0, 1, 2
PLAIN, RINGS, LINES, CHECKS, PATTERN, SIDE_STRIPE = range(6)
NOSE, HEAD = (0.0, 0.697, 0.244), 0.116  # m, the open body's nose, and the depth of its head joint
# columns of a material; colours take three
KIND, FIRST, SECOND, THIRD, FIGURE, TILE_ID, PERIOD, DUTY, WEAVE, WEAR, FOLDS, SHIFT_U, SHIFT_V = (
    0, 1, 4, 7, 10, 11, 12, 13, 14, 15, 16, 17, 18,
)  # fmt: skip
PRINT, PRINT_X, PRINT_Y, PRINT_SIZE, PRINT_BACK, BAND_LOW, BAND_HIGH, HAIRLINE, FACE_ID, COLUMNS = (
    19, 20, 21, 22, 23, 24, 25, 26, 27, 28,
)  # fmt: skip


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
    patterns: Bytes,
    grains: Bytes,
    strands: Bytes,
    prints: Bytes,
    face_pictures: Bytes,
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
                m = materials[material[t]]
                shine = surface(colour, m, axis[t], px, py, pz, patterns, grains, strands, prints, face_pictures)
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
    px: float,
    py: float,
    pz: float,
    patterns: Bytes,
    grains: Bytes,
    strands: Bytes,
    prints: Bytes,
    face_pictures: Bytes,
) -> float:
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
    su, sv = u + m[SHIFT_U] + np.float32(8), v + m[SHIFT_V] + np.float32(8)  # tiles are read at positive coordinates
    if m[KIND] == HAIR:
        level = np.float32(strands[int(sv * 160) % TILE, int((su + pz) * 500) % TILE]) / np.float32(128)
        for k in range(3):
            colour[k] = m[FIRST + k] * level * level
        return np.float32(1)
    if m[KIND] == SKIN:
        blotch = np.float32(grains[2, int(sv * 300) % TILE, int(su * 300) % TILE]) - np.float32(128)
        tone = 1 + m[WEAVE] * blotch / np.float32(128)
        for k in range(3):
            colour[k] = m[FIRST + k] * (1 + (tone - 1) * (np.float32(0.6) if k == 0 else np.float32(1.2)))
        head = py > np.float32(NOSE[1] - 0.13) and abs(px) < np.float32(0.13)
        if head:
            up, ahead = py - np.float32(NOSE[1]), pz - np.float32(HEAD)
            if up > m[HAIRLINE] + np.float32(0.9) * ahead and up > np.float32(-0.06):
                for k in range(3):
                    colour[k] = m[SECOND + k]
            elif ahead > np.float32(0.02):
                i = int((np.float32(FACE_SPAN[0] / 2) - up) * np.float32(FACE[0] / FACE_SPAN[0]))
                j = int((px + np.float32(FACE_SPAN[1] / 2)) * np.float32(FACE[1] / FACE_SPAN[1]))
                if 0 <= i < FACE[0] and 0 <= j < FACE[1]:
                    over = face_pictures[int(m[FACE_ID]), i, j]
                    share = over[3] / np.float32(255)
                    for k in range(3):
                        level = over[k] / np.float32(255)
                        colour[k] += share * (level * level - colour[k])
        return np.float32(1)
    mix = np.float32(0)
    figure = m[FIGURE]
    if figure == RINGS:
        mix = np.float32((sv / m[PERIOD]) % 1 < m[DUTY])
    elif figure == LINES:
        mix = np.float32((su / m[PERIOD]) % 1 < m[DUTY])
    elif figure == CHECKS:
        mix = (np.float32((su / m[PERIOD]) % 1 < m[DUTY]) + np.float32((sv / m[PERIOD]) % 1 < m[DUTY])) / 2
    elif figure == PATTERN:
        scale = TILE / (np.float32(8) * m[PERIOD])
        mix = np.float32(patterns[int(m[TILE_ID]), int(sv * scale) % TILE, int(su * scale) % TILE]) / np.float32(255)
    elif figure == SIDE_STRIPE:
        mix = np.float32((axis == 1 or axis == 3) and abs(pz - np.float32(0.075)) < m[PERIOD] / 4)
    for k in range(3):
        colour[k] = m[FIRST + k] + mix * (m[SECOND + k] - m[FIRST + k])
    if m[BAND_LOW] < v < m[BAND_HIGH] and axis < 2:
        for k in range(3):
            colour[k] = m[THIRD + k]
    if m[PRINT] >= 0 and (axis == 0) and (pz < np.float32(0.06)) == (m[PRINT_BACK] > 0):
        side = -px if m[PRINT_BACK] > 0 else px
        i = int((m[PRINT_Y] - py) / m[PRINT_SIZE] * 24 + 24)
        j = int((side - m[PRINT_X]) / m[PRINT_SIZE] * 24 + 24)
        if 0 <= i < 48 and 0 <= j < 48:
            share = prints[int(m[PRINT]), i, j] / np.float32(255)
            for k in range(3):
                colour[k] += share * (m[THIRD + k] - colour[k])
    weave = np.float32(grains[0, int(sv * 200) % TILE, int(su * 200) % TILE]) - np.float32(128)
    wear = np.float32(grains[1, int(sv * 180) % TILE, int(su * 180) % TILE]) - np.float32(128)
    level = 1 + (m[WEAVE] * weave + m[WEAR] * wear) / np.float32(128)
    fold = np.float32(grains[3, int(sv * 260) % TILE, int(su * 260) % TILE]) - np.float32(128)
    for k in range(3):
        colour[k] *= max(level, np.float32(0.1))
    return max(1 + m[FOLDS] * fold / np.float32(128), np.float32(0.2))


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


@numba.njit(cache=True, fastmath=True)
def texel(picture: Bytes, u: float, v: float, out: Array, linear: Array, wrap: bool) -> None:
    """Bilinear sample (3,) of picture (h,w,3) at pixel u, v, through the table `linear` (256,); `wrap` repeats it."""
    h, w = picture.shape[:2]
    i, j = int(np.floor(v)), int(np.floor(u))
    fu, fv = np.float32(u - j), np.float32(v - i)
    if j < 0 or j >= w:
        j = j % w
    if wrap and (i < 0 or i >= h):
        i = i % h
    i0, i1 = min(max(i, 0), h - 1), min(max(i + 1, 0), h - 1)
    j0, j1 = j, j + 1 if j + 1 < w else 0
    if wrap and i + 1 == h:
        i1 = 0
    for c in range(3):
        top = linear[picture[i0, j0, c]] * (1 - fu) + linear[picture[i0, j1, c]] * fu
        low = linear[picture[i1, j0, c]] * (1 - fu) + linear[picture[i1, j1, c]] * fu
        out[c] = top * (1 - fv) + low * fv


@numba.njit(cache=True, fastmath=True)
def backdrop(
    image: Array,
    cover: Array,
    focal: float,
    rotation: Array,
    centre: Array,
    linear: Array,
    photo: Bytes,
    photo_place: Array,
    panorama: Bytes,
    angle: float,
    wall: Array,
    wall_picture: Bytes,
    floor_picture: Bytes,
    scale: Array,
    offset: Array,
    gain: Array,
    shows: NDArray[np.bool_],
    contacts: Array,
    maps: Array,
    axes: Array,
    middles: Array,
    lamp_share: Array,
) -> None:
    """Fill what `cover` (H,W) leaves open of image (H,W,3) with what lies behind, seen from a camera in the world.

    rotation (3,3) world -> camera, centre (3,) m. shows = (photo, floor, wall): a photograph fills the picture at
    photo_place = (left, top, pixels a pixel); else a floor at y = 0, a wall (normal x, normal z, distance), and where
    neither is the panorama turned by `angle`. scale = texels a metre (wall, floor), offset (4,) texels, gain (3,) of
    photo or panorama, wall, floor. Shadows on the floor: contacts (C,4) are x, z, radius m, strength; maps (P,L,C,C)
    with axes (1 + L,3,3), middles (P,3) are people's shadow maps, lamp_share (L,) how much of the light a lamp gives.
    """
    height, width = cover.shape
    colour = np.empty(3, np.float32)
    across, down = np.float32(panorama.shape[1] / (2 * np.pi)), np.float32(panorama.shape[0] / np.pi)
    for y in range(height):
        for x in range(width):
            left_open = 1 - cover[y, x]
            if left_open <= 0:
                continue
            cx, cy = (x + np.float32(0.5) - width / 2) / focal, (y + np.float32(0.5) - height / 2) / focal
            dx = rotation[0, 0] * cx + rotation[1, 0] * cy + rotation[2, 0]
            dy = rotation[0, 1] * cx + rotation[1, 1] * cy + rotation[2, 1]
            dz = rotation[0, 2] * cx + rotation[1, 2] * cy + rotation[2, 2]
            t_wall = np.float32(1e9)
            if shows[2]:
                facing = dx * wall[0] + dz * wall[1]
                if facing < -1e-6:
                    t_wall = -(wall[2] + centre[0] * wall[0] + centre[2] * wall[1]) / facing
                    if t_wall < 0:
                        t_wall = np.float32(1e9)
            t_floor = -centre[1] / dy if dy < -1e-6 else np.float32(1e9)
            on_floor = t_floor < t_wall and t_floor < 40
            if shows[0]:
                texel(
                    photo,
                    photo_place[0] + x * photo_place[2],
                    photo_place[1] + y * photo_place[2],
                    colour,
                    linear,
                    False,
                )
                k = gain[0]
            elif on_floor and shows[1]:
                px, pz = centre[0] + t_floor * dx, centre[2] + t_floor * dz
                texel(floor_picture, px * scale[1] + offset[2], pz * scale[1] + offset[3], colour, linear, True)
                k = gain[2]
            elif t_wall < 40:
                px, py, pz = centre[0] + t_wall * dx, centre[1] + t_wall * dy, centre[2] + t_wall * dz
                along = (pz * wall[0] - px * wall[1]) * scale[0] + offset[0]
                texel(wall_picture, along, offset[1] - py * scale[0], colour, linear, True)
                k = gain[1]
            else:
                away = np.float32(1) / np.sqrt(dx * dx + dy * dy + dz * dz)
                turn = np.arctan2(dx, -dz) + angle
                u = turn * across + panorama.shape[1] / 2 - np.float32(0.5)
                v = np.arccos(min(max(dy * away, np.float32(-1)), np.float32(1))) * down - np.float32(0.5)
                texel(panorama, u, v, colour, linear, False)
                k = gain[0]
            if on_floor:
                px, pz = centre[0] + t_floor * dx, centre[2] + t_floor * dz
                for i in range(len(contacts)):
                    q = (px - contacts[i, 0]) ** 2 + (pz - contacts[i, 1]) ** 2
                    reach = contacts[i, 2] ** 2
                    if q < 6 * reach:
                        q /= reach
                        k *= 1 - contacts[i, 3] / (1 + q * q)
                for lamp in range(len(lamp_share)):
                    dark = np.float32(0)
                    for p in range(len(middles)):
                        mx, mz = px - middles[p, 0], pz - middles[p, 2]
                        dark = max(
                            dark, shaded(mx, -middles[p, 1], mz, maps[p, lamp], axes[1 + lamp], np.float32(0.04))
                        )
                    k *= 1 - dark * lamp_share[lamp]
            for c in range(3):
                image[y, x, c] += left_open * k * colour[c]
