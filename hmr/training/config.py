"""What a training is asked for, and the folder that holds it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from compress.atomic import atomic_write, occupied
from compress.errors import BadInput
from hmr.world.cache import CachedFrames


class TrainConfig(BaseModel):
    """What to train, on what and for how long: either `minutes` of wall clock or a number of `steps`."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    architecture: str = "reference"
    sizes: dict[str, Any] = {}
    out: Path
    start: Path | None = None  # weights of the same architecture to begin with
    half_cache: Path | None = None  # 128x96
    full_cache: Path | None = None  # 256x192
    half_val_cache: Path | None = None
    full_val_cache: Path | None = None
    minutes: float | None = Field(None, gt=0)
    steps: int | None = Field(None, gt=0)
    quarter_share: float = Field(0.4, ge=0, le=1)  # of the budget, on the half-resolution frames made half as large
    full_share: float = Field(0.3, ge=0, le=1)
    quarter_batch: int = Field(32, ge=2)
    half_batch: int = Field(16, ge=2)
    full_batch: int = Field(16, ge=2)
    lr: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    betas: tuple[float, float] = (0.9, 0.98)
    decay: float = Field(0.4, gt=0, le=1)  # share of the budget, at its end, over which the learning rate goes down
    token_weight: float = Field(1.0, ge=0)  # of the losses of the tokens, beside those of the pose
    warmup_steps: int = Field(300, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    checkpoint_minutes: float = Field(3.0, ge=0)
    val_minutes: float = Field(5.0, ge=0)
    seed: int = Field(0, ge=0)
    threads: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _complete(self) -> TrainConfig:
        if (self.minutes is None) == (self.steps is None):
            raise ValueError("give either minutes or steps")
        if self.half_cache is None and self.full_cache is None:
            raise ValueError("give half_cache, full_cache or both")
        if self.quarter_share + self.full_share > 1:
            raise ValueError("quarter_share and full_share are more than the whole")
        return self


def claim(config: TrainConfig) -> None:
    """Make `out` this run's folder; BadInput where it holds something else, or a run with another beginning."""
    mine = {"architecture": config.architecture, "sizes": config.sizes, "seed": config.seed}
    path = config.out / "config.json"
    taken = occupied(config.out)
    if taken and path.is_file():
        theirs = _settings(path)
        unlike = [
            f"{name} {theirs.get(name)!r}, not {value!r}" for name, value in mine.items() if theirs.get(name) != value
        ]
        if unlike:
            raise BadInput(f"{path}: that run has {unlike[0]}; choose another folder to start a new run")
    elif taken:
        raise BadInput(f"{config.out}: it is there, not empty, and holds no training run; choose another")
    try:
        atomic_write(path, config.model_dump_json(indent=2).encode())
    except OSError as error:
        raise BadInput(f"{config.out}: cannot be written ({error.strerror}); choose another") from error


def _settings(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise BadInput(f"{path}: the run's settings are not JSON ({error}); choose another folder") from error
    if not isinstance(found, dict):
        raise BadInput(f"{path}: the run's settings are not a JSON object; choose another folder")
    return found


@dataclass(frozen=True)
class Stage:
    """A part of the training at one resolution, up to the fraction `until` of the budget."""

    name: str
    frames: CachedFrames
    validation: CachedFrames | None
    batch: int
    until: float


def stages_of(config: TrainConfig) -> list[Stage]:
    """The stages in order: four times fewer tokens are four times as many pictures, so the smallest come first.

    Measured on one core after 3 minutes: 287 mm at quarter resolution, 313 mm at half. Raises BadInput for folders that
    are no such frames.
    """
    stages = []
    full_from = 1 - config.full_share if config.full_cache else 1.0
    if config.half_cache:
        for name, size, batch, until in (
            ("quarter", (64, 48), config.quarter_batch, config.quarter_share),
            ("half", (128, 96), config.half_batch, full_from),
        ):
            halved = name == "quarter"
            frames = CachedFrames(config.half_cache, size, halved)
            validation = CachedFrames(config.half_val_cache, size, halved) if config.half_val_cache else None
            stages.append(Stage(name, frames, validation, batch, until))
    if config.full_cache:
        size = (256, 192)
        validation = CachedFrames(config.full_val_cache, size) if config.full_val_cache else None
        stages.append(Stage("full", CachedFrames(config.full_cache, size), validation, config.full_batch, 1.0))
    return stages
