"""What a camera makes of light: blur, exposure, tone, noise, compression."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache

import numba
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.float32]

_GRAIN = np.random.default_rng(7).normal(size=1 << 18).astype(np.float32)
_STEPS = 4096


def srgb_to_linear(values: NDArray[np.floating]) -> Array:
    """Linear light 0..1 of sRGB 0..1 (IEC 61966-2-1)."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4).astype(np.float32)


def linear_to_srgb(values: NDArray[np.floating]) -> Array:
    return np.where(values <= 0.0031308, values * 12.92, 1.055 * np.maximum(values, 0) ** (1 / 2.4) - 0.055).astype(
        np.float32
    )


LINEAR = srgb_to_linear(np.arange(256) / 255)


@dataclass(frozen=True)
class Sensor:
    """gain (3,) exposure and white balance; contrast 1 leaves the curve as it is, saturation 1 colours; blur, one
    sigma, and shake in pixels, the latter in the direction `angle`; noise in grey levels; JPEG quality, 0 for none."""

    gain: Array
    contrast: float
    saturation: float
    blur: float
    shake: float
    angle: float
    noise: float
    quality: int


def sensor(rng: np.random.Generator, hard: float) -> Sensor:
    """Draw a camera; `hard` 0..1 is how bad it may be."""
    spread = rng.normal(0, 0.05 + 0.08 * hard, 3)
    exposure = np.exp(rng.normal(0.0, 0.22 + 0.15 * hard))
    defocus = rng.choice([0.3, rng.uniform(0.4, 1.0), rng.uniform(1.0, 1.8 + hard)], p=[0.4, 0.45, 0.15])
    return Sensor(
        gain=(exposure * np.exp(spread - spread.mean())).astype(np.float32),
        contrast=float(rng.normal(1.0, 0.12 + 0.1 * hard)),
        saturation=float(np.clip(rng.normal(1.0, 0.2), 0, 1.6)) if rng.random() > 0.04 + 0.1 * hard else 0.0,
        blur=float(defocus),
        shake=float(rng.uniform(2, 7 + 3 * hard)) if rng.random() < 0.12 + 0.1 * hard else 0.0,
        angle=float(rng.uniform(0, np.pi)),
        noise=float(rng.exponential(2.0 + 4 * hard)),
        quality=int(rng.integers(35 - int(15 * hard), 96)) if rng.random() < 0.7 else 0,
    )


@numba.njit(cache=True, fastmath=True)
def blurred(image: Array, sigma: float) -> Array:
    """image (H,W,3) under a round Gaussian of deviation `sigma` pixels."""
    reach = min(6, int(np.ceil(2 * sigma)))
    taps = np.exp(-(np.arange(-reach, reach + 1).astype(np.float32) ** 2) / np.float32(2 * sigma * sigma))
    taps /= taps.sum()
    out = image
    for axis in range(2):
        out = convolved(out, taps, axis)
    return out


@numba.njit(cache=True, fastmath=True)
def convolved(image: Array, taps: Array, axis: int) -> Array:
    """image (H,W,3) under 2r + 1 taps along rows (axis 1) or columns (0); what lies outside repeats the border."""
    height, width = image.shape[:2]
    reach = len(taps) // 2
    out = np.empty_like(image)
    for y in range(height):
        for x in range(width):
            r = g = b = np.float32(0)
            for i in range(len(taps)):
                row = min(max(y + i - reach, 0), height - 1) if axis == 0 else y
                column = min(max(x + i - reach, 0), width - 1) if axis == 1 else x
                r += taps[i] * image[row, column, 0]
                g += taps[i] * image[row, column, 1]
                b += taps[i] * image[row, column, 2]
            out[y, x, 0], out[y, x, 1], out[y, x, 2] = r, g, b
    return out


@numba.njit(cache=True, fastmath=True)
def smeared(image: Array, length: float, angle: float) -> Array:
    """image (H,W,3) moved by `length` pixels in the direction `angle` while it is taken."""
    height, width = image.shape[:2]
    count = 2 * int(np.ceil(length / 2)) + 1
    out = np.zeros_like(image)
    for i in range(count):
        along = length * (np.float32(i) / (count - 1) - np.float32(0.5))
        dy, dx = int(np.round(along * np.sin(angle))), int(np.round(along * np.cos(angle)))
        for y in range(height):
            row = min(max(y + dy, 0), height - 1)
            for x in range(width):
                column = min(max(x + dx, 0), width - 1)
                for c in range(3):
                    out[y, x, c] += image[row, column, c] / count
    return out


@numba.njit(cache=True, fastmath=True)
def exposed(
    image: Array, gain: Array, curve: Array, saturation: float, noise: float, grain: Array, start: int
) -> NDArray[np.uint8]:
    """Linear (H,W,3) -> u8 through the table `curve` (S,) over 0..1; noise falls with brightness, as shot noise does in
    sRGB, and is read from `grain` (G,) at `start`."""
    height, width = image.shape[:2]
    out = np.empty((height, width, 3), np.uint8)
    last = len(curve) - 1
    n = start
    for y in range(height):
        for x in range(width):
            r, g, b = image[y, x, 0] * gain[0], image[y, x, 1] * gain[1], image[y, x, 2] * gain[2]
            grey = np.float32(0.3) * r + np.float32(0.59) * g + np.float32(0.11) * b
            r, g, b = grey + saturation * (r - grey), grey + saturation * (g - grey), grey + saturation * (b - grey)
            common = grain[n % len(grain)]
            for c in range(3):
                value = r if c == 0 else g if c == 1 else b
                level = curve[int(min(max(value, np.float32(0)), np.float32(1)) * last)]
                n += 1
                spread = noise * (np.float32(1.3) - level / np.float32(255))
                level += spread * (np.float32(0.8) * common + np.float32(0.5) * grain[n % len(grain)])
                out[y, x, c] = np.uint8(min(max(level + np.float32(0.5), np.float32(0)), np.float32(255)))
    return out


@cache
def plain_curve() -> Array:
    """sRGB 0..1 (S,) of linear light 0..1 with a soft shoulder."""
    light = np.linspace(0, 1, _STEPS)
    curve = linear_to_srgb(np.minimum(light, 0.7) + 0.3 * np.tanh(np.maximum(light - 0.7, 0) / 0.3))
    return curve / curve[-1]


def tone_curve(contrast: float) -> Array:
    """Levels 0..255 (S,) of linear light 0..1: the plain curve with contrast around its middle."""
    return np.clip(255 * (0.5 + (plain_curve() - np.float32(0.5)) * np.float32(contrast)), 0, 255)


def developed(rng: np.random.Generator, image: Array, camera: Sensor) -> NDArray[np.uint8]:
    """The picture (H,W,3) u8 that a camera takes of linear light (H,W,3)."""
    if camera.blur > 0.35:
        image = blurred(image, camera.blur)
    if camera.shake:
        image = smeared(image, camera.shake, camera.angle)
    start = int(rng.integers(len(_GRAIN)))
    curve = tone_curve(camera.contrast)
    picture = exposed(image, camera.gain, curve, camera.saturation, camera.noise, _GRAIN, start)
    return compressed(picture, camera.quality) if camera.quality else picture


def compressed(picture: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """The picture (H,W,3) as JPEG gives it back."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream)).copy()
