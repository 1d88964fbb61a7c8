"""Trials of a layer search behind the image encoder: what the error is where blocks of a decoder are replaced."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compress.frames import Judge
from compress.late import Call, LateStack, calls, joined
from compress.layers import search, similarity
from compress.layers.folded import doubled, exact_factors, mend, watched
from compress.layers.least_squares import Moments, fitted
from compress.layers.operators import FITTED, Aim, Operator, first_weight, merged_block, smallest_window
from compress.layers.units import units_of
from compress.tokens import Tokens


class LateTrials:
    """The error of a model with some windows of a late stack replaced, as `compress.layers.trials.Trials` of an
    encoder's: the image encoder runs once, and each trial reads what it left.

    Maps are fitted on the tokens that the maps below them leave, in all calls of a block; `aim` as there. `run` counts
    blocks times batches; none is spared, since what lies between the blocks is the model's own.
    """

    memory = 0

    def __init__(self, model: Any, stack: LateStack, judge: Judge, operator: Operator, aim: Aim = "run") -> None:
        self.model, self.stack, self.judge, self.operator, self.aim = model, stack, judge, operator, aim
        self.smallest = smallest_window(operator)
        self.blocks = list(stack.blocks)
        self.tokens = finished(model, judge)
        self.made: dict[search.Windows, nn.Module] = {}
        self.run = 0

    @property
    def plain(self) -> int:
        return self.run

    @torch.no_grad()
    def __call__(self, windows: search.Windows, settled: search.Windows = ()) -> float:
        """Mean error in mm over all frames of the judge."""
        return self._error(self._built(windows))

    @torch.no_grad()
    def blocks_for(self, windows: search.Windows) -> list[nn.Module]:
        """What takes the place of each of the windows."""
        runs, blocks = search.runs_of(windows, len(self.blocks)), self._built(windows)
        return [block for block, run in zip(blocks, runs, strict=True) if run in windows]

    @torch.no_grad()
    def similarities(self, embedding: bool) -> list[float]:
        """Linear CKA of each layer's output and the next one's; with `embedding`, what goes into the first block is a
        layer too."""
        batches = [self._outputs(tokens, embedding) for tokens in range(len(self.tokens))]
        near = similarity.cka(lambda: batches, len(self.blocks) + embedding, band=1)
        return near.diagonal(1).tolist()

    def _error(self, blocks: Sequence[nn.Module]) -> float:
        with self.stack.holding(blocks):
            errors = [self.judge.errors(i, tokens, self.model) for i, tokens in enumerate(self.tokens)]
        self.run += len(blocks) * len(errors)
        return torch.cat(errors).double().mean().item()

    def _built(self, windows: search.Windows) -> list[nn.Module]:
        blocks: list[nn.Module] = []
        for run in search.runs_of(windows, len(self.blocks)):
            blocks.append(self._replacement(run, windows, blocks) if run in windows else self.blocks[run[0]])
        return blocks

    def _replacement(self, window: search.Window, windows: search.Windows, below: list[nn.Module]) -> nn.Module:
        fits = self.operator in FITTED
        key = tuple(w for w in windows if w <= window) if fits else (window,)
        if key not in self.made:
            originals = self.blocks[window[0] : window[1] + 1]
            self.made[key] = self._fitted(window, below) if fits else merged_block(originals, self.operator)
        return self.made[key]

    def _fitted(self, window: search.Window, below: list[nn.Module]) -> nn.Module:
        """The map of a window, on what `below` leave of all batches, or its lowest block with the map folded in."""
        first = self.blocks[window[0]]
        if self.operator == "fold":
            return self._folded(window, below, copy.deepcopy(first))
        pairs = ((joined(entering, after=False), aim) for entering, aim in self._pairs(window, below, first))
        return self.stack.map_of(fitted(pairs, first_weight(first)))

    def _folded(self, window: search.Window, below: list[nn.Module], block: nn.Module) -> nn.Module:
        """`block`, a copy of a window's lowest, whose last layer is fitted anew."""
        down, scale = units_of(self.stack, block).down, self._scale(window, below, block)
        sums: list[Moments] = []
        with watched(down) as seen:
            for entering, wanted in self._pairs(window, below, block):
                given = torch.cat([x.flatten(0, -2) for x, _ in seen])  # (M, hidden units), of all calls
                sums.append(Moments.of(given, (wanted - joined(entering, after=True)) / scale))
                seen.clear()
        mend(down, sums)
        return block

    def _scale(self, window: search.Window, below: list[nn.Module], block: nn.Module) -> Tensor:
        """The factors (C,) between what the block's last layer says and what the block adds, by its first call."""
        down, blocks = units_of(self.stack, block).down, [*below, block, *self.blocks[window[0] + 1 :]]
        with watched(down) as seen, calls((block,)) as (plain,):
            self._read(0, blocks)
        with doubled(down), calls((block,)) as (loud,):
            self._read(0, blocks)
        return exact_factors(seen[0][1], loud[0].after - plain[0].after, type(block).__name__)

    def _pairs(
        self, window: search.Window, below: list[nn.Module], first: nn.Module
    ) -> Iterator[tuple[list[Call], Tensor]]:
        """The calls of `first`, a window's first block, behind those below it, and what is wanted (M, C) of them."""
        low, high = window
        for index in range(len(self.tokens)):
            with calls((first, self.blocks[high])) as (entering, leaving):
                self._read(index, [*below, first, *self.blocks[low + 1 :]])
            if self.aim == "original":
                with calls((self.blocks[high],)) as (leaving,):
                    self._read(index, self.blocks)
            yield entering, joined(leaving, after=True)

    def _outputs(self, index: int, embedding: bool) -> list[Tensor]:
        with calls(self.blocks) as seen:
            self._read(index, self.blocks)
        before = [joined(seen[0], after=False)] if embedding else []
        return [*before, *(joined(one, after=True) for one in seen)]

    def _read(self, index: int, blocks: Sequence[nn.Module]) -> None:
        """Run the model behind its encoder on a batch, for what its blocks are given."""
        with self.stack.holding(blocks):
            self.judge.errors(index, self.tokens[index], self.model)
        self.run += len(blocks)


@torch.no_grad()
def finished(model: Any, judge: Judge) -> list[Tokens]:
    """What the model's encoder, as it is, makes of each of the judge's batches."""
    masks: Sequence[Tensor | None] = judge.masks or [None] * len(judge.crops)
    return [model.encode(crop, mask) for crop, mask in zip(judge.crops, masks, strict=True)]
