"""Where the blocks of known transformers keep their parts, and which layout a block has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from compress.errors import BadInput

HEADS = ("num_heads", "heads", "num_attention_heads")


@dataclass(frozen=True)
class Layout:
    """Where pre-norm blocks of one kind keep their parts, as dotted names; those in `maybe` may be missing."""

    attention: str  # the module that knows the number of heads
    norm1: str
    project: tuple[str, ...]  # one fused projection, or those to q, k and v
    out: tuple[str, ...]  # one after the other
    norm2: str
    mlp: tuple[str, ...]
    scale1: str
    scale2: str
    qk_norm: tuple[str, str] | None = None

    @property
    def maybe(self) -> tuple[str, ...]:
        return (self.scale1, self.scale2, *(self.qk_norm or ()), *self.out[:-1])

    @property
    def needed(self) -> tuple[str, ...]:
        return (self.norm1, *self.project, self.out[-1], self.norm2, *self.mlp)


LAYOUTS = {
    "fused qkv": Layout(
        attention="attn",
        norm1="norm1",
        project=("attn.qkv",),
        out=("attn.norm", "attn.proj"),
        norm2="norm2",
        mlp=("mlp",),
        scale1="ls1",
        scale2="ls2",
        qk_norm=("attn.q_norm", "attn.k_norm"),
    ),
    "Hugging Face ViT (transformers 5)": Layout(
        attention="attention",
        norm1="layernorm_before",
        project=("attention.q_proj", "attention.k_proj", "attention.v_proj"),
        out=("attention.o_proj",),
        norm2="layernorm_after",
        mlp=("mlp",),
        scale1="layer_scale1",
        scale2="layer_scale2",
    ),
    "Hugging Face ViT (transformers 4)": Layout(
        attention="attention.attention",
        norm1="layernorm_before",
        project=("attention.attention.query", "attention.attention.key", "attention.attention.value"),
        out=("attention.output.dense",),
        norm2="layernorm_after",
        mlp=("intermediate", "output.dense"),
        scale1="layer_scale1",
        scale2="layer_scale2",
    ),
    "Hugging Face DINOv2": Layout(
        attention="attention.attention",
        norm1="norm1",
        project=("attention.attention.query", "attention.attention.key", "attention.attention.value"),
        out=("attention.output.dense",),
        norm2="norm2",
        mlp=("mlp",),
        scale1="layer_scale1",
        scale2="layer_scale2",
    ),
}


@dataclass(frozen=True)
class Parts:
    """A block's parts by name; one that is missing changes nothing."""

    block: nn.Module

    def get(self, name: str) -> nn.Module | None:
        here: Any = self.block
        for step in name.split("."):
            here = getattr(here, step, None)
        return here if isinstance(here, nn.Module) else None

    def run(self, name: str, x: Tensor) -> Tensor:
        part = self.get(name) if name else None
        return x if part is None else part(x)

    def dtype(self, norm: str) -> torch.dtype:
        """What a norm computes in; one without weights of its own in what the block does."""
        return next(iter((*cast(nn.Module, self.get(norm)).parameters(), *self.block.parameters()))).dtype

    def heads(self, layout: Layout) -> int:
        attn = self.get(layout.attention)
        return next((n for name in HEADS if isinstance(n := getattr(attn, name, None), int)), 0)


def layout_of(block: nn.Module) -> Layout:
    """The layout that leaves no part missing and no weight over; raises BadInput for the one that comes nearest."""
    missed = {name: unaccounted(block, layout) for name, layout in LAYOUTS.items()}
    nearest = min(missed, key=lambda name: len(missed[name]))
    if missed[nearest]:
        differences = "; ".join(missed[nearest][:6])
        kind = type(block).__name__
        raise BadInput(f"{kind} blocks are of no layout known here. Nearest is {nearest}: {differences}")
    return LAYOUTS[nearest]


def unaccounted(block: nn.Module, layout: Layout) -> list[str]:
    """What a block lacks of a layout, and the weights of the block that the layout has no place for."""
    parts = Parts(block)
    lacks = [f"no {name}" for name in layout.needed if parts.get(name) is None]
    if not parts.heads(layout):
        lacks.append(f"no {layout.attention}.{HEADS[0]}")
    known = tuple(f"{name}." for name in (*layout.needed, *layout.maybe))
    names = [name for name, _ in (*block.named_parameters(), *block.named_buffers())]
    return lacks + [f"{name} has no place" for name in names if not name.startswith(known)]
