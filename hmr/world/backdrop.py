"""What lies behind people: a photograph, a panorama, or a room's floor and wall."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compress.errors import BadInput
from hmr.world.fabric import colour
from hmr.world.light import Place
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
LONGEST = 640  # pixels of a photograph's longer side as it is kept
FOLDER = "FASTHMR_BACKGROUNDS"  # a folder of photographs that training sees too


@dataclass(frozen=True)
class Backdrop:
    """shows: photo, floor, wall (else the panorama, turned by `angle`); crop (3,) is the photo's left, top and size as
    shares of what fits; wall (3,) normal x, normal z, distance m; scale (2,) texels a metre, offset (4,) texels and gain
    (3,) as `raster.backdrop` takes them."""

    shows: NDArray[np.bool_]
    photo: Bytes
    crop: tuple[float, float, float]
    panorama: Bytes
    angle: float
    wall: Array
    wall_picture: Bytes
    floor_picture: Bytes
    scale: Array
    offset: Array
    gain: Array


def backdrop(rng: np.random.Generator, place: Place, angle: float, split: str, shift: bool, photo: float) -> Backdrop:
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
        photo=picture,
        crop=(rng.random(), rng.random(), float(rng.uniform(0.45, 1))),
        panorama=place.picture,
        angle=angle,
        wall=np.array([np.sin(slant), np.cos(slant), rng.uniform(0.9, 5)], np.float32),
        wall_picture=texture(rng, split, 0.5) if wall else place.picture,
        floor_picture=texture(rng, split, 0.3) if room else place.picture,
        scale=np.exp(rng.uniform(np.log(40), np.log(260), 2)).astype(np.float32),
        offset=rng.uniform(0, 4096, 4).astype(np.float32),
        gain=rng.uniform([0.6, 0.35, 0.35], [1.2, 1.1, 1.1]).astype(np.float32),
    )


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
    """Paths of a folder's pictures, sorted; BadInput where a folder is named that has none."""
    if not folder:
        return ()
    paths = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp"})
    if not paths:
        raise BadInput(f"{folder}: holds no .jpg, .png or .webp picture; check --backgrounds or {FOLDER}")
    return tuple(map(str, paths))


@lru_cache(maxsize=256)
def photo(path: str) -> Bytes:
    """A picture as (h,w,3) u8, at most LONGEST pixels long."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (LONGEST, LONGEST))
            image.thumbnail((LONGEST, LONGEST))
            return np.asarray(image.convert("RGB")).copy()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadInput(f"{path}: not a picture that can be read ({error})") from error
