"""Trials of a layer search: what the error is where some windows are replaced, and the blocks that replace them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from compress.frames import Judge
from compress.layers import search
from compress.layers.folded import folded
from compress.layers.least_squares import fitted
from compress.layers.operators import FITTED, Aim, Operator, first_weight, merged_block, smallest_window
from compress.layers.similarity import MEMORY, layer_similarity
from compress.stack import Stack, through
from compress.tokens import Tokens


class Trials:
    """The error of a stack with some windows replaced; runs only the blocks that can differ from what has run before.

    The search goes from the last block to the first, so what lies below a trial's lowest new window is the settled
    model's. Its tokens on the way are kept for all batches, on the model's device, and a trial starts from the nearest
    ones below its window. They take at most `memory` bytes, 0.94 MiB a frame and block at HMR2.0's size in float32;
    where those of all blocks do not fit, every k-th block's are kept, and the blocks between run again: of 32 blocks
    that do not merge, six kept leave 59 % of the block evaluations to run, four 62 %, one 76 %. Errors are those of
    running everything, to the bit.

    Maps (operator `linear`), and those that are folded into a block (`fold`), are fitted on the judge's frames, each on
    the tokens that the maps below it leave; beside `memory`, what goes into the newest one is held for all batches.
    `aim`: at what its run makes of these tokens, or made of the original's, for which the original runs again.
    They know the frames that they are judged on: with few of those the error is rosier than on others.

    `run` counts blocks times batches that did run, `plain` what running every trial whole would have taken.
    """

    def __init__(
        self, stack: Stack, judge: Judge, operator: Operator, memory: int = MEMORY, aim: Aim = "run"
    ) -> None:
        self.stack, self.judge, self.operator, self.memory, self.aim = stack, judge, operator, memory, aim
        self.smallest, self.fits = smallest_window(operator), operator in FITTED
        self.blocks = list(stack.blocks)
        self.settled: search.Windows = ()
        self.kept: list[dict[int, Tokens]] = [{} for _ in judge.crops]  # per batch: what goes into the i-th settled run
        self.places = range(0)  # the blocks whose input is kept
        self.reached: list[tuple[int, Tokens] | None] = []  # per batch: what goes into the newest map, and which it is
        self.made: dict[search.Windows, nn.Module] = {}  # by a window or, of maps, that and all below it
        self.run = self.plain = 0

    @torch.no_grad()
    def __call__(self, windows: search.Windows, settled: search.Windows = ()) -> float:
        """Mean error in mm over all frames of the judge."""
        blocks, shared = self._built(windows, settled)
        errors = [self._errors(index, blocks, shared) for index in range(len(self.judge.crops))]
        self.reached = []
        self.plain += (len(blocks) + sum(map(self._fitting, windows))) * len(errors)
        return torch.cat(errors).double().mean().item()

    @torch.no_grad()
    def blocks_for(self, windows: search.Windows) -> list[nn.Module]:
        """What takes the place of each of the windows."""
        blocks, _ = self._built(windows, ())
        self.reached = []
        runs = search.runs_of(windows, len(self.blocks))
        return [block for block, run in zip(blocks, runs, strict=True) if run in windows]

    def similarities(self, embedding: bool) -> list[float]:
        """Linear CKA of each layer's output and the next one's; with `embedding`, what goes into the first block is a
        layer too."""
        near = layer_similarity(self.stack, self.judge.crops, band=1, embedding=embedding)
        return cast(list[float], near.diagonal(1).tolist())

    def _built(self, windows: search.Windows, settled: search.Windows) -> tuple[list[nn.Module], int]:
        """The blocks of a trial, lowest first, and how many of them are the settled model's."""
        depth = len(self.blocks)
        same, self.settled = common(settled, self.settled, depth), settled
        self.kept = [{i: tokens for i, tokens in kept.items() if i <= same} for kept in self.kept]
        # Any further, and nothing is left to try.
        shared = min(common(windows, settled, depth), len(search.runs_of(settled, depth)) - self.smallest)
        self.reached = [None] * len(self.kept)
        old = {self._key(window, settled) for window in settled}
        made = {key: block for key, block in self.made.items() if key in old}
        blocks: list[nn.Module] = []
        for run in search.runs_of(windows, depth):
            if run in windows:
                key = self._key(run, windows)
                made[key] = self.made.get(key) or self._replacement(run, blocks, shared)
                blocks.append(made[key])
            else:
                blocks.append(self.blocks[run[0]])
        self.made = made
        return blocks, shared

    def _key(self, window: search.Window, windows: search.Windows) -> search.Windows:
        """What a replacement depends on: a map's, also on what lies below it."""
        return tuple(w for w in windows if w <= window) if self.fits else (window,)

    def _replacement(self, window: search.Window, below: list[nn.Module], shared: int) -> nn.Module:
        originals = self.blocks[window[0] : window[1] + 1]
        if not self.fits:
            return merged_block(originals, self.operator)
        pairs = self._pairs(window, below, shared)
        if self.operator == "fold":
            return folded(self.stack, originals[0], pairs)
        return fitted(((before.x, after) for before, after in pairs), first_weight(originals[0]))

    def _pairs(
        self, window: search.Window, below: list[nn.Module], shared: int
    ) -> Iterator[tuple[Tokens, Tensor]]:
        """The tokens that blocks `below` leave, and what is to be made of them, batch by batch."""
        low, high = window
        for index in range(len(self.kept)):
            before = self._tokens(index, below, shared)
            self.reached[index] = (len(below), before)
            self.run += self._fitting(window)
            if self.aim == "run":
                yield before, through(self.stack, self.blocks[low : high + 1], before).x
            else:
                own = self.stack.embed(self.judge.crops[index])
                yield before, through(self.stack, self.blocks[: high + 1], own).x

    def _fitting(self, window: search.Window) -> int:
        """Blocks that run on each batch for what takes the place of a window to be fitted, beside those below it."""
        low, high = window
        first = low if self.aim == "run" else 0
        return high + 1 - first + (self.operator == "fold") if self.fits else 0

    def _errors(self, index: int, blocks: list[nn.Module], shared: int) -> Tensor:
        """Errors (B,) in mm of one batch."""
        return self.judge.errors(index, self.stack.finish(self._tokens(index, blocks, shared)))

    def _tokens(self, index: int, blocks: list[nn.Module], shared: int) -> Tokens:
        """One batch after all `blocks`; on the way, keeps what goes into the first `shared` + 1 of them."""
        kept, shared = self.kept[index], min(shared, len(blocks))
        start, reached = max((i for i in kept if i <= shared), default=-1), self.reached[index]
        if reached and reached[0] > start:
            start, tokens = reached
        else:
            start, tokens = (start, kept[start]) if start >= 0 else (0, self._embedded(index))
        stops = [i for i in self.places if start < i <= shared]
        for stop in stops:
            kept[stop] = tokens = through(self.stack, blocks[start:stop], tokens)
            self.run += stop - start
            start = stop
        self.run += len(blocks) - start
        return through(self.stack, blocks[start:], tokens)

    def _embedded(self, index: int) -> Tokens:
        tokens = self.stack.embed(self.judge.crops[index])
        frames = sum(len(crop) for crop in self.judge.crops)
        places = len(self.blocks) + 2 - self.smallest
        self.places = kept_places(places, self.memory // (frames * frame_bytes(tokens)))
        if 0 in self.places:
            self.kept[index][0] = tokens
        return tokens


def kept_places(depth: int, room: int) -> range:
    """Of `depth` blocks, at most `room` whose input is kept: all that a trial can start from, or every k-th.

    The last block's input is none of them, since a merge takes two; where maps replace single blocks, count one block
    more. Where room is short, the first one's is none either, which would save the embedding alone.
    """
    if room >= depth - 1:
        return range(depth - 1)
    step = math.ceil((depth - 1) / (room + 1))
    return range(step, depth - 1, step)


def frame_bytes(tokens: Tokens) -> int:
    """Bytes of one frame's tokens."""
    parts = (tokens.x, tokens.size, tokens.protected, tokens.source)
    return sum(part.nbytes for part in parts) // len(tokens.x)


def common(windows: search.Windows, others: search.Windows, depth: int) -> int:
    """How many runs of two models of `depth` blocks are the same, from the first on."""
    first = min((low for low, _ in {*windows} ^ {*others}), default=depth)
    return sum(low < first for low, _ in search.runs_of(windows, depth))
