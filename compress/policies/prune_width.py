"""Narrower blocks: hidden units of MLPs and whole attention heads go, those first that add least to the tokens.

torch-pruning cuts them (Fang et al. 2023, arXiv:2301.12900); its dependency graph is left aside, since it misses
columns of separate q, k and v.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
import torch_pruning
from pydantic import Field, model_validator
from torch import Tensor, nn

from compress.context import Context
from compress.errors import BadInput
from compress.frames import Judge
from compress.late import LateStack, stack_of
from compress.layers.energies import importances, run_late, units_of
from compress.policies.merge_layers import evaluating
from compress.policy import Compressible, FrozenModel, Knob, MadeFor, ModelSize, Plan, Policy, knob, of_stack
from compress.ranking.scores import rank
from compress.stack import Heads, LinearBlock, Stack, transformer_blocks


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


RATIOS = knob(0.0, 0.75, 0.125)
Counts = tuple[Annotated[int, Field(ge=1)], ...]


def counts(what: str) -> Any:
    """A field for the number of units left in each block; unset, it stays out of ids."""
    return Field(None, exclude_if=lambda given: given is None, description=f"{what} left in each block, not a share")


class PruneWidth(Policy):
    """Remove a share of the hidden units and of the heads of each block."""

    policy: Literal["prune_width"] = "prune_width"
    stack: str | None = of_stack()
    mlp_ratio: float = Field(
        0.0, ge=0, lt=1, description="share of each MLP's hidden units to remove", json_schema_extra=RATIOS
    )
    head_ratio: float = Field(
        0.0, ge=0, lt=1, description="share of each block's heads to remove; one always stays", json_schema_extra=RATIOS
    )
    heads: Counts | None = counts("attention heads")
    hidden: Counts | None = counts("hidden units")
    rank: Literal["energy", "output"] = Field(
        "energy",
        exclude_if=lambda rank: rank == "energy",
        description="which units go: those that add least to the tokens, or that move the output least",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for given, ratio in (("heads", "head_ratio"), ("hidden", "mlp_ratio")):
            if getattr(self, given) is not None:
                self.refuse_changed((ratio,), f"beside {given}, which takes its place")
        if self.stack is not None:
            self.refuse_changed(("rank",), "with a stack, whose units are ranked by energy")
        return self

    def knobs(self, size: ModelSize | None = None) -> dict[str, Knob]:
        idle = {"head_ratio": self.heads, "mlp_ratio": self.hidden}
        return {name: knob for name, knob in super().knobs(size).items() if idle.get(name) is None}

    def fit(self, size: ModelSize) -> ModelSize:
        """As it is. Raises BadInput where `heads` or `hidden` are of another number of blocks."""
        for name in ("heads", "hidden"):
            given, blocks = getattr(self, name), size.depth(self.stack)
            if given is not None and len(given) != blocks:
                raise BadInput(f"prune_width: {name}: {len(given)} numbers, and there are {blocks} blocks here")
        return size

    def left(self, widths: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """How many of the units of each block stay. Raises BadInput where there are fewer."""
        found = []
        for i, (*heads, hidden) in enumerate(widths):
            few = [self.heads[i] if self.heads else count(n, self.head_ratio) for n in heads]
            some = self.hidden[i] if self.hidden else count(hidden, self.mlp_ratio)
            if some > hidden or any(k > n for k, n in zip(few, heads, strict=True)):
                raise BadInput(f"prune_width: block {i} has {listed(heads)} heads and {hidden} hidden units, not more")
            found.append((*few, some))
        return found

    @property
    def needs_calib(self) -> bool:
        return self.mlp_ratio > 0 or self.head_ratio > 0 or bool(self.heads or self.hidden)

    def check(self, model: Compressible) -> None:
        """Raise BadInput where the blocks of `model` are of a kind that cannot be pruned; linear maps stay as is."""
        stack = stack_of(model, self.stack)
        for block in transformer_blocks(stack).values():
            units_of(stack, block)

    def outline(self, model: Compressible) -> WidthPlan:
        widths = self._widths(model)
        return self._planned(model, [tuple(map(torch.zeros, every)) for every in widths], self.left(widths))

    def plan(self, model: Compressible, context: Context) -> WidthPlan:
        """Rank the units of each block on the judge's crops, without labels (see `energy`); `model` stays as it is.

        Raises BadInput as `Policy.plan`.
        """
        widths = self._widths(model)
        left = self.left(widths)
        if left == widths:
            return self.outline(model)
        plan = self._planned(model, self._ranks(model, context), left)
        stack = stack_of(model, self.stack)
        if isinstance(stack, LateStack) and not plan.empty:
            refuse_unable(model, stack, plan, context.judge)
        return plan

    def _widths(self, model: Compressible) -> list[tuple[int, ...]]:
        """Units of each block that is no map. Raises BadInput as `check` and `fit`."""
        self.check(model)
        self.fit(ModelSize.of(model))
        stack = stack_of(model, self.stack)
        return [units_of(stack, block).widths for block in transformer_blocks(stack).values()]

    def _planned(
        self, model: Compressible, ranks: Sequence[tuple[Tensor, ...]], left: Sequence[tuple[int, ...]]
    ) -> WidthPlan:
        """The plan to leave so many of the units that count most in each block."""
        blocks = [BlockWidth.of([*map(strongest, ranked, few)]) for ranked, few in zip(ranks, left, strict=True)]
        lost = [lost_with(ranked, block) for ranked, block in zip(ranks, blocks, strict=True)]
        places = transformer_blocks(stack_of(model, self.stack))
        made_for, by_place = MadeFor.of(model, self.stack), dict(zip(places, blocks, strict=True))
        return WidthPlan(
            stack=self.stack,
            made_for=made_for,
            blocks=tuple(by_place.get(place) for place in range(made_for.depth)),
            measured={"energy_removed": lost} if any(block.removes for block in blocks) else {},
        )

    def _ranks(self, model: Compressible, context: Context) -> list[tuple[Tensor, ...]]:
        """How much each unit of each block counts; computed once for all widths of a search."""
        if self.rank == "output":
            scores = context.remembered("scores", lambda: rank(model, context.judge, context.observer))
            return [(block.heads, block.hidden) for block in scores]
        key = "importances" if self.stack is None else f"importances of {self.stack}"
        return context.remembered(key, lambda: importances(model, context.judge, self.stack))


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
        return not any(block.removes for block in self._pruned)

    @property
    def _pruned(self) -> list[BlockWidth]:
        return [block for block in self.blocks if block is not None]

    def check(self, model: Compressible) -> None:
        """As `Plan.check`, and for the widths of each block."""
        super().check(model)
        stack = stack_of(model, self.stack)
        for i, (block, width) in enumerate(zip(stack.blocks, self.blocks, strict=True)):
            if (width is None) != isinstance(block, LinearBlock):
                raise BadInput(f"{self.noun} knows another model, whose linear maps are elsewhere: {self.remedy}")
            if width is None:
                continue
            found, wanted = units_of(stack, block).widths, tuple(kept.of for kept in width.every)
            if found != wanted:
                (*heads, hidden), (*others, units) = wanted, found
                raise BadInput(
                    f"{self.noun} was made for {listed(heads)} heads and {hidden} hidden units in block {i}, this "
                    f"model has {listed(others)} and {units} there: make the plan again for this model"
                )

    def describe(self) -> str:
        heads = sum(len(kept.removed) for block in self._pruned for kept in (block.heads, *block.others))
        hidden = sum(len(block.hidden.removed) for block in self._pruned)
        of = f" of {self.stack}" if self.stack else ""
        return f"{heads} attention heads and {hidden} hidden units were removed from {len(self._pruned)} blocks{of}."

    def shape(self, model: Any) -> Any:
        """Cut the units out of the weights, whatever these are. Raises as `check`."""
        self.check(model)
        stack = stack_of(model, self.stack)
        with evaluating(model):
            self.cut(stack, list(stack.blocks))
        return model

    def cut(self, stack: Any, blocks: Sequence[nn.Module]) -> None:
        """Leave what is planned of each of the blocks, in place."""
        for block, width in zip(blocks, self.blocks, strict=True):
            if width and width.removes:
                narrow(stack, block, width)


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


def lost_with(ranked: Sequence[Tensor], width: BlockWidth) -> dict[str, float | list[float]]:
    """The share of each kind of units' energy that goes with a block's removed ones."""
    heads, *others, hidden = (share_lost(one, kept) for one, kept in zip(ranked, width.every, strict=True))
    return {"heads": heads, "hidden": hidden, **({"others": others} if others else {})}


def listed(numbers: Sequence[int]) -> str:
    return " and ".join(map(str, numbers))


def refuse_unable(model: Any, stack: LateStack, plan: WidthPlan, judge: Judge) -> None:
    """Raise BadInput where a late stack's blocks, which run as their authors wrote them, cannot be as narrow."""
    blocks = copy.deepcopy(list(stack.blocks))
    plan.cut(stack, blocks)
    try:
        with evaluating(model), stack.holding(blocks):
            run_late(model, judge, 0)
    except (RuntimeError, ValueError, AssertionError) as error:  # of a stranger's layers
        raise BadInput(f"prune_width: blocks of {plan.stack} do not run with fewer units: {error}") from error


def narrow(stack: Stack, block: nn.Module, width: BlockWidth) -> None:
    """Cut what `width` leaves out of a block of `stack`, in place. Nothing that is cut reaches beyond the block, since
    the residual stream keeps its width."""
    units = units_of(stack, block)
    for heads, kept in zip(units.heads, width.every[:-1], strict=True):
        narrow_heads(heads, kept)
    hidden = torch.tensor(width.hidden.units, device="cpu")
    for layer in (*units.up, *units.per_hidden):
        cut(layer, repeated(hidden, layer, units.down.in_features), 0)
    cut(units.down, hidden, 1)


def narrow_heads(heads: Heads, kept: Kept) -> None:
    """Leave some heads of an attention."""
    of = heads.out.in_features
    features = of // kept.of  # of a head
    rows = [head * features + i for head in kept.units for i in range(features)]
    columns = torch.tensor(rows, device="cpu")  # of models on "meta" too
    for layer in (*heads.project, *heads.per_head):
        cut(layer, repeated(columns, layer, of), 0)
    cut(heads.out, columns, 1)
    for name in heads.counts:
        setattr(heads.attention, name, len(kept.units))
    for name in heads.totals:
        setattr(heads.attention, name, len(columns))


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
