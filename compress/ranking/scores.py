"""One look at frames that ranks all parts of an image encoder for all budgets, without labels (in the spirit of
SnapViT, arXiv:2510.17700).

A part that goes moves the K numbers of a frame's output, in mm, by J to first order: the derivative by a gate on it for
a head or a hidden unit; gradient times change of the tokens for a block that becomes a linear map, and for tokens that
merge. For signs v drawn at random, (v . J)^2 is |J|^2 on average (Hutchinson 1990), so that each pass backwards scores
everything at once, in the same unit: mm^2 by which an output moves, averaged over outputs and frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from operator import add
from typing import Any

import torch
from torch import Tensor, nn

from compress.context import Observer, silent
from compress.errors import BadInput
from compress.frames import Judge, OutputJudge
from compress.layers.energies import units_of
from compress.layers.least_squares import Moments, least_squares
from compress.policies.merge_layers import evaluating
from compress.policy import Compressible
from compress.stack import LinearBlock, Stack, Units, summed, through, transformer_blocks
from compress.tokens import Tokens, coverage, match

PROBES = 4  # passes backwards
FRAMES = 4  # at once: all that a pass backwards needs of them is in memory, about 20 times their tokens for each block
LEVELS = (0.125, 0.25, 0.375, 0.5)  # shares of all tokens that merge in a block


@dataclass(frozen=True)
class BlockScores:
    """What it moves an output by, in mm^2, to take something out of a block."""

    heads: Tensor  # (H,) of each head
    hidden: Tensor  # (units,) of each hidden unit
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

    Frames are looked at twice: once to fit the maps, once forwards and PROBES times backwards. Raises BadInput for a
    judge without outputs, and for blocks that cannot be pruned.
    """
    if not hasattr(judge, "outputs"):
        raise BadInput("a ranking asks for outputs(index, tokens, model) of a judge, which these frames do not have")
    random = torch.Generator().manual_seed(seed)
    total, batches, frames = None, len(judge.crops), sum(len(crop) for crop in judge.crops)
    with evaluating(model), frozen(model):
        maps = fitted_maps(model, judge, observer)
        for index, crop in enumerate(judge.crops):
            for start in range(0, len(crop), FRAMES):
                found = scores_of(model, judge, index, slice(start, start + FRAMES), maps, random)
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
def fitted_maps(model: Compressible, judge: Judge, observer: Observer) -> list[tuple[Tensor, Tensor]]:
    """W (C, C) and c (C,), float32, of the map that comes nearest to each block by itself."""
    sums: dict[int, Moments] = {}
    for index, crop in enumerate(judge.crops):
        passed = [pair for counts, *pair in walked(model.stack, model.stack.embed(crop)) if counts]
        for place, (before, after) in enumerate(passed):
            mine = Moments.of(before.x, after.x)
            sums[place] = sums[place] + mine if place in sums else mine
        observer("ranking", "linear maps", index + 1, 2 * len(judge.crops))
    solved = [least_squares(moments) for moments in sums.values()]
    return [(weight.float(), bias.float()) for weight, bias in solved]


def walked(stack: Stack, tokens: Tokens) -> Iterator[tuple[bool, Tokens, Tokens]]:
    """Of each block: whether it is a transformer's and no map, and the tokens before and after it."""
    for block in stack.blocks:
        before, tokens = tokens, through(stack, [block], tokens)
        yield not isinstance(block, LinearBlock), before, tokens


def scores_of(
    model: Any, judge: OutputJudge, index: int, rows: slice, maps: list[tuple[Tensor, Tensor]], random: torch.Generator
) -> list[BlockScores]:
    """The scores of each block on some rows of a batch, summed over frames and probes."""
    stack, crop = TracedStack(model.stack), judge.crops[index][rows]
    units = [units_of(model.stack, block) for block in transformer_blocks(stack).values()]
    with torch.enable_grad(), gates(units, len(crop)) as (heads, hidden):
        masks = None if judge.masks is None else judge.masks[index][rows]
        tokens = protected(model, masks, stack.embed(crop))
        every = list(walked(stack, tokens))
        said = judge.outputs(index, stack.finish(every[-1][2]), model, rows)  # (B, K) mm
        passed = [(before, after) for counts, before, after in every if counts]
        wanted = [*heads, *hidden, *(after.x for _, after in passed), *stack.middle]
        moves = [moved_by_map(b.x, a.x, *pair) for (b, a), pair in zip(passed, maps, strict=True)]
        pairs = zip((before for before, _ in passed), stack.middle, stack.keys, strict=True)
        merges = [moved_by_merging(*each) for each in pairs]
        total = None
        for _ in range(PROBES):
            signs = torch.randint(0, 2, said.shape, generator=random).to(said) * 2 - 1
            gradients = torch.autograd.grad((said * signs).sum(), wanted, retain_graph=True)
            found = squares(gradients, moves, merges, said.shape[1])
            total = found if total is None else [*map(add, total, found)]
    assert total is not None
    return total


def protected(model: Any, masks: Tensor | None, tokens: Tokens) -> Tokens:
    """Fresh tokens whose person is spared, where the frames have masks (B, H, W)."""
    return tokens if masks is None else tokens.protecting(coverage(masks, model.grid) > 0)


@contextmanager
def gates(units: Sequence[Units], batch: int) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Gates (B, H) on the heads and (B, units) on the hidden units of each block, all 1, as long as this lasts."""
    layers = [layer for each in units for layer in each.readers]
    widths = [width for each in units for width in each.widths]
    made = [layer.weight.new_ones(batch, n, requires_grad=True) for layer, n in zip(layers, widths, strict=True)]

    def gated(gate: Tensor) -> Callable[..., tuple[Tensor]]:
        def multiply(layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor]:
            parts = given[0].unflatten(-1, (gate.shape[1], -1))  # (B, N, units, d)
            return ((parts * gate[:, None, :, None].to(parts.dtype)).flatten(-2),)

        return multiply

    hooks = [layer.register_forward_pre_hook(gated(gate)) for layer, gate in zip(layers, made, strict=True)]
    try:
        yield made[::2], made[1::2]
    finally:
        for hook in hooks:
            hook.remove()


def squares(
    gradients: tuple[Tensor, ...], moves: list[Tensor], merges: list[Callable[[Tensor], Tensor]], outputs: int
) -> list[BlockScores]:
    """From the gradients by gates of heads and hidden units, by the tokens after each block and between its halves."""
    depth = len(moves)
    heads, hidden, after, middle = (gradients[i * depth : (i + 1) * depth] for i in range(4))
    found = []
    for h, u, a, m, move, merge in zip(heads, hidden, after, middle, moves, merges, strict=True):
        mapped = (a * move).flatten(1).sum(1)  # (B,) how far the outputs move along the probe
        found.append(
            BlockScores(
                h.double().square().sum(0).cpu() / outputs,
                u.double().square().sum(0).cpu() / outputs,
                mapped.double().square().sum().item() / outputs,
                merge(m).double().square().sum(0).cpu() / outputs,
            )
        )
    return found


def moved_by_map(before: Tensor, after: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """How the tokens (B, N, C) after a block change where its map takes its place."""
    x = before.detach()
    return x + x @ weight.T.to(x) + bias.to(x) - after.detach()


def moved_by_merging(before: Tokens, middle: Tensor, keys: Tensor) -> Callable[[Tensor], Tensor]:
    """From the gradient (B, N, C) by the tokens between a block's halves, how far the outputs move along it where
    LEVELS of all tokens merge (B, LEVELS): each goes to the mean of those that it merges with."""
    whole, count = replace(before, x=middle.detach()), middle.shape[1]
    merges = [pairs_at(count - before.prefix, level) for level in LEVELS]
    found = [match(summed(keys), before.protected, r, prefix=before.prefix).assign for r in merges]

    def along(gradient: Tensor) -> Tensor:
        own, moved = (gradient * whole.x).flatten(1).sum(1), []
        for r, assign in zip(merges, found, strict=True):
            means, pulls = (replace(whole, x=x).reduced(assign, count - r) for x in (whole.x, gradient))
            moved.append((means.x * pulls.x * pulls.size[..., None]).flatten(1).sum(1) - own)
        return torch.stack(moved, 1)

    return along


def pairs_at(patches: int, share: float) -> int:
    """How many pairs merge where a share of tokens goes: half of them at most."""
    return min(round(share * patches), patches // 2)
