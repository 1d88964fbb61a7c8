"""`fasthmr train hmr`: render the frames once, then train on them."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

from compress.choices import one_of
from compress.training.checkpoint import reserve_folder
from hmr.data.dataset import Frames
from hmr.home import fasthmr_home
from hmr.models.model import ARCHITECTURES, family_of
from hmr.training.config import HMRTrainConfig
from hmr.training.train import HMRTask, train
from hmr.world.cache import cached_frames
from hmr.world.synthetic import open_world

HALF, FULL = (128, 96), (256, 192)  # (height, width) of the crops of the first and the last part of a training
VALIDATION = 500  # frames
TRAINED = tuple(name for name in ARCHITECTURES if family_of(name).name == "hmr2")  # others have heads of other losses
# Weights that have learned already: no small pictures, new pictures, no new heads for the tokens (they cost a few mm at
# first), and a learning rate that falls from the first step.
GOING_ON: dict[str, Any] = {
    "full_share": 1.0,
    "quarter_share": 0.0,
    "batch": 32,
    "lr": 5e-4,
    "warmup": 50,
    "decay": 1.0,
    "token_weight": 0.0,
}


def train_hmr(
    architecture: str, out: Path, minutes: float, frames: int, mocap: Path | None, start: Path | None, workers: int
) -> Path:
    """Train on `synth:train`, drawn once into $FASTHMR_HOME/frames; returns the file of weights.

    `start` is a file of weights to go on from, of the same model or of one with a fraction of its blocks
    (`hmr.training.grow`); the training then is at full resolution alone. `frames` pictures at half resolution and half
    as many, of other people, at full. Raises BadInput where there is no such architecture, and where `out` holds
    something else than an unfinished run with the same beginning.
    """
    seed = 1 if start is None else 2  # who goes on has seen the pictures of the first
    wanted = {
        "full_cache": open_world("synth", "train", max(1, frames // 2), seed=seed, mocap=mocap, size=FULL),
        "full_val_cache": open_world("synth", "val", VALIDATION, size=FULL),
    }
    if start is None:
        wanted["half_cache"] = open_world("synth", "train", frames, mocap=mocap, size=HALF)
        wanted["half_val_cache"] = open_world("synth", "val", VALIDATION, size=HALF)
    folders: dict[str, Any] = {field: folder_of(data) for field, data in wanted.items()}
    config = HMRTrainConfig(
        architecture=one_of(architecture, TRAINED, "architecture that is trained here"),
        out=out,
        start=start,
        minutes=minutes,
        **folders,
        **(GOING_ON if start else {}),
    )
    reserve_folder(config, {}, HMRTask.noun)  # before an hour of drawing, not after
    for field, data in wanted.items():
        cached_frames(folders[field], data, tuple(data.identity["size"]), workers)
    return train(config)


def folder_of(data: Frames) -> Path:
    """Where the drawn pictures of a data set belong; another world, motion, seed or size is another."""
    drawn = zlib.crc32(json.dumps(data.identity, sort_keys=True).encode())
    height, width = data.identity["size"]
    name = f"{str(data.spec).replace(':', '-')}-{len(data)}-{height}x{width}-{drawn:08x}"
    return fasthmr_home() / "frames" / name
