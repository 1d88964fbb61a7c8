"""What a training of an HMR model is asked for, and its stages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from compress.training.task import TrainConfig
from hmr.world.cache import CachedFrames


class HMRTrainConfig(TrainConfig):
    """What to train, on what and for how long; `batch` is that of the full resolution."""

    architecture: str = "reference"
    sizes: dict[str, Any] = Field({})
    start: Path | None = Field(None, exclude=True)  # weights of the same architecture to begin with
    half_cache: Path | None = Field(None, exclude=True)  # 128x96
    full_cache: Path | None = Field(None, exclude=True)  # 256x192
    half_val_cache: Path | None = Field(None, exclude=True)
    full_val_cache: Path | None = Field(None, exclude=True)
    quarter_share: float = Field(0.4, ge=0, le=1)  # of the budget, on the half-resolution frames made half as large
    full_share: float = Field(0.3, ge=0, le=1)
    quarter_batch: int = Field(32, ge=2)
    half_batch: int = Field(16, ge=2)
    batch: int = Field(16, ge=2)
    lr: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    decay: float = Field(0.4, gt=0, le=1)  # share of the budget, at its end, over which the learning rate goes down
    token_weight: float = Field(1.0, ge=0)  # of the losses of the tokens, beside those of the pose
    warmup: int = Field(300, ge=0)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: int | None = Field(None, ge=1, exclude=True)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.half_cache is None and self.full_cache is None:
            raise ValueError("give half_cache, full_cache or both")
        if self.quarter_share + self.full_share > 1:
            raise ValueError("quarter_share and full_share are more than the whole")
        return self


@dataclass(frozen=True)
class Stage:
    """A part of the training at one resolution, up to the fraction `until` of the budget."""

    name: str
    frames: CachedFrames
    validation: CachedFrames | None
    batch: int
    until: float


def stages_of(config: HMRTrainConfig) -> list[Stage]:
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
        stages.append(Stage("full", CachedFrames(config.full_cache, size), validation, config.batch, 1.0))
    return stages
