"""What sets one HMR family apart from another, as data; the networks themselves are in the files beside this one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from hmr.models.head import SMPLHead
from hmr.models.sizes import Sizes
from hmr.models.vit import Backbone, ViT


@dataclass(frozen=True)
class Box:
    """How a box (width, height) in pixels becomes the square that is cut out and resized to the height of a crop.

    The box grows by `factor`, then to `aspect` = (width, height) where there is one; its longer side is the square's.
    The network sees the middle columns, as many as its crops are wide.
    """

    factor: float = 1.0
    aspect: tuple[int, int] | None = (192, 256)

    def side(self, width: float, height: float) -> float:
        """Side of the square in pixels."""
        width, height = self.factor * width, self.factor * height
        if self.aspect is None:
            return max(width, height)
        across, down = self.aspect
        return max(width, height, width * down / across, height * across / down)


Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class SeparatePart:
    """A part of a network whose weights come in a file of their own."""

    prefix: str  # of its keys in ours
    argument: str  # of `hmr.checkpoints.files.load`, for that file
    anchor: str  # a key in that file, which shows where the part's keys begin
    keys: tuple[str, ...]  # how those begin
    needed: str = ""  # why it does not go without; empty where it does


def vitpose(sizes: Sizes, grid: tuple[int, int], patch: int) -> Backbone:
    """HMR2.0's backbone."""
    return ViT(sizes.dim, sizes.depth, sizes.heads, sizes.mlp_dim, sizes.drop_path, grid, patch)


@dataclass(frozen=True)
class Family:
    """A kind of network: its head, its conventions and how its files are recognised."""

    name: str
    mark: str  # a key, from the head's prefix on, that files of this family have and those of earlier ones lack
    licence: str  # of the code that its weights were made with; weights may come with terms of their own
    crop: tuple[int, int] = (256, 192)  # (height, width) in pixels of what it sees of a picture
    patch: int = 16  # pixels of a token and side
    backbone: Callable[[Sizes, tuple[int, int], int], Backbone] = vitpose  # of a grid and a patch
    head: type[SMPLHead] = SMPLHead
    head_name: str = "smpl_head"  # the prefix of its keys
    sizes: type[Sizes] = Sizes
    token_dims: tuple[int, ...] = (1, 157)
    box: Box = field(default_factory=Box)
    turned: bool = False  # whether its crops are of a camera that looks through their middle, as those it learned from
    condition: str | None = None  # what `forward` needs beside the crop
    beside: Callable[[Sizes], Mapping[str, nn.Module]] = lambda _sizes: {}  # networks that run beside the backbone
    parts: tuple[SeparatePart, ...] = ()
    sizes_from: Callable[[Shapes], Mapping[str, int]] = lambda _shapes: {}  # fields of `sizes` that shapes determine
    # dim -> attention heads, which shapes do not determine: those of ViTPose's three larger backbones
    heads: Mapping[int, int] = field(default_factory=lambda: {768: 12, 1024: 16, 1280: 16})

    unused: tuple[str, ...] = ()  # keys under the model's prefixes that only pretraining needs

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens (rows, columns) of a crop."""
        return self.crop[0] // self.patch, self.crop[1] // self.patch

    @property
    def prefixes(self) -> tuple[str, str]:
        """Of the keys that have to fit exactly."""
        return "backbone.", f"{self.head_name}."
