"""One look at frames that ranks all parts of an image encoder for all budgets, without labels (in the spirit of
SnapViT, arXiv:2510.17700).

A part that goes moves the K numbers of a frame's output, in mm, by J to first order: gradient times change of what a
layer or a block gives. That change is of all that goes at once, and of what is fitted anew to make up for it: for a
share of a block's heads or hidden units (`compress.layers.refit`), for a block that becomes a linear map, and for
tokens that merge. For signs v drawn at random, (v . J)^2 is |J|^2 on average (Hutchinson 1990), so that each pass
backwards scores everything at once, in the same unit: mm^2 by which an output moves, averaged over outputs and frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.context import Observer, silent
from compress.errors import BadInput
from compress.frames import Judge, OutputJudge
from compress.layers.energies import energy
from compress.layers.least_squares import Moments, least_squares
from compress.layers.one_by_one import Spread
from compress.layers.refit import correction
from compress.layers.units import units_of
from compress.layers.widths import columns_of
from compress.policies.prune_width import count, strongest
from compress.policy import Compressible
from compress.stack import LinearBlock, Stack, Units, evaluating, summed, through, transformer_blocks
from compress.tokens import Tokens, coverage, match

PROBES = 4  # passes backwards
FRAMES = 4  # at once: all that a pass backwards needs of them is in memory, about 30 times their tokens for each block
LEVELS = (0.125, 0.25, 0.375, 0.5)  # shares of all tokens that merge in a block
SHARES = (0.25, 0.5, 0.75)  # of a block's heads, or of its hidden units, that go


@dataclass(frozen=True)
class BlockScores:
    """What it moves an output by, in mm^2, to take something out of a block."""

    heads: Tensor  # (SHARES,) such a share of its heads, those of least energy
    hidden: Tensor  # (SHARES,) of its hidden units
    mapped: float  # to replace the block by a linear map
    merged: Tensor  # (LEVELS,) to merge such a share of all tokens in it, the most similar first

    def __add__(self, other: BlockScores) -> BlockScores:
        return BlockScores(
            self.heads + other.heads,
            self.hidden + other.hidden,
            self.mapped + other.mapped,
            self.merged + other.merged,
        )

    def __truediv__(self, by: int) -> BlockScores:
        return BlockScores(self.heads / by, self.hidden / by, self.mapped / by, self.merged / by)


class Change(NamedTuple):
    """W and c: how what a layer gives changes, W x + c of what goes into it; float32."""

    weight: Tensor
    bias: Tensor


class BlockChanges(NamedTuple):
    """What may be done to a block."""

    heads: list[Change]  # of its attention's last layer, at each of SHARES
    hidden: list[Change]  # of its MLP's
    mapped: Change  # W x + c is what its map adds to its tokens


class TracedStack:
    """A `Stack` that keeps what goes through it: keys, and the tokens between attention and MLP."""

    def __init__(self, stack: Stack) -> None:
        self.stack, self.blocks = stack, stack.blocks
        self.keys: list[Tensor] = []
        self.middle: list[Tensor] = []

    def embed(self, crop: Tensor) -> Tokens:
        return self.stack.embed(crop)

    def attend(self, block: nn.Module, tokens: Tokens, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        update, keys = self.stack.attend(block, tokens, bias)
        self.keys.append(keys.detach())
        return update, keys

    def feed(self, block: nn.Module, x: Tensor) -> Tensor:
        self.middle.append(x)
        return self.stack.feed(block, x)

    def finish(self, tokens: Tokens) -> Tokens:
        return self.stack.finish(tokens)


def rank(model: Any, judge: Any, observer: Observer = silent, seed: int = 0) -> list[BlockScores]:
    """The scores of each block of a model's image encoder that is no map, on the frames of a `compress.frames.Judge`
    which gives `outputs`, with all of their tokens.

    Frames are looked at twice: once to fit what could stand in the place of parts, once forwards and PROBES times
    backwards. Raises BadInput for a judge without outputs, and for blocks that cannot be pruned.
    """
    if not hasattr(judge, "outputs"):
        raise BadInput("a ranking asks for outputs(index, tokens, model) of a judge, which these frames do not have")
    random = torch.Generator().manual_seed(seed)
    total, batches, frames = None, len(judge.crops), sum(len(crop) for crop in judge.crops)
    with evaluating(model), frozen(model):
        changes = all_changes(model, judge, observer)
        for index, crop in enumerate(judge.crops):
            for start in range(0, len(crop), FRAMES):
                found = scores_of(model, judge, index, slice(start, start + FRAMES), changes, random)
                total = found if total is None else [*map(add, total, found)]
            observer("ranking", "gradients", batches + index + 1, 2 * batches)
    assert total is not None
    return [scores / (frames * PROBES) for scores in total]


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No gradients for weights, which are many; each as it was afterwards."""
    wanted = [p.requires_grad for p in model.parameters()]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for p, want in zip(model.parameters(), wanted, strict=True):
            p.requires_grad_(want)


@torch.no_grad()
def all_changes(model: Compressible, judge: Judge, observer: Observer) -> list[BlockChanges]:
    """What may be done to each block that is no map, fitted on its tokens as they are, block by block: of one alone are
    the sums of all its units in memory."""
    stack, found = model.stack, []
    tokens = [stack.embed(crop) for crop in judge.crops]
    for place, block in enumerate(stack.blocks):
        after, sums = passed(stack, block, tokens)
        if sums is not None:
            found.append(changes_of(units_of(stack, block), sums, tokens, after))
        tokens = after
        observer("ranking", f"fitting what could stand for block {place}", place, 2 * len(stack.blocks))
    return found


def passed(stack: Stack, block: nn.Module, tokens: Sequence[Tokens]) -> tuple[list[Tokens], list[Spread] | None]:
    """All batches after a block and, where it is no map, what goes into the layers that read its units."""
    if isinstance(block, LinearBlock):
        return [through(stack, [block], one) for one in tokens], None
    readers = units_of(stack, block).readers
    sums: list[list[Spread]] = [[] for _ in readers]
    with watching(readers, lambda i, given, said: sums[i].append(Spread.of(given))):
        after = [through(stack, [block], one) for one in tokens]
    return after, [reduce(add, some) for some in sums]


def changes_of(units: Units, sums: Sequence[Spread], before: Sequence[Tokens], after: Sequence[Tokens]) -> BlockChanges:
    """From what goes into both readers of a block, and the tokens around it."""
    moments = reduce(add, (Moments.added(a.x, b.x) for a, b in zip(before, after, strict=True)))
    mapped = Change(*(part.float() for part in least_squares(moments)))
    heads, hidden = (
        [change_at(layer, seen, width, share) for share in SHARES]
        for layer, seen, width in zip(units.readers, sums, units.widths, strict=True)
    )
    return BlockChanges(heads, hidden, mapped)


def change_at(layer: nn.Linear, sums: Spread, units: int, share: float) -> Change:
    """How what a layer gives changes where a share of its units goes, those of least energy, and it is fitted anew."""
    each = layer.in_features // units
    moment = sums.xx.unflatten(0, (units, each)).unflatten(2, (units, each)).diagonal(dim1=0, dim2=2)  # (d, d, units)
    worth = energy(layer.weight, moment.permute(2, 0, 1) / sums.count)
    kept = strongest(worth.cpu(), count(units, share))
    left = columns_of(kept, layer).to(layer.weight.device)
    weight, bias = correction(sums, layer.weight, left)
    change = -layer.weight.detach().double()
    change[:, left] = weight
    return Change(change.float(), bias.float())


@contextmanager
def watching(layers: Sequence[nn.Module], see: Callable[[int, Tensor, Tensor], object]) -> Iterator[None]:
    """Call see(place, what went in, what came out) for each call of some layers."""

    def hook(place: int) -> Callable[..., None]:
        def told(layer: nn.Module, given: tuple[Tensor, ...], said: Tensor) -> None:
            see(place, given[0], said)

        return told

    hooks = [layer.register_forward_hook(hook(i)) for i, layer in enumerate(layers)]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()


def walked(stack: Stack, tokens: Tokens) -> Iterator[tuple[bool, Tokens, Tokens]]:
    """Of each block: whether it is a transformer's and no map, and the tokens before and after it."""
    for block in stack.blocks:
        before, tokens = tokens, through(stack, [block], tokens)
        yield not isinstance(block, LinearBlock), before, tokens


def scores_of(
    model: Any, judge: OutputJudge, index: int, rows: slice, changes: list[BlockChanges], random: torch.Generator
) -> list[BlockScores]:
    """The scores of each block on some rows of a batch, summed over frames and probes."""
    stack, crop = TracedStack(model.stack), judge.crops[index][rows]
    readers = [layer for block in transformer_blocks(stack).values() for layer in units_of(model.stack, block).readers]
    seen: dict[int, tuple[Tensor, Tensor]] = {}
    with torch.enable_grad(), watching(readers, lambda i, given, said: seen.update({i: (given.detach(), said)})):
        masks = None if judge.masks is None else judge.masks[index][rows]
        tokens = protected(model, masks, stack.embed(crop))
        tokens = replace(tokens, x=tokens.x.requires_grad_())  # no weight asks for gradients
        every = list(walked(stack, tokens))
        said = judge.outputs(index, stack.finish(every[-1][2]), model, rows)  # (B, K) mm
    block_tokens = [(before, after) for counts, before, after in every if counts]
    wanted = [*(seen[i][1] for i in range(len(readers))), *(after.x for _, after in block_tokens), *stack.middle]
    moves = moves_of(changes, [seen[i][0] for i in range(len(readers))], block_tokens)
    pairs = zip((before for before, _ in block_tokens), stack.middle, stack.keys, strict=True)
    merges = [moved_by_merging(*each) for each in pairs]
    total = None
    for _ in range(PROBES):
        signs = torch.randint(0, 2, said.shape, generator=random).to(said) * 2 - 1
        gradients = torch.autograd.grad(said, wanted, signs, retain_graph=True)
        found = squares(gradients, moves, merges, said.shape[1])
        total = found if total is None else [*map(add, total, found)]
    assert total is not None
    return total


def protected(model: Any, masks: Tensor | None, tokens: Tokens) -> Tokens:
    """Fresh tokens whose person is spared, where the frames have masks (B, H, W)."""
    return tokens if masks is None else tokens.protecting(coverage(masks, model.grid) > 0)


class Moves(NamedTuple):
    """How what a block's two readers give, and its tokens, change: (B, N, C) each."""

    heads: list[Tensor]
    hidden: list[Tensor]
    mapped: Tensor


def moves_of(
    changes: Sequence[BlockChanges], given: Sequence[Tensor], tokens: Sequence[tuple[Tokens, Tokens]]
) -> list[Moves]:
    """From what went into each block's two readers, and the tokens around it."""
    found = []
    for change, heads, hidden, (before, after) in zip(changes, given[::2], given[1::2], tokens, strict=True):
        x = before.x.detach()
        found.append(
            Moves(
                [made(heads, one) for one in change.heads],
                [made(hidden, one) for one in change.hidden],
                x + made(x, change.mapped) - after.x.detach(),
            )
        )
    return found


def made(x: Tensor, change: Change) -> Tensor:
    """A change of inputs x (..., U), in the change's own type."""
    return F.linear(x.to(change.weight), *change)


def squares(
    gradients: tuple[Tensor, ...], moves: list[Moves], merges: list[Callable[[Tensor], Tensor]], outputs: int
) -> list[BlockScores]:
    """From the gradients by what each block's readers give, by the tokens after each block and between its halves."""
    depth = len(moves)
    readers, after, middle = gradients[: 2 * depth], gradients[2 * depth : 3 * depth], gradients[3 * depth :]
    found = []
    for h, u, a, m, move, merge in zip(readers[::2], readers[1::2], after, middle, moves, merges, strict=True):
        heads, hidden, mapped = (along(g, of) for g, of in ((h, move.heads), (u, move.hidden), (a, [move.mapped])))
        merged = merge(m).double().square().sum(0).cpu()
        found.append(BlockScores(heads / outputs, hidden / outputs, mapped.item() / outputs, merged / outputs))
    return found


def along(gradient: Tensor, moves: Sequence[Tensor]) -> Tensor:
    """The squares of how far the outputs move along a probe for each move (B, N, C), summed over frames."""
    return torch.stack([(gradient * move).flatten(1).sum(1).double().square().sum() for move in moves]).cpu()


def moved_by_merging(before: Tokens, middle: Tensor, keys: Tensor) -> Callable[[Tensor], Tensor]:
    """From the gradient (B, N, C) by the tokens between a block's halves, how far the outputs move along it where
    LEVELS of all tokens merge (B, LEVELS): each goes to the mean of those that it merges with."""
    whole, count = replace(before, x=middle.detach()), middle.shape[1]
    merges = [pairs_at(count - before.prefix, level) for level in LEVELS]
    found = [match(summed(keys), before.protected, r, prefix=before.prefix).assign for r in merges]

    def pulled(gradient: Tensor) -> Tensor:
        own, moved = (gradient * whole.x).flatten(1).sum(1), []
        for r, assign in zip(merges, found, strict=True):
            means, pulls = (replace(whole, x=x).reduced(assign, count - r) for x in (whole.x, gradient))
            moved.append((means.x * pulls.x * pulls.size[..., None]).flatten(1).sum(1) - own)
        return torch.stack(moved, 1)

    return pulled


def pairs_at(patches: int, share: float) -> int:
    """How many pairs merge where a share of tokens goes: half of them at most."""
    return min(round(share * patches), patches // 2)
