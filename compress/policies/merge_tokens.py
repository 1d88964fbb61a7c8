"""Token reduction: Mask-ToMe (FastHMR, arXiv:2510.10868, Sec. 3.2), ToMe (arXiv:2210.09461), dropped background.

The schedule is decided here, as plain numbers; `compress.tokens` does the merging and `compress.stack.encode` calls it.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from compress.context import Context
from compress.errors import BadInput
from compress.policy import Compressible, Knob, MadeFor, ModelSize, Plan, Policy, knob, misuse
from compress.stack import Schedule, transformer_blocks
from compress.tokens import Partition

ONLY_MERGE = ("per_layer", "start", "partition", "proportional_attention")
ONLY_MASK = ("coverage", "dilate")


class MergeTokens(Policy):
    """Keep `keep` tokens of each crop, in every frame, whatever it shows."""

    # start first: what the blocks after it can take away bounds the rest, so that each of these has a range
    bounded: ClassVar[tuple[str, ...]] = ("start", "per_layer", "keep", "dilate")

    policy: Literal["merge_tokens"] = "merge_tokens"
    mode: Literal["merge", "drop"] = Field("merge", description="merge similar tokens, or drop background at the input")
    protect: Literal["mask", "none"] = Field("mask", description="mask: a person mask spares the person (Mask-ToMe)")
    keep: int = Field(ge=1, description="tokens that are left", json_schema_extra=knob(16, 192, 4))
    per_layer: int = Field(
        40, ge=1, description="tokens that each block merges, the last one the rest", json_schema_extra=knob(8, 96, 8)
    )
    start: int = Field(
        0, ge=0, description="the first block that merges, from 0; maps do not count", json_schema_extra=knob(0, 24, 1)
    )
    coverage: float = Field(0.0, ge=0, lt=1, description="a patch is the person's above this share of person pixels")
    dilate: int = Field(
        0,
        ge=0,
        description="rings of tokens around the person that are spared with it",
        exclude_if=lambda rings: rings == 0,  # so that recipes without it keep their ids
        json_schema_extra=knob(0, 3, 1),
    )
    merges: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None,
        description="tokens that merge in each block that is no map, in place of per_layer and start: keep is what "
        "they leave, and with mode: drop what they begin with",
        exclude_if=lambda merges: merges is None,
    )
    partition: Partition = Field("parity", description="how tokens are split in two sides: as the paper, or evenly")
    proportional_attention: bool = Field(False, description="ToMe's log-size bias on attention logits")

    @model_validator(mode="after")
    def _drop_has_no_schedule(self) -> MergeTokens:
        if self.mode == "drop":
            if self.protect == "none":
                raise misuse("protect", "mode: drop removes background by the mask: protect has to be mask")
            idle = ONLY_MERGE if self.merges is None else ONLY_MERGE[:2]
            self.refuse_changed(idle, "in mode: drop, which removes tokens at the input alone")
        elif self.protect == "none":
            self.refuse_changed(ONLY_MASK, "with protect: none, which uses no mask")
        if self.merges is not None:
            self.refuse_changed(ONLY_MERGE[:2], "beside merges, which takes its place")
        return self

    def knobs(self, size: ModelSize | None = None) -> dict[str, Knob]:
        idle = {*(ONLY_MERGE if self.mode == "drop" else ())}
        if self.merges is not None:
            idle |= {*ONLY_MERGE[:2], *(("keep",) if self.mode == "merge" else ())}
        if not self.dilate:  # so that studies without it keep their space
            idle.add("dilate")
        return {name: found for name, found in super().knobs(size).items() if name not in idle}

    def largest(self, size: ModelSize) -> dict[str, int]:
        return {
            "start": max(0, size.blocks - 1),
            "per_layer": size.patches // 2,
            "keep": size.patches,
            "dilate": min(3, max(size.grid) - 1),
        }

    def fit(self, size: ModelSize) -> ModelSize:
        """Blocks and grid stay. Raises BadInput where grid or depth make the schedule impossible."""
        self.schedule(size.patches, range(size.blocks))
        if self.dilate >= max(size.grid):
            rows, columns = size.grid
            raise BadInput(
                f"merge_tokens: dilate: {self.dilate} rings around any token cover the whole {rows} x {columns} grid: "
                f"at most {max(rows, columns) - 1} make a difference"
            )
        return size

    def check(self, model: Compressible) -> None:
        """Raise BadInput where this model's grid, depth or head make the schedule impossible."""
        if model.schedule != Schedule():
            raise BadInput("merge_tokens: this model's tokens are reduced already: start from the original model")
        self.fit(ModelSize.of(model))
        if self.mode == "drop" and model.head_needs == "grid":
            raise BadInput("merge_tokens: this model's head needs the full grid of tokens: use mode: merge, not drop")

    @property
    def needs_masks(self) -> bool:
        return self.protect == "mask"

    def plan(self, model: Compressible, context: Context) -> TokenPlan:
        """The schedule for this model; nothing is measured. Raises BadInput as `check`."""
        return self.outline(model)

    def outline(self, model: Compressible) -> TokenPlan:
        self.check(model)
        schedule = self.schedule(model.grid[0] * model.grid[1], transformer_blocks(model.stack))
        coverage = self.coverage if self.protect == "mask" else None
        return TokenPlan(made_for=MadeFor.of(model), schedule=schedule, coverage=coverage)

    def schedule(self, patches: int, blocks: Iterable[int]) -> Schedule:
        """The schedule for `patches` tokens and a model whose transformer blocks lie at the places `blocks`, between
        which linear maps merge nothing and do not count; raises BadInput where there is none."""
        if self.keep > patches:
            raise BadInput(f"merge_tokens: keep: {self.keep} is more than the {patches} tokens of this model's grid")
        drop = patches - self.keep if self.mode == "drop" else 0
        if self.merges is not None:
            by_block = self.given(patches - drop, [*blocks])
            return Schedule(by_block, drop, self.partition, self.proportional_attention, self.dilate)
        if self.mode == "drop":
            return Schedule(drop=drop, dilate=self.dilate)
        merges, places = merges_to(self.keep, patches, self.per_layer), [*blocks]
        last = self.start + len(merges) - 1
        if merges and last >= len(places):
            raise BadInput(
                f"merge_tokens: {patches} tokens come down to {self.keep} in block {last} with per_layer: "
                f"{self.per_layer} from block {self.start} on, and this model's last block is {len(places) - 1}: "
                "lower start or raise per_layer"
            )
        if self.start > max(0, len(places) - 1):
            raise BadInput(
                f"merge_tokens: start: there is no block {self.start}, this model's last block is {len(places) - 1}: "
                "lower start"
            )
        at = dict(zip(places[self.start :], merges, strict=False))
        by_block = by_place(at)
        return Schedule(by_block, 0, self.partition, self.proportional_attention, self.dilate)

    def given(self, tokens: int, places: list[int]) -> tuple[int, ...]:
        """`merges` by block, of so many `tokens` before the first. Raises BadInput where they cannot be, and where they
        do not leave `keep`."""
        merges = self.merges or ()
        if len(merges) != len(places):
            raise BadInput(f"merge_tokens: merges: {len(merges)} numbers, and there are {len(places)} blocks here")
        left = [tokens, *(tokens - merged for merged in accumulate(merges))]
        for i, (merged, before) in enumerate(zip(merges, left, strict=False)):
            if 2 * merged > before:
                raise BadInput(f"merge_tokens: merges: block {i} has {before} tokens, of which half merge at most")
        if self.mode == "merge" and left[-1] != self.keep:
            raise BadInput(f"merge_tokens: merges: they leave {left[-1]} tokens, so that keep has to be {left[-1]}")
        at = {place: merged for place, merged in zip(places, merges, strict=True) if merged}
        return by_place(at)


def by_place(at: dict[int, int]) -> tuple[int, ...]:
    """How many tokens merge in each block, from those of some blocks; up to the last one that merges any."""
    return tuple(at.get(place, 0) for place in range(max(at, default=-1) + 1))


class TokenPlan(Plan):
    """The schedule of one model, and the threshold of its mask."""

    noun: ClassVar[str] = "schedule"
    remedy: ClassVar[str] = "put merge_tokens after merge_layers"

    policy: Literal["merge_tokens"] = "merge_tokens"
    schedule: Schedule
    coverage: float | None = Field(ge=0, lt=1, description="None: no mask is used")

    @model_validator(mode="after")
    def _possible(self) -> TokenPlan:
        merges, depth = self.schedule.merges, self.made_for.depth
        patches = self.made_for.grid[0] * self.made_for.grid[1]
        left = [patches - self.schedule.drop, *self.schedule.counts(patches, len(merges))]
        odd = [i for i, merged in enumerate(merges) if not 0 <= 2 * merged <= left[i]]  # more than there are pairs
        if odd or self.schedule.drop < 0 or left[-1] < 1 or len(merges) > depth:
            raise ValueError(f"this schedule cannot be: {patches} tokens, {depth} blocks, at most half merge in each")
        if self.schedule.dilate >= max(self.made_for.grid):
            raise ValueError(f"this schedule cannot be: {self.schedule.dilate} rings cover any grid of this size")
        return self

    @property
    def empty(self) -> bool:
        return self.schedule.drop == 0 and not any(self.schedule.merges)

    def check(self, model: Compressible) -> None:
        """As `Plan.check`; and raise BadInput where the head needs a grid and tokens are dropped, and where tokens are
        to merge in a linear map."""
        super().check(model)
        blocks = transformer_blocks(model.stack)
        for i, merged in enumerate(self.schedule.merges):
            if merged and i not in blocks:
                raise BadInput(
                    f"this schedule merges tokens in block {i}, which is a linear map here and has no keys to match "
                    "them by: make the plan again for this model"
                )
        if self.schedule.drop and model.head_needs == "grid":
            raise BadInput("tokens were dropped by this schedule, and this model's head needs the full grid of them")

    def describe(self) -> str:
        patches = self.made_for.grid[0] * self.made_for.grid[1]
        if self.empty:
            return "All tokens stay."
        count = "a ring" if self.schedule.dilate == 1 else f"{self.schedule.dilate} rings"
        rings = f", with {count} of tokens around it" if self.schedule.dilate else ""
        first = ""
        if self.schedule.drop:
            least = f"the {self.schedule.drop} least covered by the person{rings}"
            first = f"Of {patches} tokens, {least} are dropped at the input."
            if not any(self.schedule.merges):
                return first
            patches, first = patches - self.schedule.drop, f"{first} "
        where = "anywhere in the picture" if self.coverage is None else f"outside of the person mask{rings}"
        merging = [i for i, merges in enumerate(self.schedule.merges) if merges]
        whole = patches + self.schedule.drop
        counts = dict.fromkeys([patches, *self.schedule.counts(whole, len(self.schedule.merges))])
        return f"{first}Tokens merge {where} in blocks {merging[0]} to {merging[-1]}: {' → '.join(map(str, counts))}."

    def shape(self, model: Any) -> Any:
        """No weight changes. Raises as `check`."""
        self.check(model)
        if not self.empty:
            model.schedule, model.protect = self.schedule, self.coverage
        return model


MergeTokens.makes = TokenPlan


def merges_to(keep: int, patches: int, per_layer: int) -> tuple[int, ...]:
    """How many tokens each merging layer takes away: `per_layer`, and the last one the rest.

    192 -> 152 -> 112 -> 90 for keep 90, per_layer 40: (40, 40, 22), the paper's Tab. 12 (its text says otherwise).
    Raises BadInput where a layer would merge more than half of its tokens, which one matching cannot.
    """
    merges: list[int] = []
    while (left := patches - sum(merges)) > keep:
        merges.append(min(per_layer, left - keep))
        if 2 * merges[-1] > left:
            raise BadInput(
                f"merge_tokens: layer {len(merges)} of those that merge would take {merges[-1]} of {left} tokens, and "
                "one matching takes half of them at most: lower per_layer or raise keep"
            )
    return tuple(merges)
