"""HMR models by name and size: `build("hmr2")` is HMR2.0 to the key, `build("reference")` its small sister."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from compress.errors import BadInput
from compress.stack import Schedule, Stack, encode
from compress.tokens import Tokens, coverage
from hmr.head import HMROutput, SMPLHead
from hmr.vit import GRID, PATCH, ViT

__all__ = ["ARCHITECTURES", "HMRModel", "HMROutput", "Sizes", "build"]


class Sizes(BaseModel):
    """All that decides the shapes of an HMR model's weights, and its drop path; the defaults are HMR2.0's."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    stem: Literal["patch", "conv"] = "patch"
    dim: int = Field(1280, ge=8)
    depth: int = Field(32, ge=0)
    heads: int = Field(16, ge=1)
    mlp_dim: int = Field(5120, ge=1)
    drop_path: float = Field(0.55, ge=0, lt=1)
    head_dim: int = Field(1024, ge=1)
    head_depth: int = Field(6, ge=1)
    head_heads: int = Field(8, ge=1)
    head_dim_head: int = Field(64, ge=1)
    head_mlp_dim: int = Field(1024, ge=1)
    token_dim: Literal[1, 157] = 1
    iterations: int = Field(1, ge=1)


_REFERENCE = {
    "stem": "conv",
    "dim": 192,
    "depth": 16,
    "heads": 3,
    "mlp_dim": 768,
    "drop_path": 0.3,
    "head_dim": 192,
    "head_depth": 4,  # x 8 heads: 32 places to look at, and a person has 24 joints
    "head_heads": 8,
    "head_dim_head": 16,
    "head_mlp_dim": 192,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "hmr2": {},
    "reference": _REFERENCE,
    "reference-small": {**_REFERENCE, "depth": 8},
}


class HMRModel(nn.Module):
    """A backbone that turns a crop into tokens and a head that turns tokens into a body.

    It is a `compress.policy.Compressible`: policies change its `stack`, `schedule` and `protect`, in place.
    """

    head_needs: Literal["tokens", "grid"] = "tokens"

    def __init__(self, architecture: str, sizes: Sizes) -> None:
        super().__init__()
        self.architecture, self.sizes = architecture, sizes
        self.dim, self.grid = sizes.dim, GRID
        self.schedule = Schedule()
        self.protect: float | None = None
        self.backbone = ViT(sizes.dim, sizes.depth, sizes.heads, sizes.mlp_dim, sizes.drop_path, sizes.stem)
        self.smpl_head = SMPLHead(
            sizes.dim,
            sizes.head_dim,
            sizes.head_depth,
            sizes.head_heads,
            sizes.head_dim_head,
            sizes.head_mlp_dim,
            sizes.token_dim,
            sizes.iterations,
        )

    @property
    def stack(self) -> Stack:
        """The blocks that are compressed."""
        return self.backbone

    def forward(self, crop: Tensor, mask: Tensor | None = None, condition: Tensor | None = None) -> HMROutput:
        """crop (B, 3, 256, 192), ImageNet-normalised RGB -> HMROutput.

        mask (B, H, W): the person, bool or 0..1, at any resolution; only a model whose tokens were reduced by it looks
        at it, and cannot do without: BadInput. Some families take a condition; this one needs none.
        """
        return self.read(self.encode(crop, mask))

    def encode(self, crop: Tensor, mask: Tensor | None = None) -> Tokens:
        """The tokens that the head reads, knowing which patches each stands for; arguments as `forward`."""
        if self.schedule != Schedule():
            grid = (crop.shape[2] // PATCH, crop.shape[3] // PATCH)
            if grid != self.grid:
                raise BadInput(f"token schedule was made for a grid of {_by(self.grid)}, this crop gives {_by(grid)}")
        return encode(self.stack, crop, self.person(crop, mask), self.schedule)

    def read(self, tokens: Tokens) -> HMROutput:
        """What the head says of finished tokens."""
        return self.smpl_head(tokens.x)

    def person(self, crop: Tensor, mask: Tensor | None) -> Tensor | None:
        """How far each patch's share of person lies above the threshold (B, N0): more than 0 is protected. None where
        this model looks at no mask."""
        if self.protect is None:
            return None
        if mask is None:
            raise BadInput("this model's tokens were reduced around the person: it needs a person mask for each crop")
        if mask.ndim != 3 or len(mask) != len(crop):
            raise BadInput(f"a person mask is (B, H, W) with B = {len(crop)}, this one is {tuple(mask.shape)}")
        return coverage(mask, self.grid) - self.protect


def build(architecture: str, sizes: dict[str, Any] | None = None) -> HMRModel:
    """A model of the named architecture with random weights; `sizes` replaces fields of its `Sizes`.

    Raises BadInput for a name that is not in ARCHITECTURES and for sizes that make no model.
    """
    if architecture not in ARCHITECTURES:
        raise BadInput(f"no architecture is called {architecture!r}: choose one of {', '.join(ARCHITECTURES)}")
    try:
        checked = Sizes(**{**ARCHITECTURES[architecture], **(sizes or {})})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BadInput(f"sizes of {architecture}: {where}: {first['msg']} (got {first['input']!r})") from error
    if checked.dim % checked.heads:
        raise BadInput(f"sizes of {architecture}: dim {checked.dim} does not divide into {checked.heads} heads")
    return HMRModel(architecture, checked)


def _by(grid: tuple[int, int]) -> str:
    return f"{grid[0]} x {grid[1]}"
