"""Which units of a block are left, and how the others are cut out of its weights.

torch-pruning cuts them (Fang et al. 2023, arXiv:2301.12900); its dependency graph is left aside, since it misses
columns of separate q, k and v.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Self

import torch
import torch_pruning
from pydantic import Field, model_validator
from torch import Tensor, nn

from compress.layers.units import units_of
from compress.policy import FrozenModel
from compress.stack import Heads, Stack, Units


class Kept(FrozenModel):
    """Which of `of` units are left."""

    of: int = Field(ge=1)
    units: tuple[int, ...]

    @model_validator(mode="after")
    def _possible(self) -> Self:
        units = self.units
        if not units or units[0] < 0 or units[-1] >= self.of or any(a >= b for a, b in pairwise(units)):
            raise ValueError(f"units have to be some of the numbers 0 to {self.of - 1}, in order, each once")
        return self

    @property
    def removed(self) -> list[int]:
        return sorted({*range(self.of)} - {*self.units})


class BlockWidth(FrozenModel):
    """What is left of a block."""

    heads: Kept
    hidden: Kept
    # heads of a decoder's other attentions; without them it stays out of JSON, as before there were any
    others: tuple[Kept, ...] = Field((), exclude_if=lambda others: not others)

    @classmethod
    def of(cls, kept: Sequence[Kept]) -> BlockWidth:
        """Of the units of each attention and of the MLP, as `Units.widths` has them."""
        heads, *others, hidden = kept
        return cls(heads=heads, hidden=hidden, others=tuple(others))

    @property
    def every(self) -> tuple[Kept, ...]:
        """As `Units.widths` has them."""
        return self.heads, *self.others, self.hidden

    @property
    def removes(self) -> bool:
        return any(kept.removed for kept in self.every)


def narrow(stack: Stack, block: nn.Module, width: BlockWidth) -> None:
    """Cut what `width` leaves out of a block of `stack`, in place. Nothing that is cut reaches beyond the block, since
    the residual stream keeps its width."""
    units = units_of(stack, block)
    for heads, kept in zip(units.heads, width.every[:-1], strict=True):
        narrow_heads(heads, kept)
    narrow_hidden(units, width.hidden)


def narrow_hidden(units: Units, kept: Kept) -> None:
    """Leave some hidden units of an MLP."""
    hidden = torch.tensor(kept.units, device="cpu")
    for layer in (*units.up, *units.per_hidden):
        cut(layer, repeated(hidden, layer, units.down.in_features), 0)
    cut(units.down, hidden, 1)


def narrow_heads(heads: Heads, kept: Kept) -> None:
    """Leave some heads of an attention."""
    of, columns = heads.out.in_features, columns_of(kept, heads.out)
    for layer in (*heads.project, *heads.per_head):
        cut(layer, repeated(columns, layer, of), 0)
    cut(heads.out, columns, 1)
    for name in heads.counts:
        setattr(heads.attention, name, len(kept.units))
    for name in heads.totals:
        setattr(heads.attention, name, len(columns))


def columns_of(kept: Kept, reader: nn.Linear) -> Tensor:
    """The columns of a layer that reads the units that are left, each of which has as many."""
    each = reader.in_features // kept.of
    return torch.tensor([unit * each + i for unit in kept.units for i in range(each)], device="cpu")  # on "meta" too


def repeated(rows: Tensor, layer: nn.Module, of: int) -> Tensor:
    """`rows` of `of`, in each of the layers that a fused one stands for: q, k and v, or gate and value."""
    times = layer.out_features // of if isinstance(layer, nn.Linear) else 1
    return torch.cat([rows + i * of for i in range(times)])


def cut(layer: nn.Module, index: Tensor, dim: int) -> None:
    """Leave `index` alone of a layer's rows (dim 0: of every tensor it has) or of a linear layer's columns (dim 1)."""
    trained = {name: value.requires_grad for name, value in layer.named_parameters(recurse=False)}
    if isinstance(layer, nn.Linear):
        prune = (torch_pruning.prune_linear_out_channels, torch_pruning.prune_linear_in_channels)[dim]
        prune(layer, sorted({*range(layer.weight.shape[dim])} - {*index.tolist()}))
    left = () if isinstance(layer, nn.Linear) else layer.named_parameters(recurse=False)
    for name, value in (*left, *layer.named_buffers(recurse=False)):
        if value.ndim > dim:
            kept = value.detach().index_select(dim, index.to(value.device))
            setattr(layer, name, nn.Parameter(kept) if name in trained else kept)
    for name, value in layer.named_parameters(recurse=False):
        value.requires_grad_(trained[name])  # new parameters are all trained
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        layer.normalized_shape = (len(index),)
