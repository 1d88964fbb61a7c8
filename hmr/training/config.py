"""What a training of an HMR model is asked for, and its stages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from compress.training.task import TrainConfig


class HMRTrainConfig(TrainConfig):
    """What to train and for how long. A stage lasts until a fraction of the budget; the last one has all tokens.

    `batch` counts mirror images: half as many pictures are drawn.
    """

    architecture: str = "dinov2"
    sizes: dict[str, Any] = Field({})
    backbone: Path | None = Field(None, exclude=True)  # pretrained weights, see `hmr.checkpoints.backbone`
    start: str | None = Field(None, exclude=True)  # a whole model to go on from, in its place
    mocap: Path | None = Field(None, exclude=True)  # more motion
    head_until: float = Field(0.03, ge=0, le=0.1)  # the head alone, on frozen features of half-size crops
    half_until: float = Field(0.6, ge=0, le=1)  # half-size crops: a quarter of the tokens
    half_keep: int = Field(28, ge=1)  # of which these are left: the person, a ring around them, then background
    drop_until: float = Field(0.75, ge=0, le=1)  # background tokens dropped before the first block
    keep: int = Field(96, ge=1)  # tokens that are left of those
    frozen: int = Field(3, ge=0)  # lowest blocks that stay as they are, and the embedding with them
    batch: int = Field(32, ge=2, multiple_of=2)
    lr: float = Field(5e-4, gt=0)  # of the heads
    backbone_lr: float = Field(0.5, gt=0)  # of the last block, in shares of the heads'
    layer_decay: float = Field(0.75, gt=0, le=1)  # of the learning rate, from each block to the one below
    weight_decay: float = Field(0.05, ge=0)
    decay: float = Field(0.4, gt=0, le=1)  # share of the budget, at its end, over which the learning rate goes down
    token_weight: float = Field(1.0, ge=0)  # of the losses of the auxiliary heads, beside those of the pose
    warmup: int = Field(200, ge=0)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    val_frames: int = Field(300, ge=1)
    workers: int = Field(1, ge=0, exclude=True)  # processes that draw

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.head_until <= self.half_until <= self.drop_until:
            raise ValueError("head_until, half_until and drop_until have to rise")
        if self.backbone is not None and self.start is not None:
            raise ValueError("a training starts from a backbone or from a model, not from both")
        return self


@dataclass(frozen=True)
class Stage:
    """A part of the training, up to the fraction `until` of the budget."""

    name: str
    until: float
    halved: bool = False
    keep: int | None = None  # tokens that are left of a crop's; None: all
    frozen: int | None = None  # lowest blocks that stay as they are; None: all


def stages_of(config: HMRTrainConfig) -> tuple[Stage, ...]:
    """The stages in order: cheap steps first, all tokens last."""
    return (
        Stage("head", config.head_until, halved=True),
        Stage("half", config.half_until, halved=True, keep=config.half_keep, frozen=config.frozen),
        Stage("drop", config.drop_until, keep=config.keep, frozen=config.frozen),
        Stage("full", 1.0, frozen=config.frozen),
    )
