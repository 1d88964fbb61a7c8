"""Light and places: what surrounds people, from the panoramas in `light.npz` (built by experiments/build/light.py).

Axes: x right, y up, z towards the camera. A light is diffuse, nine spherical harmonics of irradiance / pi (Ramamoorthi
and Hanrahan 2001), and a few lamps that throw shadows.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.float32]
_DIRECTIONS = np.random.default_rng(0).normal(size=(64, 3))
_DIRECTIONS /= np.linalg.norm(_DIRECTIONS, axis=1, keepdims=True)

# panoramas that nothing is trained on: the places of `synth-shift`
SHIFT_PLACES = ("dawn", "lab", "lobby", "park", "venice", "warehouse")


@dataclass(frozen=True)
class Panorama:
    """A panorama: harmonics (9,3), its brightest lamp's direction (3,) and irradiance / pi (3,), a picture (H,W,3)."""

    name: str
    harmonics: Array
    aim: Array
    lamp: Array
    picture: NDArray[np.uint8]


@dataclass(frozen=True)
class Light:
    """Harmonics (9,3) and lamps: directions (L,3) towards them, irradiance / pi (L,3)."""

    harmonics: Array
    aims: Array
    lamps: Array


def harmonics(vectors: NDArray[np.floating]) -> NDArray[np.floating]:
    """Real spherical harmonics (N,9) up to degree two of unit vectors (N,3)."""
    x, y, z = vectors.T
    return np.stack(
        [
            np.full_like(x, 0.282095),
            0.488603 * y,
            0.488603 * z,
            0.488603 * x,
            1.092548 * x * y,
            1.092548 * y * z,
            0.315392 * (3 * z * z - 1),
            1.092548 * x * z,
            0.546274 * (x * x - y * y),
        ],
        1,
    )


_BASIS_INVERSE = np.linalg.pinv(harmonics(_DIRECTIONS))


def yaw(angle: float) -> Array:
    """Turn (3,3) by `angle` radians about y."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]], np.float32)


def turned_harmonics(coefficients: Array, turn: Array) -> Array:
    """Harmonics (9,3) of a light whose surroundings are turned by a rotation (3,3)."""
    return (_BASIS_INVERSE @ (harmonics(_DIRECTIONS @ turn) @ coefficients)).astype(np.float32)


@cache
def places() -> tuple[Panorama, ...]:
    """All panoramas of the package, sorted by name."""
    with files("hmr").joinpath("assets", "light.npz").open("rb") as stream:
        arrays = dict(np.load(stream, allow_pickle=False))
    ends = np.cumsum(arrays["lengths"])
    found = []
    for i, name in enumerate(arrays["names"]):
        jpeg = arrays["jpeg"][ends[i] - arrays["lengths"][i] : ends[i]].tobytes()
        image = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))
        found.append(Panorama(str(name), arrays["harmonics"][i], arrays["aims"][i], arrays["lamps"][i], image))
    return tuple(found)


def places_of(shift: bool) -> list[Panorama]:
    return [place for place in places() if (place.name in SHIFT_PLACES) == shift]


def lit(rng: np.random.Generator, place: Panorama, angle: float, coloured: float) -> Light:
    """The light of a place turned by `angle` radians about y, with up to two lamps: its own and one brought along.

    `coloured` is the share of lamps brought along that are not nearly white.
    """
    turn = yaw(angle)
    own = np.minimum(place.lamp.mean() + 0.25 * (place.lamp - place.lamp.mean()), 1.6)  # nearly white, as suns are
    aims, lamps = [turn @ place.aim], [np.maximum(own, 0) * rng.uniform(0.3, 1.1)]
    if rng.random() < 0.5:
        aim = rng.normal(size=3) * (1, 0.6, 1) + (0, 0.7, 0.5)
        hue = rng.uniform(0.3, 1, 3) if rng.random() < coloured else rng.uniform(0.8, 1, 3)
        aims.append(aim / np.linalg.norm(aim))
        lamps.append(hue / hue.max() * rng.uniform(0.15, 1.3))
    diffuse = turned_harmonics(place.harmonics, turn)
    tint = diffuse[0].mean() / np.maximum(diffuse[0], 1e-3)
    tint = np.clip(tint, 0.5, 2) ** rng.uniform(0.5, 1)  # as a camera's white balance
    keep = [i for i, lamp in enumerate(lamps) if lamp.max() > 0.05]
    return Light(
        (diffuse * tint).astype(np.float32),
        np.array([aims[i] for i in keep], np.float32).reshape(-1, 3),  # (L, 3)
        np.array([lamps[i] for i in keep], np.float32).reshape(-1, 3),  # (L, 3)
    )
