"""Closed-form operators of a transformer block, and what they leave of it: the material of `closed_form.py`.

Each takes the place of one block or of two neighbours and is fitted by least squares, on the tokens that go into it in
the compressed model itself. What wins there is part of `compress`; the others stay here. Where a half of a block is
replaced, hooks give the new result, and the closed formula counts what that would cost.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial, reduce
from operator import add

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.layers.energies import energy, second_moment
from compress.layers.least_squares import Moments, fitted, least_squares
from compress.layers.low_rank import reduced
from compress.layers.one_by_one import spread
from compress.layers.operators import first_weight
from compress.layers.units import units_of
from compress.ranking.budget import BlockSize
from compress.stack import Stack, Units, through
from compress.tokens import Tokens

RANK = 1 / 4  # of the width of tokens
AIMED = "the same, aimed at the original's tokens"
Batches = Sequence[Tokens]
Make = Callable[[Stack, Sequence[nn.Module], Batches, Batches], nn.Module]


@dataclass(frozen=True)
class Operator:
    """`make(stack, run, before, aim)`: what stands for `run`, `blocks` neighbours, given each batch's tokens before it
    and those that the original model has behind it. `saves(size, tokens)`: multiply-accumulates of the run that are
    gone. `half`: the part of a block that it takes."""

    make: Make
    saves: Callable[[BlockSize, int], int]
    blocks: int = 1
    half: str = "both"


def after(stack: Stack, run: Iterable[nn.Module], before: Batches) -> list[Tokens]:
    return [through(stack, run, tokens) for tokens in before]


def linear(stack: Stack, run: Sequence[nn.Module], before: Batches, aim: Batches) -> nn.Module:
    """A map in the place of all, as `merge_layers` has it."""
    pairs = zip((t.x for t in before), (t.x for t in after(stack, run, before)), strict=True)
    return fitted(pairs, first_weight(run[0]))


def aimed(stack: Stack, run: Sequence[nn.Module], before: Batches, aim: Batches) -> nn.Module:
    """A map to the original's tokens, which so mends what the changes below it did."""
    return fitted(zip((t.x for t in before), (t.x for t in aim), strict=True), first_weight(run[0]))


def block_and_map(stack: Stack, run: Sequence[nn.Module], before: Batches, aim: Batches) -> nn.Module:
    """The upper block, then a map. The lower block and a map are the map in the place of the upper block."""
    upper = run[-1]
    pairs = zip((t.x for t in after(stack, [upper], before)), (t.x for t in after(stack, run, before)), strict=True)
    return nn.Sequential(upper, fitted(pairs, first_weight(upper)))


def folded(keep: int) -> Make:
    """One block of the run, whose last layer is fitted anew to what all of it gives: the map is folded into it."""

    def make(stack: Stack, run: Sequence[nn.Module], before: Batches, aim: Batches) -> nn.Module:
        return refitted(stack, copy.deepcopy(run[keep]), before, after(stack, run, before))

    return make


def narrow(share: float, refit: bool) -> Make:
    """The block with a share of its hidden units, those of most energy, and its last layer fitted anew or not."""

    def make(stack: Stack, run: Sequence[nn.Module], before: Batches, aim: Batches) -> nn.Module:
        (block,) = run
        down = units_of(stack, block).down
        hidden = torch.cat([h.flatten(0, -2) for h in inputs(stack, block, before, down)])
        worth = energy(down.weight, second_moment(hidden, hidden.shape[1]) / len(hidden))
        gone = worth.argsort(descending=True)[round(share * len(worth)) :]
        made = copy.deepcopy(block)
        units = units_of(stack, made)
        with torch.no_grad():
            units.down.weight[:, gone] = 0
        return refitted(stack, made, before, after(stack, run, before), gone) if refit else made

    return make


def refitted(stack: Stack, block: nn.Module, before: Batches, wanted: Batches, gone: Tensor | None = None) -> nn.Module:
    """`block`, whose last layer is changed, as little as need be, so that it gives what is `wanted`. gone: units that
    count as gone."""
    down = units_of(stack, block).down
    kept = torch.ones(down.in_features, dtype=torch.bool)
    kept[[] if gone is None else gone] = False
    sums: list[Moments] = []
    for one, other in zip(before, wanted, strict=True):
        with watched([down]) as seen:
            now = through(stack, [block], one)
        scale = scale_of(stack, block, one, down)
        sums.append(Moments.of(seen[down][0][..., kept], (other.x - now.x) / scale))
    weight, bias = least_squares(reduce(add, sums))
    with torch.no_grad():
        down.weight[:, kept] += weight.to(down.weight)
        down.bias.add_(bias.to(down.bias))
    return block


def scale_of(stack: Stack, block: nn.Module, before: Tokens, down: nn.Linear) -> Tensor:
    """The factors (C,) between what the last layer of a block gives and what the block adds."""
    few = replace(before, x=before.x[:1])
    with watched([], [down]) as seen:
        update = stack.feed(block, few.x)
    said = seen[down][0]
    return (update * said).sum((0, 1)) / said.square().sum((0, 1))


def mapped_half(half: str) -> Make:
    """The block with a map of normed tokens in the place of its attention or of its MLP."""

    def make(stack: Stack, run: Sequence[nn.Module], before: Batches, aim: Batches) -> nn.Module:
        made = copy.deepcopy(run[0])
        source, target = ends(units_of(stack, made), half)
        sums: list[Moments] = []
        for tokens in before:
            with watched([source], [target]) as seen:
                through(stack, [made], tokens)
            sums.append(Moments.of(seen[source][0], seen[target][0]))
        weight, bias = (part.float() for part in least_squares(reduce(add, sums)))
        said: list[Tensor] = []
        source.register_forward_pre_hook(lambda layer, given: said.__setitem__(slice(None), [given[0]]))
        target.register_forward_hook(lambda layer, given, own: F.linear(said[0], weight, bias))
        return made

    return make


def ends(units: Units, half: str) -> tuple[nn.Linear, nn.Linear]:
    """The first and the last layer of a half of a block."""
    return (units.heads[0].project[0], units.heads[0].out) if half == "attention" else (units.up[0], units.down)


def low_rank(stack: Stack, run: Sequence[nn.Module], before: Batches, aim: Batches) -> nn.Module:
    """The block with the layers of its MLP of a rank, as `reduce_rank` has them."""
    made = copy.deepcopy(run[0])
    rank = round(RANK * units_of(stack, made).down.out_features)
    reduced(stack, rank, made, partial(spread, [partial(through, stack, [made], one) for one in before]))
    return made


@contextmanager
def watched(given: Sequence[nn.Module], said: Sequence[nn.Module] = ()) -> Iterator[dict[nn.Module, list[Tensor]]]:
    """Afterwards: what went into some layers, and what came out of others."""
    seen: dict[nn.Module, list[Tensor]] = {layer: [] for layer in (*given, *said)}
    hooks = [layer.register_forward_pre_hook(lambda layer, x: seen[layer].append(x[0])) for layer in given]
    hooks += [layer.register_forward_hook(lambda layer, x, y: seen[layer].append(y)) for layer in said]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def inputs(stack: Stack, block: nn.Module, before: Batches, layer: nn.Module) -> list[Tensor]:
    with watched([layer]) as seen:
        after(stack, [block], before)
    return seen[layer]


def whole(size: BlockSize, n: int) -> int:
    return size.macs(n, n, size.heads, size.hidden)


def map_macs(size: BlockSize, n: int) -> int:
    return n * size.dim**2


def mlp_macs(size: BlockSize, n: int) -> int:
    return size.hidden * size.unit(n)


def low_rank_macs(size: BlockSize, n: int) -> int:
    """What an MLP's layers take more than two factors of each."""
    return n * size.ways * (size.dim * size.hidden - round(RANK * size.dim) * (size.dim + size.hidden))


def narrower(share: float, refit: bool) -> Operator:
    return Operator(narrow(share, refit), lambda size, n: round((1 - share) * mlp_macs(size, n)), half="mlp")


OPERATORS: dict[str, Operator] = {
    "linear map of a block": Operator(linear, lambda size, n: whole(size, n) - map_macs(size, n)),
    AIMED: Operator(aimed, lambda size, n: whole(size, n) - map_macs(size, n)),
    "upper of two blocks and a map": Operator(block_and_map, lambda size, n: whole(size, n) - map_macs(size, n), 2),
    "lower of two blocks, folded": Operator(folded(0), whole, 2),
    "upper of two blocks, folded": Operator(folded(1), whole, 2),
    "map of an MLP": Operator(mapped_half("mlp"), lambda size, n: mlp_macs(size, n) - map_macs(size, n), half="mlp"),
    "map of an attention": Operator(
        mapped_half("attention"),
        lambda size, n: whole(size, n) - mlp_macs(size, n) - map_macs(size, n),
        half="attention",
    ),
    "low rank of an MLP": Operator(low_rank, low_rank_macs, half="mlp"),
    "half of the hidden units": narrower(1 / 2, refit=False),
    "half of the hidden units, refitted": narrower(1 / 2, refit=True),
    "a quarter of the hidden units, refitted": narrower(1 / 4, refit=True),
}
