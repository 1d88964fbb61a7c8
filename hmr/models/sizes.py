"""The numbers that decide the shapes of an HMR model's weights."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Sizes(BaseModel):
    """All that decides the shapes of an HMR model's weights, and its drop path; the defaults are HMR2.0's."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    dim: int = Field(1280, ge=8)
    depth: int = Field(32, ge=0, le=1000)
    heads: int = Field(16, ge=1)
    mlp_dim: int = Field(5120, ge=1)
    drop_path: float = Field(0.55, ge=0, lt=1)
    head_dim: int = Field(1024, ge=1)
    head_depth: int = Field(6, ge=1, le=1000)
    head_heads: int = Field(8, ge=1)
    head_dim_head: int = Field(64, ge=1)
    head_mlp_dim: int = Field(1024, ge=1)
    token_dim: int = Field(1, ge=1)
    iterations: int = Field(1, ge=1, le=1000)
