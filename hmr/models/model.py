"""HMR models by name and size: `build("hmr2")` is HMR2.0 to the key, `build("reference")` DINOv2 under HMR2.0's head.

What the families do differently stands in `hmr.models.families`.
"""

from __future__ import annotations

from typing import Any, Literal, cast

from pydantic import ValidationError
from torch import Tensor

from compress.artefact import Base, weights_id
from compress.cost.macs import Cost
from compress.errors import BadInput
from compress.late import LateStack
from compress.stack import Schedule, Stack, encode
from compress.tokens import Tokens, coverage
from hmr.models.cost import frame_calls, frame_cost
from hmr.models.families import FAMILIES
from hmr.models.head import HMROutput, SMPLHead
from hmr.models.late_units import late_units
from hmr.models.regressor import BodyRegressor, family_of
from hmr.models.sizes import Sizes

__all__ = ["ARCHITECTURES", "HMRModel", "HMROutput", "Sizes", "build", "family_of"]

ARCHITECTURES: dict[str, dict[str, Any]] = {  # name -> where its sizes are not its family's
    **{name: {} for name in FAMILIES},
    "reference": {},
    "reference-small": {"depth": 6},
}


class HMRModel(BodyRegressor):
    """A backbone that turns a crop into tokens and a head that turns tokens into a body.

    It is a `compress.policy.Compressible`: policies change its `stack`, `schedule` and `protect`, in place.
    """

    head_needs: Literal["tokens", "grid"] = "tokens"
    smpl_head: SMPLHead  # in the families that do not call it otherwise: see `head`

    def __init__(self, architecture: str, sizes: Sizes) -> None:
        super().__init__(architecture)
        self.sizes = sizes
        self.dim, self.grid = sizes.dim, self.family.grid
        self.schedule = Schedule()
        self.protect: float | None = None
        self.backbone = self.family.backbone(sizes, self.grid, self.family.patch)
        self.add_module(self.family.head_name, self.family.head(sizes))
        for name, network in self.family.beside(sizes).items():
            self.add_module(name, network)

    @property
    def base(self) -> Base:
        """What an artefact made from this model records about it."""
        weights = self.sha256 or ("" if self.is_meta else weights_id(self))
        sizes = self.sizes.model_dump(mode="json")
        return Base(name=self.name, architecture=self.architecture, sizes=sizes, sha256=weights)

    @property
    def is_meta(self) -> bool:
        """Whether it has shapes and no weights."""
        return next(self.parameters()).is_meta

    @property
    def head(self) -> SMPLHead:
        """The head, whatever its family calls it."""
        return cast(SMPLHead, self.get_submodule(self.family.head_name))

    @property
    def stack(self) -> Stack:
        """The blocks that are compressed."""
        return self.backbone

    @property
    def stacks(self) -> dict[str, LateStack]:
        """The layers in which the head's query reads the image."""
        layers = self.head.transformer.transformer
        return {"decoder": LateStack(layers, "layers", late_units, self.sizes.head_dim)}

    def forward(self, crop: Tensor, mask: Tensor | None = None, condition: Tensor | None = None) -> HMROutput:
        """crop (B, 3, H, W), ImageNet-normalised RGB of the family's size -> HMROutput.

        mask (B, H, W): the person, bool or 0..1, at any resolution; only a model whose tokens were reduced by it looks
        at it, and cannot do without: BadInput. condition: what the family needs beside the crop: for CameraHMR, which
        raises BadInput without, `hmr.body.camera.bbox_info` (B, 3).
        """
        return self.read(self.encode(crop, mask), condition)

    def encode(self, crop: Tensor, mask: Tensor | None = None) -> Tokens:
        """The tokens that the head reads, knowing which patches each stands for; arguments as `forward`."""
        if self.schedule != Schedule():
            patch = self.family.patch
            grid = (crop.shape[2] // patch, crop.shape[3] // patch)
            if grid != self.grid:
                raise BadInput(f"token schedule was made for a grid of {_by(self.grid)}, this crop gives {_by(grid)}")
        return encode(self.stack, crop, self.person(crop, mask), self.schedule)

    def read(self, tokens: Tokens, condition: Tensor | None = None) -> HMROutput:
        """The head's output for finished tokens; condition as `forward`."""
        return self.head(tokens.x, condition)

    def cost(self) -> Cost:
        """Parameters and multiply-accumulates of one frame with one person."""
        return frame_cost(self)

    calls = frame_calls

    def person(self, crop: Tensor, mask: Tensor | None) -> Tensor | None:
        """How far each patch's share of person lies above the threshold (B, N0): more than 0 is protected. None where
        this model looks at no mask."""
        if self.protect is None:
            return None
        if mask is None:
            raise BadInput("this model's tokens were reduced around the person: it needs a person mask for each crop")
        if mask.ndim != 3 or mask.shape[0] != crop.shape[0]:
            raise BadInput(f"a person mask is (B, H, W) with B = {len(crop)}, this one is {tuple(mask.shape)}")
        return coverage(mask, self.grid) - self.protect


def build(architecture: str, sizes: dict[str, Any] | None = None) -> HMRModel:
    """A model of the named architecture with random weights; `sizes` replaces fields of its family's `Sizes`.

    Raises BadInput for a name that is not in ARCHITECTURES and for sizes that make no model.
    """
    if architecture not in ARCHITECTURES:
        raise BadInput(f"no architecture is called {architecture!r}: choose one of {', '.join(ARCHITECTURES)}")
    try:
        checked = family_of(architecture).sizes(**{**ARCHITECTURES[architecture], **(sizes or {})})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BadInput(f"sizes of {architecture}: {where}: {first['msg']} (got {first['input']!r})") from error
    if checked.dim % checked.heads:
        raise BadInput(f"sizes of {architecture}: dim {checked.dim} does not divide into {checked.heads} heads")
    allowed = family_of(architecture).token_dims
    if checked.token_dim not in allowed:
        wanted = " or ".join(map(str, allowed))
        raise BadInput(f"sizes of {architecture}: token_dim: {wanted} numbers make its query (got {checked.token_dim})")
    return HMRModel(architecture, checked)


def _by(grid: tuple[int, int]) -> str:
    return f"{grid[0]} x {grid[1]}"
