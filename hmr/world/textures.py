"""Small pictures that surfaces are painted with, made once from fixed seeds: patterns, grain, folds, prints, faces."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Bytes = NDArray[np.uint8]

TILE = 128  # pixels of a pattern, which repeats
FACE = (96, 72)  # rows, columns of a face: FACE_SPAN metres around the nose
FACE_SPAN = (0.27, 0.20)  # m
WORDS = ("FIT", "NYC", "SUN", "07", "23", "99", "RUN", "A1", "ROCK", "TEAM", "10", "XL")


# where each kind begins in `tiles`
GRAINS, STRANDS, PATTERNS = 0, 4, 5
GRAIN_WEAVE, GRAIN_WEAR, GRAIN_BLOTCH, GRAIN_FOLD = range(4)


@cache
def tiles() -> Bytes:
    """(T,TILE,TILE) grains, strands and patterns, one array: that is what a kernel reads fastest."""
    return np.concatenate([grains(), strands()[None], patterns()])


def noise(rng: np.random.Generator, cells: int, octaves: int = 4, size: int = TILE) -> NDArray[np.float64]:
    """Periodic value noise (size, size) of unit deviation; `cells` a side in the coarsest octave."""
    total = np.zeros((size, size))
    for octave in range(octaves):
        n = min(cells * 2**octave, size)
        grid = rng.normal(size=(n, n))
        wide = np.pad(grid, ((2, 2), (2, 2)), mode="wrap")
        step = size // n
        image = Image.fromarray(wide.astype(np.float32)).resize(((n + 4) * step,) * 2, Image.Resampling.BICUBIC)
        total += np.asarray(image)[2 * step : 2 * step + size, 2 * step : 2 * step + size] / 2**octave
    return (total - total.mean()) / total.std()


def to_bytes(values: NDArray[np.floating]) -> Bytes:
    return np.clip(values, 0, 255).round().astype(np.uint8)


@cache
def patterns() -> Bytes:
    """(P,TILE,TILE) how much of the second colour there is: flowers, dots, camouflage, zigzag, tweed, tie-dye."""
    rng = np.random.default_rng(11)
    return np.stack(
        [*(flowers(rng) for _ in range(4)), dots(rng, 8), dots(rng, 16), *clouds(rng), zigzag(), tweed(rng)]
    )


def clouds(rng: np.random.Generator) -> list[Bytes]:
    """Camouflage of two sizes, tie-dye, leopard."""
    camouflage = [to_bytes(np.digitize(noise(rng, cells, 2), (-0.5, 0.5)) * 127.0) for cells in (4, 8)]
    dye = to_bytes(127 + 90 * np.sin(3 * noise(rng, 2, 3)))
    spots = noise(rng, 16, 1)
    return [*camouflage, dye, to_bytes(255.0 * ((np.abs(spots - 0.9) < 0.35) | (spots < -1.6)))]


def flowers(rng: np.random.Generator) -> Bytes:
    """Flowers of five to seven petals in random places, repeating."""
    image = Image.new("L", (3 * TILE, 3 * TILE), 0)
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(6, 16))):
        x, y, r = *rng.uniform(0, TILE, 2), rng.uniform(5, 15)
        count, turn, level = int(rng.integers(5, 8)), rng.uniform(0, 6), int(rng.integers(120, 256))
        for dx in (0, TILE, 2 * TILE):
            for dy in (0, TILE, 2 * TILE):
                for k in range(count):
                    a = turn + 2 * np.pi * k / count
                    cx, cy = x + dx + r * np.cos(a) * 0.6, y + dy + r * np.sin(a) * 0.6
                    pen.ellipse((cx - r / 2, cy - r / 2, cx + r / 2, cy + r / 2), fill=level)
                pen.ellipse((x + dx - r / 3, y + dy - r / 3, x + dx + r / 3, y + dy + r / 3), fill=60)
    return np.asarray(image)[TILE : 2 * TILE, TILE : 2 * TILE].copy()


def dots(rng: np.random.Generator, cells: int) -> Bytes:
    y, x = np.mgrid[:TILE, :TILE] * cells / TILE
    x = x + 0.5 * (np.floor(y) % 2)
    return to_bytes(255.0 * (np.hypot(x % 1 - 0.5, y % 1 - 0.5) < rng.uniform(0.2, 0.33)))


def zigzag() -> Bytes:
    y, x = np.mgrid[:TILE, :TILE] * 8 / TILE
    return to_bytes(255.0 * ((y + np.abs(x % 2 - 1)) % 1 < 0.5))


def tweed(rng: np.random.Generator) -> Bytes:
    return to_bytes(127 + 60 * rng.normal(size=(TILE, TILE)))


@cache
def grains() -> Bytes:
    """(4,TILE,TILE) tiles around 128: fine weave, wear as of denim, blotches, folds of hanging cloth."""
    rng = np.random.default_rng(12)
    weave = 128 + 30 * rng.normal(size=(TILE, TILE))
    wear = 128 + 34 * noise(rng, 4, 5)
    blotches = 128 + 34 * noise(rng, 3, 3)
    warp = noise(rng, 3, 3)
    ridges = np.abs(np.sin(np.pi * (noise(rng, 3, 2) + 0.8 * warp)))
    folds = 128 + 60 * (ridges - ridges.mean()) + 18 * noise(rng, 4, 3)
    return np.stack([to_bytes(tile) for tile in (weave, wear, blotches, folds)])


@cache
def strands() -> Bytes:
    """(TILE,TILE) hair: fine streaks along the rows' direction (down)."""
    rng = np.random.default_rng(13)
    coarse = np.repeat(rng.normal(size=(1, TILE)), TILE, 0)
    drift = noise(rng, 2, 2) * 3
    columns = (np.arange(TILE)[None] + drift).astype(int) % TILE
    return to_bytes(128 + 34 * np.take_along_axis(coarse, columns, 1) + 22 * noise(rng, 8, 3))


@cache
def prints() -> Bytes:
    """(N,48,48) what is printed on shirts: 0 cloth, 255 the print's colour: words, numbers, shapes."""
    rng = np.random.default_rng(14)
    found = []
    for word in WORDS:
        image = Image.new("L", (48, 48), 0)
        pen = ImageDraw.Draw(image)
        font = ImageFont.load_default(size=min(40, int(60 / len(word)) + 8))
        left, top, right, bottom = pen.textbbox((0, 0), word, font=font)
        pen.text((24 - (left + right) / 2, 24 - (top + bottom) / 2), word, fill=255, font=font)
        found.append(np.asarray(image))
    for _ in range(8):
        image = Image.new("L", (48, 48), 0)
        pen = ImageDraw.Draw(image)
        for _ in range(int(rng.integers(1, 5))):
            x, y, w, h = *rng.uniform(4, 28, 2), *rng.uniform(8, 30, 2)
            draw = (pen.ellipse, pen.rectangle)[int(rng.integers(2))]
            draw((x, y, min(x + w, 46), min(y + h, 46)), fill=int(rng.integers(100, 256)))
        found.append(np.asarray(image))
    return np.stack(found)


@cache
def faces() -> Bytes:
    """(N,rows,columns,4) faces seen from the front: colour that is laid over skin, and how much of it (0..255)."""
    rng = np.random.default_rng(15)
    return np.stack([face(rng) for _ in range(24)])


def face(rng: np.random.Generator) -> Bytes:
    """Eyes 29 mm to the sides and 45 mm above the nose's tip, brows above, mouth 32 mm below, sometimes a beard."""
    rows, columns = FACE
    zoom = 4
    scale = rows * zoom / FACE_SPAN[0]
    image = Image.new("RGBA", (columns * zoom, rows * zoom), (0, 0, 0, 0))
    pen = ImageDraw.Draw(image)

    def oval(x: float, y: float, w: float, h: float, colour: tuple[int, int, int, int]) -> None:
        """Around x, y m from the nose (up), of half width and height w, h m."""
        cx, cy = columns * zoom / 2 + x * scale, rows * zoom / 2 - y * scale
        pen.ellipse((cx - w * scale, cy - h * scale, cx + w * scale, cy + h * scale), fill=colour)

    hair = int(rng.integers(10, 70))
    if rng.random() < 0.3:
        beard = int(rng.integers(60, 200))
        oval(0, -0.045, 0.055, 0.05, (hair, hair * 3 // 4, hair // 2, beard))
        oval(0, -0.005, 0.05, 0.018, (0, 0, 0, 0))
    for side in (-1, 1):
        oval(side * 0.029, 0.044, 0.017, 0.011, (90, 50, 40, 70))
        oval(side * 0.029, 0.044, 0.0135, 0.0065, (225, 220, 215, 230))
        iris = ((60, 35, 20), (70, 90, 120), (60, 80, 50))[int(rng.integers(3))]
        oval(side * 0.029, 0.044, 0.006, 0.0062, (*iris, 255))
        oval(side * 0.029, 0.0515, 0.0145, 0.002, (20, 12, 10, 200))
        thick = rng.uniform(0.002, 0.005)
        oval(side * 0.031, 0.064, 0.018, thick, (hair, hair * 3 // 4, hair // 2, 220))
        oval(side * 0.008, -0.008, 0.004, 0.003, (50, 20, 15, 140))
        oval(side * 0.045, 0.005, 0.02, 0.02, (200, 70, 60, 40))
    red = int(rng.integers(110, 190))
    oval(0, -0.032, rng.uniform(0.022, 0.028), rng.uniform(0.006, 0.010), (red, red // 3, red // 3, 170))
    oval(0, -0.032, 0.022, 0.0012, (50, 10, 10, 200))
    image = image.filter(ImageFilter.GaussianBlur(zoom * 0.4))
    return np.asarray(image.resize((columns, rows), Image.Resampling.BOX))
