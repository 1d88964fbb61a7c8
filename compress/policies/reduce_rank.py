"""MLPs of low rank: each of their linear layers becomes two narrow ones, fitted to what goes into it on frames."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import nn

from compress.context import Context, fingerprint
from compress.errors import BadInput
from compress.frames import Judge
from compress.late import stack_of
from compress.layers.low_rank import pair_like, put, reduced, reducible
from compress.layers.one_by_one import changed
from compress.layers.units import units_of
from compress.policy import Compressible, FrozenModel, MadeFor, Plan, Policy, knob, of_stack
from compress.stack import LinearBlock, transformer_blocks


class ReduceRank(Policy):
    """Make the linear layers of each block's MLP of low rank; one that would take no less for it stays as it is."""

    stage: ClassVar[int] = 2  # whatever works on whole layers comes before it

    policy: Literal["reduce_rank"] = "reduce_rank"
    stack: str | None = of_stack()
    mlp_rank: float = Field(
        gt=0,
        le=1,
        description="rank of the layers of each MLP, as a share of the width of tokens",
        json_schema_extra=knob(0.125, 0.875, 0.125),
    )

    @property
    def needs_calib(self) -> bool:
        return True

    def check(self, model: Compressible) -> None:
        """Raise BadInput where an MLP of `model` is of a kind that is not known; linear maps stay as is."""
        stack = stack_of(model, self.stack)
        for block in transformer_blocks(stack).values():
            reducible(stack, block, 1)

    def outline(self, model: Compressible) -> RankPlan:
        self.check(model)
        made_for, stack = MadeFor.of(model, self.stack), stack_of(model, self.stack)
        rank = max(1, round(self.mlp_rank * made_for.dim))
        blocks = tuple(
            MLPRank(hidden=units_of(stack, block).down.in_features)
            if not isinstance(block, LinearBlock) and reducible(stack, block, rank)
            else None
            for block in stack.blocks
        )
        return RankPlan(stack=self.stack, made_for=made_for, rank=rank, blocks=blocks)

    def plan(self, model: Compressible, context: Context) -> RankPlan:
        """Fit the layers on the judge's crops, without labels; their weights go to `context.weights`. Raises BadInput
        as `Policy.plan`."""
        outline = self.outline(model)
        if outline.empty:
            return outline
        pairs = outline.fitted(model, context.judge)
        named = {place: fingerprint(one) for place, one in pairs.items()}
        context.weights.update({named[place]: one.state_dict() for place, one in pairs.items()})
        blocks = [b and b.model_copy(update={"sha256": named[i]}) for i, b in enumerate(outline.blocks)]
        return outline.model_copy(update={"blocks": tuple(blocks)})


class MLPRank(FrozenModel):
    """A block whose MLP is of low rank."""

    hidden: int = Field(ge=1)  # units of the MLP
    sha256: str = ""  # of its new layers; none in an outline


class RankPlan(Plan):
    """In which blocks the MLP's layers are of which rank."""

    noun: ClassVar[str] = "the plan to reduce rank"
    remedy: ClassVar[str] = "put reduce_rank after merge_layers"

    policy: Literal["reduce_rank"] = "reduce_rank"
    rank: int = Field(ge=1)
    blocks: tuple[MLPRank | None, ...]  # None: as it was

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        if len(self.blocks) != self.made_for.depth:
            raise ValueError(f"there are {len(self.blocks)} blocks in a plan for {self.made_for.depth}")
        return self

    @property
    def empty(self) -> bool:
        return not any(self.blocks)

    def check(self, model: Compressible) -> None:
        """As `Plan.check`, and for the hidden units of each block."""
        super().check(model)
        stack = stack_of(model, self.stack)
        for i, (block, planned) in enumerate(zip(stack.blocks, self.blocks, strict=True)):
            found = 0 if isinstance(block, LinearBlock) or not planned else units_of(stack, block).down.in_features
            if planned and found != planned.hidden:
                raise BadInput(
                    f"{self.noun} was made for {planned.hidden} hidden units in block {i}, this model has {found} "
                    "there: make the plan again for this model"
                )

    def describe(self) -> str:
        of = f" of {self.stack}" if self.stack else ""
        if self.empty:
            return f"No MLP{of} takes less with layers of rank {self.rank}."
        return f"The layers of {sum(map(bool, self.blocks))} MLPs{of} became pairs of rank {self.rank}."

    def fitted(self, model: Any, judge: Judge) -> dict[int, nn.ModuleList]:
        """The new layers of each planned block, by its place. Raises BadInput as `changed`."""
        stack = stack_of(model, self.stack)
        change = partial(reduced, stack, self.rank)
        blocks = changed(model, self.stack, judge, [change if one else None for one in self.blocks])
        return {i: layers_at(blocks[i], names) for i, names in self._places(model).items()}

    def shape(self, model: Any) -> Any:
        """Put layers of any weights in their place. Raises as `check`."""
        self.check(model)
        stack = stack_of(model, self.stack)
        for i, names in self._places(model).items():
            for name in names:
                layer = stack.blocks[i].get_submodule(name)
                put(stack.blocks[i], layer, pair_like(layer, self.rank))
        return model

    def apply(self, model: Any, context: Context) -> Any:
        """The same with their weights. Those that `context.weights` has not are fitted again.

        Raises as `check`, and BadInput where they come out otherwise.
        """
        self.check(model)
        places = self._places(model)
        named = {i: one.sha256 for i, one in enumerate(self.blocks) if one}
        if any(name not in context.weights for name in named.values()):
            again = self.fitted(model, context.judge)
            if {i: fingerprint(one) for i, one in again.items()} != named:
                raise BadInput("these layers were fitted on other frames or another machine: make the plan again")
            context.weights.update({named[i]: one.state_dict() for i, one in again.items()})
        blocks = stack_of(self.shape(model), self.stack).blocks
        for i, names in places.items():
            layers_at(blocks[i], names).load_state_dict(context.weights[named[i]])
        return model

    def _places(self, model: Any) -> dict[int, list[str]]:
        """Of each planned block, the layers that are replaced, by name."""
        stack = stack_of(model, self.stack)
        pairs = enumerate(zip(stack.blocks, self.blocks, strict=True))
        return {i: [*reducible(stack, block, self.rank)] for i, (block, planned) in pairs if planned}


ReduceRank.makes = RankPlan


def layers_at(block: nn.Module, names: Sequence[str]) -> nn.ModuleList:
    return nn.ModuleList(map(block.get_submodule, names))
