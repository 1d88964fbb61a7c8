"""What lies behind people: a photograph, a panorama, or a room's floor and wall, with people's shadows on the floor."""

from __future__ import annotations

import os
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compress.errors import BadInput
from hmr.media.listing import pictures_in
from hmr.media.picture import oriented, shown
from hmr.world.fabric import colour
from hmr.world.geometry import Scalar, shaded
from hmr.world.light import Panorama
from hmr.world.textures import grains, patterns

Array = NDArray[np.float32]
Bytes = NDArray[np.uint8]

# scikit-image's bundled pictures; those of val, calib and test are never seen in training
PHOTOS = {
    "train": ("astronaut.png", "brick.png", "coffee.png", "grass.png", "rocket.jpg"),
    "val": ("camera.png", "hubble_deep_field.jpg"),
    "calib": ("camera.png", "hubble_deep_field.jpg"),
    "test": ("chelsea.png", "gravel.png"),
}
FAR = 40.0  # m, beyond which floors and walls are not drawn
LONGEST = 640  # pixels of a photograph's longer side as it is kept
FOLDER = "FASTHMR_BACKGROUNDS"  # a folder of photographs that training sees too


class Backdrop(NamedTuple):
    """shows (3,): photo, floor, wall; where none of them is, the panorama turned by `angle` radians. crop (3,) is the
    photo's left, top and size as shares of what fits; wall (3,) its normal's x and z and its distance in m; scale (2,)
    texels a metre of wall and floor, offset (4,) texels, gain (3,) of photo or panorama, wall, floor."""

    shows: NDArray[np.bool_]
    photo: Bytes
    crop: Array
    panorama: Bytes
    angle: float
    wall: Array
    wall_picture: Bytes
    floor_picture: Bytes
    scale: Array
    offset: Array
    gain: Array


class Shadows(NamedTuple):
    """On the floor: contacts (C,4) are x, z, radius m, strength; maps (P,L,C,C) are people's shadow maps with axes
    (L,3,3) around middles (P,3), share (L,) is how much of the light there a lamp gives."""

    contacts: Array
    maps: Array
    axes: Array
    middles: Array
    share: Array


def backdrop(
    rng: np.random.Generator, place: Panorama, angle: float, split: str, shift: bool, photo: float
) -> Backdrop:
    """A photograph for a share of `photo`, else the panorama, or a room that opens onto it."""
    kind = rng.random()
    flat, room = kind < photo, kind > photo + (1 - photo) * 0.45
    slant = rng.uniform(-0.6, 0.6)
    picture = any_photo(rng, split) if flat else place.picture
    if flat and rng.random() < 0.5:
        picture = np.ascontiguousarray(picture[:, ::-1])
    wall = room and rng.random() < 0.75
    return Backdrop(
        shows=np.array([flat, room, wall]),
        photo=still(picture),
        crop=rng.uniform((0, 0, 0.45), (1, 1, 1)).astype(np.float32),
        panorama=still(place.picture),
        angle=float(angle),
        wall=np.array([np.sin(slant), np.cos(slant), rng.uniform(0.9, 5)], np.float32),
        wall_picture=still(texture(rng, split, 0.5) if wall else place.picture),
        floor_picture=still(texture(rng, split, 0.3) if room else place.picture),
        scale=np.exp(rng.uniform(np.log(40), np.log(260), 2)).astype(np.float32),
        offset=rng.uniform(0, 4096, 4).astype(np.float32),
        gain=rng.uniform([0.6, 0.35, 0.35], [1.2, 1.1, 1.1]).astype(np.float32),
    )


def still(picture: Bytes) -> Bytes:
    """A picture that is only read: numba compiles `fill` again for every mixture of these and others."""
    view = picture.view()
    view.flags.writeable = False
    return view


def texture(rng: np.random.Generator, split: str, plain: float) -> Bytes:
    """A wall or floor (h,w,3): a plain colour with stains, a pattern of two colours, or a photograph of the split."""
    kind = rng.random()
    if kind > plain + 0.25:
        return any_photo(rng, split)
    first = 255 * (0.35 * colour(rng) + 0.65 * rng.uniform(0.1, 0.95))
    stain = (grains()[rng.integers(1, 3)].astype(np.float32) - 128)[..., None] * rng.uniform(0.05, 0.6)
    if kind > plain:
        second = 255 * (0.4 * colour(rng) + 0.6 * rng.uniform(0.1, 0.95))
        tile = patterns()[rng.integers(len(patterns()))] if rng.random() < 0.4 else tiles(rng)
        first = first + (second - first) * (tile[..., None] / np.float32(255))
    return np.clip(first + stain, 0, 255).astype(np.uint8)


def tiles(rng: np.random.Generator) -> Bytes:
    """(128,128) joints between tiles or planks, which repeat."""
    tall, wide = rng.choice([8, 16, 32, 64, 128], 2)
    y, x = np.mgrid[:128, :128]
    shifted = x + (y // tall) % 2 * (wide // 2) * (rng.random() < 0.5)
    joint = (y % tall < 2) | (shifted % wide < 2)
    tone = np.random.default_rng(rng.integers(1 << 30)).integers(0, 90, (128, 128))
    level = tone[y // tall, (shifted % 128) // wide]
    return np.where(joint, 255, level).astype(np.uint8)


def any_photo(rng: np.random.Generator, split: str) -> Bytes:
    """One of the photographs of a split; training sees those of the user's folder for four out of five."""
    found = folder_photos(os.environ.get(FOLDER, "")) if split == "train" else ()
    if found and rng.random() < 0.8:
        return photo(found[int(rng.integers(len(found)))])
    names = PHOTOS[split]
    return photo(str(files("skimage").joinpath("data", names[int(rng.integers(len(names)))])))


@cache
def folder_photos(folder: str) -> tuple[str, ...]:
    """Paths of a folder's pictures, in natural order; BadInput where a folder is named that has none."""
    if not folder:
        return ()
    try:
        return tuple(str(Path(folder) / name) for name in pictures_in(Path(folder)))
    except BadInput as error:
        raise BadInput(f"{error}; check --backgrounds or {FOLDER}") from error


@lru_cache(maxsize=256)
def photo(path: str) -> Bytes:
    """A picture as (h,w,3) u8, at most LONGEST pixels long, as `hmr.media.picture` shows it."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (LONGEST, LONGEST))
            image.thumbnail((LONGEST, LONGEST))
            return shown(oriented(image), Path(path)).copy()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{path}: not a picture that can be read ({error})") from error


@numba.njit(cache=True, fastmath=True)
def texel(picture: Bytes, u: Scalar, v: Scalar, out: Array, linear: Array, wrap: bool) -> None:
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
def floor_light(px: Scalar, pz: Scalar, shadows: Shadows) -> Scalar:
    """Light 0..1 that shadows leave of the floor at x, z m."""
    light = np.float32(1)
    contacts, middles = shadows.contacts, shadows.middles
    for i in range(len(contacts)):
        q = (px - contacts[i, 0]) ** 2 + (pz - contacts[i, 1]) ** 2
        reach = contacts[i, 2] ** 2
        if q < 6 * reach:
            q /= reach
            light *= 1 - contacts[i, 3] / (1 + q * q)
    for lamp in range(len(shadows.share)):
        dark: Scalar = np.float32(0)
        for p in range(len(middles)):
            x, y, z = px - middles[p, 0], -middles[p, 1], pz - middles[p, 2]
            dark = max(dark, shaded(x, y, z, shadows.maps[p, lamp], shadows.axes[lamp], np.float32(0.04)))
        light *= 1 - dark * shadows.share[lamp]
    return light


@numba.njit(cache=True, fastmath=True)
def wall_distance(wall: Array, centre: Array, dx: Scalar, dz: Scalar) -> Scalar:
    """How far along a ray of direction x, z from `centre` (3,) the wall is seen from its front, else FAR."""
    facing = dx * wall[0] + dz * wall[1]
    away = -(wall[2] + centre[0] * wall[0] + centre[2] * wall[1]) / facing if facing < -1e-6 else np.float32(FAR)
    return away if 0 < away < FAR else np.float32(FAR)


@numba.njit(cache=True, fastmath=True)
def fill(
    image: Array,
    cover: Array,
    focal: Scalar,
    rotation: Array,
    centre: Array,
    linear: Array,
    place: Array,
    back: Backdrop,
    shadows: Shadows,
) -> None:
    """Fill what `cover` (H,W) leaves open of image (H,W,3) with what lies behind, seen from a camera in the world.

    rotation (3,3) world -> camera, centre (3,) m; linear (256,) is the light of a picture's levels; a photograph is
    read from `place` = (left, top, its pixels a pixel). The floor is y = 0.
    """
    height, width = cover.shape
    colour = np.empty(3, np.float32)
    # read once: a field of a tuple costs more than a variable
    photo, panorama, wall_picture, floor_picture = back.photo, back.panorama, back.wall_picture, back.floor_picture
    wall, scale, offset, gain, angle = back.wall, back.scale, back.offset, back.gain, back.angle
    has_photo, has_floor, has_wall = back.shows[0], back.shows[1], back.shows[2]
    across, down = np.float32(panorama.shape[1] / (2 * np.pi)), np.float32(panorama.shape[0] / np.pi)
    lit: Scalar = np.float32(1)
    for y in range(height):
        lit_at = -1
        for x in range(width):
            gap = 1 - cover[y, x]
            if gap <= 0:
                continue
            cx, cy = (x + np.float32(0.5) - width / 2) / focal, (y + np.float32(0.5) - height / 2) / focal
            dx = rotation[0, 0] * cx + rotation[1, 0] * cy + rotation[2, 0]
            dy = rotation[0, 1] * cx + rotation[1, 1] * cy + rotation[2, 1]
            dz = rotation[0, 2] * cx + rotation[1, 2] * cy + rotation[2, 2]
            to_wall = wall_distance(wall, centre, dx, dz) if has_wall else np.float32(FAR)
            to_floor = -centre[1] / dy if dy < -1e-6 else np.float32(FAR)
            on_floor = to_floor < min(to_wall, np.float32(FAR))
            t = to_floor if on_floor else to_wall
            px, py, pz = centre[0] + t * dx, centre[1] + t * dy, centre[2] + t * dz
            k = gain[0]
            if has_photo:
                texel(photo, place[0] + x * place[2], place[1] + y * place[2], colour, linear, False)
            elif on_floor and has_floor:
                u, v = px * scale[1] + offset[2], pz * scale[1] + offset[3]
                texel(floor_picture, u, v, colour, linear, True)
                k = gain[2]
            elif to_wall < FAR:
                along = (pz * wall[0] - px * wall[1]) * scale[0] + offset[0]
                texel(wall_picture, along, offset[1] - py * scale[0], colour, linear, True)
                k = gain[1]
            else:
                away = np.float32(1) / np.sqrt(dx * dx + dy * dy + dz * dz)
                u = (np.arctan2(dx, -dz) + angle) * across + panorama.shape[1] / 2 - np.float32(0.5)
                v = np.arccos(min(max(dy * away, np.float32(-1)), np.float32(1))) * down - np.float32(0.5)
                texel(panorama, u, v, colour, linear, False)
            if on_floor:
                if lit_at != x - x % 2:  # shadows are soft: two pixels have the value of the left one
                    lit_at, back_by = x - x % 2, (x % 2) / focal
                    down_ray = dy - back_by * rotation[0, 1]
                    t = -centre[1] / down_ray if down_ray < -1e-6 else to_floor
                    px = centre[0] + t * (dx - back_by * rotation[0, 0])
                    pz = centre[2] + t * (dz - back_by * rotation[0, 2])
                    lit = floor_light(px, pz, shadows)
                k *= lit
            for c in range(3):
                image[y, x, c] += gap * k * colour[c]
