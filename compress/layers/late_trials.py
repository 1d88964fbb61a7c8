"""Trials of a layer search behind the image encoder: what the error is where blocks of a decoder are replaced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compress.frames import Judge
from compress.late import LateStack, calls, joined
from compress.layers import search, similarity
from compress.layers.least_squares import fitted
from compress.layers.operators import Operator, first_weight, merged_block, smallest_window
from compress.tokens import Tokens


class LateTrials:
    """The error of a model with some windows of a late stack replaced, as `compress.layers.trials.Trials` of an
    encoder's: the image encoder runs once, and each trial reads what it left.

    Maps are fitted on the tokens that the maps below them leave, in all calls of a block. `run` counts blocks times
    batches; none is spared, since what lies between the blocks is the model's own.
    """

    memory = 0

    def __init__(self, model: Any, stack: LateStack, judge: Judge, operator: Operator) -> None:
        self.model, self.stack, self.judge, self.operator = model, stack, judge, operator
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
        linear = self.operator == "linear"
        key = tuple(w for w in windows if w <= window) if linear else (window,)
        if key not in self.made:
            originals = self.blocks[window[0] : window[1] + 1]
            self.made[key] = self._fitted(window, below) if linear else merged_block(originals, self.operator)
        return self.made[key]

    def _fitted(self, window: search.Window, below: list[nn.Module]) -> nn.Module:
        """The map of a window, on what `below` leave of all batches."""
        first = self.blocks[window[0]]
        return self.stack.map_of(fitted(self._pairs(window, below), first_weight(first)))

    def _pairs(self, window: search.Window, below: list[nn.Module]) -> Iterator[tuple[Tensor, Tensor]]:
        """The tokens that go into a window's first block, and those that its last one makes of them."""
        low, high = window
        blocks = [*below, *self.blocks[low:]]
        for index in range(len(self.tokens)):
            with calls((self.blocks[low], self.blocks[high])) as (entering, leaving):
                self._read(index, blocks)
            yield joined(entering, after=False), joined(leaving, after=True)

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
