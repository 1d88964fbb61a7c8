"""Narrower blocks: hidden units of MLPs and whole attention heads go, those first that add least to the tokens.

Blocks are those of a plain ViT (`attn.qkv`, one layer for q, k and v, `attn.proj`, `attn.heads`, `mlp.fc1`, `mlp.fc2`),
or of a stack that names theirs by `units(block)`, a `compress.stack.Units`. torch-pruning cuts them (Fang et al. 2023,
arXiv:2301.12900); its dependency graph is left aside, since it misses columns of separate q, k and v.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, ClassVar, Literal, Self

import torch
import torch_pruning
from pydantic import Field, model_validator
from torch import Tensor, nn

from compress.context import Context
from compress.errors import BadInput
from compress.frames import Judge
from compress.policies.merge_layers import evaluating
from compress.policy import Compressible, FrozenModel, MadeFor, Plan, Policy, knob
from compress.stack import LinearBlock, Stack, Units, encode, transformer_blocks
from compress.tokens import coverage


def units_of(stack: Stack, block: nn.Module) -> Units:
    """The layers of a block that have units: as its stack names them, or those of a plain ViT. Raises BadInput for
    a block of another kind."""
    known = getattr(stack, "units", None)
    try:
        found = plain_units(block) if known is None else known(block)
    except (AttributeError, BadInput) as error:
        raise BadInput(f"prune_width cannot prune {type(block).__name__} blocks: {error}") from error
    if not all(isinstance(layer, nn.Linear) for layer in (*found.project, found.out, *found.up, found.down)):
        raise BadInput(f"prune_width cannot prune {type(block).__name__} blocks: their layers are not linear")
    return found


def plain_units(block: nn.Module) -> Units:
    """Of a block of a plain ViT. Raises AttributeError, or BadInput where nothing counts its heads."""
    attention, qkv, out, up, down = map(block.get_submodule, ("attn", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"))
    if not isinstance(getattr(attention, "heads", None), int):
        raise BadInput("their attention names no `heads`")
    return Units(attention, ("heads",), (qkv,), out, (up,), down)  # type: ignore[arg-type]  # linear layers, see above


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


RATIOS = knob(0.0, 0.75, 0.125)


class PruneWidth(Policy):
    """Remove a share of the hidden units and of the heads of each block."""

    policy: Literal["prune_width"] = "prune_width"
    mlp_ratio: float = Field(
        0.0, ge=0, lt=1, description="share of each MLP's hidden units to remove", json_schema_extra=RATIOS
    )
    head_ratio: float = Field(
        0.0, ge=0, lt=1, description="share of each block's heads to remove; one always stays", json_schema_extra=RATIOS
    )

    @property
    def needs_calib(self) -> bool:
        return self.mlp_ratio > 0 or self.head_ratio > 0

    def check(self, model: Compressible) -> None:
        """Raise BadInput where the blocks of `model` are of a kind that cannot be pruned; linear maps stay as is."""
        for block in transformer_blocks(model.stack).values():
            units_of(model.stack, block)

    def plan(self, model: Compressible, context: Context) -> WidthPlan:
        """Rank the units of each block on the judge's crops, without labels (see `energy`); `model` stays as it is.

        Raises BadInput as `Policy.plan`.
        """
        self.check(model)
        places = transformer_blocks(model.stack)
        widths = [units_of(model.stack, block).widths for block in places.values()]
        left = [(count(heads, self.head_ratio), count(hidden, self.mlp_ratio)) for heads, hidden in widths]
        if left == widths:
            ranks = [(torch.zeros(heads), torch.zeros(hidden)) for heads, hidden in widths]
        else:  # computed once for all ratios of a search
            ranks = context.remembered("importances", lambda: importances(model, context.judge))
        blocks, lost = [], []
        for (heads, hidden), (few, some) in zip(ranks, left, strict=True):
            block = BlockWidth(heads=strongest(heads, few), hidden=strongest(hidden, some))
            blocks.append(block)
            lost.append({"heads": share_lost(heads, block.heads), "hidden": share_lost(hidden, block.hidden)})
        measured = {} if left == widths else {"energy_removed": lost}
        made_for, by_place = MadeFor.of(model), dict(zip(places, blocks, strict=True))
        every = tuple(by_place.get(place) for place in range(made_for.depth))
        return WidthPlan(made_for=made_for, blocks=every, measured=measured)


class WidthPlan(Plan):
    """Which heads and hidden units of each block are left."""

    noun: ClassVar[str] = "the plan to prune width"
    remedy: ClassVar[str] = "put prune_width after merge_layers"

    policy: Literal["prune_width"] = "prune_width"
    blocks: tuple[BlockWidth | None, ...]  # None: a linear map

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        if len(self.blocks) != self.made_for.depth:
            raise ValueError(f"there are {len(self.blocks)} blocks in a plan for {self.made_for.depth}")
        return self

    @property
    def empty(self) -> bool:
        return not any(block.heads.removed or block.hidden.removed for block in self._pruned)

    @property
    def _pruned(self) -> list[BlockWidth]:
        return [block for block in self.blocks if block is not None]

    def check(self, model: Compressible) -> None:
        """As `Plan.check`, and for the widths of each block."""
        super().check(model)
        for i, (block, width) in enumerate(zip(model.stack.blocks, self.blocks, strict=True)):
            if (width is None) != isinstance(block, LinearBlock):
                raise BadInput(f"{self.noun} knows another model, whose linear maps are elsewhere: {self.remedy}")
            if width is None:
                continue
            found, wanted = units_of(model.stack, block).widths, (width.heads.of, width.hidden.of)
            if found != wanted:
                raise BadInput(
                    f"{self.noun} was made for {wanted[0]} heads and {wanted[1]} hidden units in block {i}, this "
                    f"model has {found[0]} and {found[1]} there: make the plan again for this model"
                )

    def describe(self) -> str:
        heads = sum(len(block.heads.removed) for block in self._pruned)
        hidden = sum(len(block.hidden.removed) for block in self._pruned)
        return f"{heads} attention heads and {hidden} hidden units were removed from {len(self._pruned)} blocks."

    def shape(self, model: Any) -> Any:
        """Cut the units out of the weights, whatever these are. Raises as `check`."""
        self.check(model)
        with evaluating(model):
            for block, width in zip(model.stack.blocks, self.blocks, strict=True):
                if width and (width.heads.removed or width.hidden.removed):
                    narrow(model.stack, block, width)
        return model


PruneWidth.makes = WidthPlan


def count(units: int, ratio: float) -> int:
    """How many of `units` are left when a share `ratio` goes, to the nearest number; at least one."""
    return max(1, units - round(units * ratio))


def strongest(importance: Tensor, left: int) -> Kept:
    """The `left` most important units; of equal ones, the first."""
    order = importance.argsort(descending=True, stable=True)[:left]
    return Kept(of=len(importance), units=tuple(sorted(order.tolist())))


def share_lost(importance: Tensor, kept: Kept) -> float:
    """Share of the sum of all units' energies that goes with the removed ones."""
    return (importance[kept.removed].sum() / importance.sum().clamp_min(torch.finfo(importance.dtype).tiny)).item()


def second_moment(x: Tensor, units: int) -> Tensor:
    """Sum of x_u x_u^T over all rows of x (..., units * d): (units, d, d) float64."""
    parts = x.flatten(0, -2).unflatten(-1, (units, -1))  # (M, units, d)
    return torch.einsum("mud,mue->ude", parts, parts).double()


def energy(weight: Tensor, moment: Tensor) -> Tensor:
    """Mean |W_u x_u|^2 (units,): what each unit adds to the residual stream through its columns W_u of `weight`
    (C, units * d), from the mean `moment` (units, d, d) of x_u x_u^T.

    For a hidden unit, d = 1, it is the square of Wanda's weight norm times activation norm (Sun et al. 2023,
    arXiv:2306.11695, Eq. 1), over all weights of the unit; for a head, the same without its leaving out how the
    activations of one head go together.
    """
    columns = weight.detach().double().unflatten(1, (moment.shape[0], -1))  # (C, units, d)
    return torch.einsum("cud,ude,cue->u", columns, moment, columns)


@torch.no_grad()
def importances(model: Compressible, judge: Judge) -> list[tuple[Tensor, Tensor]]:
    """Of each block that is no map, the energies of its heads and hidden units over all tokens of the judge's crops, on
    the CPU."""
    found = [units_of(model.stack, block) for block in transformer_blocks(model.stack).values()]
    units = {layers.out: layers.widths[0] for layers in found} | {layers.down: layers.widths[1] for layers in found}
    with evaluating(model), moments(units) as seen:
        for index, crop in enumerate(judge.crops):
            encode(model.stack, crop, person(model, judge, index), model.schedule)
    energies = {layer: energy(layer.weight, seen[layer]).cpu() for layer in units}
    return [(energies[layers.out], energies[layers.down]) for layers in found]


@contextmanager
def moments(units: dict[nn.Linear, int]) -> Iterator[dict[nn.Linear, Tensor]]:
    """Watch what goes into layers of so many units: afterwards, the mean `second_moment` of each."""
    sums: dict[nn.Linear, Tensor] = {}
    rows: dict[nn.Linear, int] = {}

    def see(layer: nn.Linear, inputs: tuple[Tensor, ...]) -> None:
        sums[layer] = second_moment(inputs[0], units[layer]) + sums.get(layer, 0)
        rows[layer] = inputs[0].shape[:-1].numel() + rows.get(layer, 0)

    watches = [layer.register_forward_pre_hook(see) for layer in units]
    try:
        yield sums
    finally:
        for watch in watches:
            watch.remove()
    sums.update({layer: total / rows[layer] for layer, total in sums.items()})


def person(model: Compressible, judge: Judge, index: int) -> Tensor | None:
    """How far each patch's share of person lies above the model's threshold (B, N0), where it looks at masks."""
    if model.protect is None:
        return None
    if judge.masks is None:
        raise BadInput("this model's tokens were reduced around the person: prune_width needs frames with masks")
    return coverage(judge.masks[index], model.grid) - model.protect


def narrow(stack: Stack, block: nn.Module, width: BlockWidth) -> None:
    """Cut what `width` leaves out of a block of `stack`, in place. Nothing that is cut reaches beyond the block, since
    the residual stream keeps its width."""
    units = units_of(stack, block)
    features = units.out.in_features // width.heads.of  # of a head
    rows = [head * features + i for head in width.heads.units for i in range(features)]
    columns, hidden = (torch.tensor(i, device="cpu") for i in (rows, width.hidden.units))  # of models on "meta" too
    for layer in (*units.project, *units.per_head):
        cut(layer, repeated(columns, layer, units.out.in_features), 0)
    for layer in (*units.up, *units.per_hidden):
        cut(layer, repeated(hidden, layer, units.down.in_features), 0)
    cut(units.out, columns, 1)
    cut(units.down, hidden, 1)
    for name in units.counts:
        setattr(units.attention, name, len(width.heads.units))
    for name in units.totals:
        setattr(units.attention, name, len(columns))


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
