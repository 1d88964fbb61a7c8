"""A recipe that keeps a share of a model's multiply-accumulates (MACs), from one ranking and no search.

Of heads, hidden units and blocks, those go first that move the output least for the MACs they take; how many tokens
merge beside them is tried out on paper, and how much background is dropped instead, on frames. What moves an output is
taken to add up in squares.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np

from compress.context import Context
from compress.errors import BadInput
from compress.layers.units import units_of
from compress.policies.merge_layers import MergeLayers
from compress.policies.merge_tokens import MergeTokens
from compress.policies.prune_width import PruneWidth, count
from compress.policies.recover import Recover
from compress.policy import Policy
from compress.ranking.movement import movement
from compress.ranking.scores import LEVELS, SHARES, BlockScores, rank
from compress.recipe import Recipe
from compress.stack import PLAIN, transformer_blocks

TWELFTHS = range(3, 13)  # of the patches that are kept
PER_LAYER = (8, 5, 3)  # a block merges an eighth, a fifth or a third of the patches
STARTS = (4, 2)  # the first block that merges is block 0, or a quarter or half of the way up
PIECES = 16  # hidden units of a block go in so many parts
ROUNDS = 6  # of counting what was chosen, and choosing again
Steps = tuple[Policy, ...]


class MACBudget(NamedTuple):
    """What a recipe is made for: a share of a model's true MACs, and minutes of recovery at its end."""

    share: float
    recover_minutes: float | None = None


class BlockSize(NamedTuple):
    """What a block's MACs follow from."""

    dim: int
    heads: int
    features: int  # of a head
    hidden: int
    ways: int  # layers to and from hidden units: 2, or 3 with a gate

    def head(self, tokens: int) -> int:
        """MACs of a head among so many tokens."""
        return 4 * tokens * self.dim * self.features + 2 * tokens**2 * self.features

    def unit(self, tokens: int) -> int:
        """MACs of a hidden unit."""
        return self.ways * tokens * self.dim

    def macs(self, before: int, after: int, heads: int, hidden: int) -> int:
        """Of the block with tokens before and after they merge in it."""
        matching = (before // 2) ** 2 * self.features if after < before else 0
        return heads * self.head(before) + hidden * self.unit(after) + matching


@dataclass
class Choice:
    """What of a model is left. Blocks count from 0."""

    tokens: MergeTokens | None
    heads: list[int]
    hidden: list[int]
    mapped: set[int] = field(default_factory=set)
    macs: int = 0  # of the blocks
    moved: float = 0.0  # mm^2

    def steps(self, sizes: Sequence[BlockSize]) -> Steps:
        """It as steps of a recipe."""
        left = [i for i in range(len(sizes)) if i not in self.mapped]
        found: list[Policy] = []
        if self.mapped:
            found.append(MergeLayers(strategy="explicit", operator="linear", windows=windows_of(self.mapped)))
        heads, hidden = (tuple(each[i] for i in left) for each in (self.heads, self.hidden))
        if (heads, hidden) != tuple(tuple(getattr(sizes[i], name) for i in left) for name in ("heads", "hidden")):
            found.append(PruneWidth(heads=heads, hidden=hidden, refit=True))
        return (*found, *([self.tokens] if self.tokens else []))


def windows_of(places: set[int]) -> tuple[tuple[int, int], ...]:
    """Runs of neighbours: one map takes the place of each."""
    starts = sorted(place for place in places if place - 1 not in places)
    ends = sorted(place for place in places if place + 1 not in places)
    return tuple(zip(starts, ends, strict=True))


def recipe_for(model: Any, budget: MACBudget, context: Context, protect: bool) -> Recipe:
    """The recipe that keeps within `budget` and moves a model's output least, by the ranking of its parts on the
    context's frames. protect: whether a person mask spares the person's tokens.

    Raises BadInput for a share that cannot be reached, and for minutes that are none.
    """
    share, minutes = budget
    if not 0 < share <= 1:
        raise BadInput(f"--budget {share:g}: a share of the multiply-accumulates, above 0 and at most 1")
    if minutes is not None and not minutes > 0:
        raise BadInput(f"--recover-minutes {minutes:g}: more than 0")
    recovery = () if minutes is None else (Recover(minutes=minutes),)
    scores = context.remembered("scores", lambda: rank(model, context.judge, context.observer))
    total, ways = model.cost().macs.true, [*merging_ways(model.grid[0] * model.grid[1], len(scores), protect)]
    found = chosen_for(model, scores, ways, share * total, total)
    if found != () and protect and model.head_needs != "grid":
        found = least_moved(model, found, dropping(model, scores, share * total, total), context)
    if found is None:
        raise BadInput(f"--budget {share:g}: a quarter of all units and tokens takes more: ask for a larger share")
    return Recipe(schema_version=1, name=f"budget-{share:g}", steps=(*found, *recovery))


def dropping(model: Any, scores: Sequence[BlockScores], wanted: float, total: int) -> Iterator[Steps]:
    """Steps within `wanted` MACs that drop background before the first block: from as much as needs no more to go, to
    ever less, and what else that takes. A ring around the person goes after all that lies further out."""
    patches = model.grid[0] * model.grid[1]
    ways = [MergeTokens(mode="drop", keep=keep, dilate=1) for keep in sorted({patches * n // 24 for n in range(6, 24)})]
    enough = sum(counted(model, (way,)) <= wanted for way in ways)
    for way in ways[max(0, enough - 1) :]:
        if (found := chosen_for(model, scores, [way], wanted, total)) is not None:
            yield found


def least_moved(model: Any, first: Steps | None, others: Iterable[Steps], context: Context) -> Steps | None:
    """Of `first` and of `others`, as long as these get better, what moves the outputs least on the context's frames:
    a ranking's scores say nothing of tokens that are not there."""
    best, least, last = first, math.inf if first is None else movement(model, first, context), math.inf
    for steps in others:
        moved = movement(model, steps, context)
        if moved < least:
            best, least = steps, moved
        if moved > last:
            break
        last = moved
    return best


def chosen_for(
    model: Any, scores: Sequence[BlockScores], ways: Sequence[MergeTokens | None], wanted: float, total: int
) -> Steps | None:
    """The steps within `wanted` MACs that move the output least, with one of `ways` to reduce tokens: what is chosen on
    paper is counted, and chosen again for what paper missed, as a head that reads fewer tokens. None without any."""
    if wanted >= total:
        return ()
    sizes, target = block_sizes(model), wanted - total  # what the blocks have to lose
    best: Choice | None = None
    for _ in range(ROUNDS):
        if (choice := lightest_error(model, scores, ways, sizes, round(target))) is None:
            break
        found = counted(model, choice.steps(sizes))
        if found <= wanted and (best is None or choice.moved < best.moved):
            best = choice
        if abs(found - wanted) < 0.005 * total and found <= wanted:
            break
        target += wanted - 0.002 * total - found
    return None if best is None else best.steps(sizes)


def block_sizes(model: Any) -> list[BlockSize]:
    """Of each block of the image encoder."""
    found = []
    for block in transformer_blocks(model.stack).values():
        units = units_of(model.stack, block)
        heads, out = units.heads[0].number, units.heads[0].out
        hidden = units.down.in_features
        ways = 1 + sum(layer.out_features for layer in units.up) // hidden
        found.append(BlockSize(out.out_features, heads, out.in_features // heads, hidden, ways))
    return found


def lightest_error(
    model: Any,
    scores: Sequence[BlockScores],
    ways: Sequence[MergeTokens | None],
    sizes: Sequence[BlockSize],
    change: int,
) -> Choice | None:
    """Of some `ways` to reduce tokens, with as many units and blocks gone as each still asks for, the one that moves
    the output least. `change`: MACs of the blocks that are to go, below 0. None where that is too many."""
    patches, prefix = model.grid[0] * model.grid[1], prefix_of(model)
    whole = sum(size.macs(patches + prefix, patches + prefix, size.heads, size.hidden) for size in sizes)
    found = [
        choice
        for tokens in ways
        if (choice := thinned(scores, sizes, tokens, patches, prefix, whole + change)) is not None
    ]
    return min(found, key=lambda choice: choice.moved, default=None)


def prefix_of(model: Any) -> int:
    """Tokens before the patches."""
    height, width = model.crop_size
    parameter = next(model.parameters())
    return int(model.stack.embed(parameter.new_zeros(1, 3, height, width)).prefix)


def merging_ways(patches: int, depth: int, protect: bool) -> Iterator[MergeTokens | None]:
    """How tokens may merge: not at all first."""
    yield None
    starts = sorted({0, *(depth // part for part in STARTS)})
    for twelfths, part, start in product(TWELFTHS, PER_LAYER, starts):
        step = MergeTokens(
            keep=max(1, patches * twelfths // 12),
            per_layer=max(1, patches // part),
            start=start,
            protect="mask" if protect else "none",
        )
        try:
            step.schedule(patches, range(depth))
        except BadInput:
            continue
        if step.keep < patches:
            yield step


def thinned(
    scores: Sequence[BlockScores],
    sizes: Sequence[BlockSize],
    tokens: MergeTokens | None,
    patches: int,
    prefix: int,
    target: int,
) -> Choice | None:
    """With tokens reduced so, the units and blocks that go until the blocks take `target` MACs; None where that is not
    enough. Blocks up to the last one that merges become no maps, which would move the schedule."""
    depth = len(sizes)
    schedule = tokens.schedule(patches, range(depth)) if tokens else PLAIN
    merges = (*schedule.merges, *[0] * depth)[:depth]
    after = [prefix + left for left in schedule.counts(patches, depth)]
    before = [prefix + patches - schedule.drop, *after[:-1]]
    choice = Choice(tokens, [size.heads for size in sizes], [size.hidden for size in sizes])
    choice.moved = sum(merging(scores[i], merges[i] / (before[i] - prefix)) for i in range(depth))
    spent = [sizes[i].macs(before[i], after[i], sizes[i].heads, sizes[i].hidden) for i in range(depth)]
    lost, free = [0.0] * depth, len(np.trim_zeros(merges, "b"))
    for item in sorted(candidates(scores, sizes, before, after, free), key=lambda item: item.moved / item.macs):
        if sum(spent) <= target:
            break
        take(choice, item, sizes, spent, lost, after)
    choice.macs, choice.moved = sum(spent), choice.moved + sum(lost)
    return choice if choice.macs <= target else None


class Candidate(NamedTuple):
    """Something that may go."""

    kind: str  # heads, hidden or map
    block: int
    moved: float  # mm^2
    macs: int
    units: int = 1


def candidates(
    scores: Sequence[BlockScores], sizes: Sequence[BlockSize], before: Sequence[int], after: Sequence[int], free: int
) -> Iterator[Candidate]:
    """Everything that may go; blocks from `free` on may become maps."""
    for i, (score, size) in enumerate(zip(scores, sizes, strict=True)):
        for units, moved in pieces(score.heads.tolist(), size.heads, 1):
            yield Candidate("heads", i, moved, units * size.head(before[i]), units)
        for units, moved in pieces(score.hidden.tolist(), size.hidden, max(1, size.hidden // PIECES)):
            yield Candidate("hidden", i, moved, units * size.unit(after[i]), units)
        if i >= free:
            macs = size.macs(before[i], after[i], size.heads, size.hidden) - after[i] * size.dim**2
            yield Candidate("map", i, score.mapped, macs)


def pieces(moved: Sequence[float], units: int, each: int) -> Iterator[tuple[int, float]]:
    """How many of a block's `units` go together, and what that moves on top of those before them, in mm^2. moved: where
    each of SHARES is gone. Later ones move more for each unit: what does not rise is drawn straight."""
    corners = [(0, 0.0), *((units - count(units, share), way) for share, way in zip(SHARES, moved, strict=True))]
    last = corners[-1][0]
    wanted, (places, ways) = [*range(0, last, each), last], zip(*hull(corners), strict=True)
    for start, end in pairwise(wanted):
        low, high = np.interp((start, end), places, ways)
        yield end - start, float(high - low)


def hull(corners: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """The lower convex hull of points in rising order of their first number, never falling."""
    found: list[tuple[int, float]] = []
    for x, y in corners:
        y = max(y, found[-1][1]) if found else y
        while len(found) > 1 and (y - found[-1][1]) * (found[-1][0] - found[-2][0]) <= (found[-1][1] - found[-2][1]) * (
            x - found[-1][0]
        ):
            found.pop()
        if not found or x > found[-1][0]:
            found.append((x, y))
    return found


def take(
    choice: Choice,
    item: Candidate,
    sizes: Sequence[BlockSize],
    spent: list[int],
    lost: list[float],
    after: Sequence[int],
) -> None:
    """Let something go; nothing more goes from a block that is a map, and one left at least is none."""
    i = item.block
    if i in choice.mapped:
        return
    if item.kind == "map":
        if len(choice.mapped) < len(sizes) - 1:
            choice.mapped.add(i)
            spent[i], lost[i] = after[i] * sizes[i].dim ** 2, item.moved
        return
    left = choice.heads if item.kind == "heads" else choice.hidden
    left[i] -= item.units
    spent[i] -= item.macs
    lost[i] += item.moved


def merging(scores: BlockScores, share: float) -> float:
    """What it moves the output by to merge a share of a block's tokens, between the LEVELS that were looked at."""
    return float(np.interp(share, (0.0, *LEVELS), (0.0, *scores.merged.tolist())))


def counted(model: Any, steps: Sequence[Policy]) -> int:
    """The true MACs of a model after steps; which units are left makes no difference."""
    made = copy.deepcopy(model)
    for step in steps:
        made = step.outline(made).shape(made)
    return int(made.cost().macs.true)
