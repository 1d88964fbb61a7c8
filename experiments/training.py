"""`fasthmr train hmr`: draw the frames once, then train on them."""

from __future__ import annotations

import zlib
from pathlib import Path

from hmr.data.cache import cached_frames
from hmr.data.synthetic import open_world
from hmr.home import fasthmr_home
from hmr.train import TrainConfig, train

HALF, FULL = (128, 96), (256, 192)  # (height, width) of the crops of the first and the last part of a training
VALIDATION = 500  # frames


def train_hmr(architecture: str, out: Path, minutes: float, frames: int, mocap: Path | None, workers: int) -> Path:
    """Train on `synth:train`, drawn once into $FASTHMR_HOME/frames; returns the file of weights.

    `frames` pictures at half resolution and a quarter as many at full. Raises BadInput where `out` holds something
    else than an unfinished run with the same beginning.
    """
    config = TrainConfig(
        architecture=architecture,
        out=out,
        minutes=minutes,
        half_cache=drawn("train", frames, HALF, mocap, workers),
        full_cache=drawn("train", max(1, frames // 4), FULL, mocap, workers),
        half_val_cache=drawn("val", VALIDATION, HALF, None, workers),
        full_val_cache=drawn("val", VALIDATION, FULL, None, workers),
    )
    return train(config)


def drawn(split: str, frames: int, size: tuple[int, int], mocap: Path | None, workers: int) -> Path:
    """The folder with the first `frames` pictures of `synth:split` at `size`, drawn now if they are not there yet."""
    data = open_world("synth", split, frames=frames, mocap=mocap, size=size)
    motion = zlib.crc32(",".join(sorted({clip.name for clip in data.clips})).encode())
    folder = fasthmr_home() / "frames" / f"synth-{split}-{frames}-{size[0]}x{size[1]}-{motion:08x}"
    return cached_frames(folder, data, size, workers)
