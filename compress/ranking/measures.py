"""Recipes of all budgets from one ranking: what parts that go move an output by is taken to add up in squares, and of
all layouts within the multiply-accumulates (MACs), dynamic programming finds the one that moves it least."""

# NOTE: `fasthmr compress --budget` keeps its greedy choice with a look at whole recipes (`compress.ranking.budget`). On
# 44 frames of synth:val this one was ahead at 70 and 50 % of the MACs and behind at 35 %, all within the intervals; a
# look at whole recipes with each number of patches changed nothing there. The median in `dropping` was
# taken after such a comparison, in the place of the mean, which one frame decided.

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from compress.atomic import atomic_write
from compress.context import Context
from compress.policies.merge_tokens import MergeTokens
from compress.policies.prune_width import count
from compress.ranking.budget import PIECES, BlockSize, counted
from compress.ranking.layout import LEVERS, EncoderSizes, Layout
from compress.ranking.movement import movements
from compress.ranking.paths import Edge, Paths
from compress.ranking.scores import LEVELS, SHARES, BlockScores, rank

GRAINS = 2000  # the MACs of a model are counted in such a share of them
LOOKED = 3  # of so many numbers of patches, at one it is looked at what dropping the others moves
UNWEIGHED: Mapping[str, float] = {}


@dataclass(frozen=True)
class Measures:
    """All that recipes of every budget follow from: an encoder, and what it moves an output by to leave parts out."""

    encoder: EncoderSizes
    scores: Sequence[BlockScores]
    dropped: Mapping[int, float]  # mm^2 by the number of patches that are kept
    rest: tuple[int, int]  # MACs of what is no block, with no patch left, and for each one
    total: int  # MACs of the model
    seconds: float = 0.0  # of CPUs that they took

    def paths(
        self,
        weights: Mapping[str, float] = UNWEIGHED,
        grains: int = GRAINS,
        levers: Sequence[str] = LEVERS,
    ) -> Paths:
        """The recipes of all budgets that use `levers`, policies by name. weights: by what kinds of what is left out
        (heads, hidden, map, merge, drop) and places ("0", ...) count more or less."""
        first = self.dropped if "merge_tokens" in levers else {self.encoder.patches: 0.0}
        starts = {In(keep, False, False): weights.get("drop", 1.0) * moved for keep, moved in first.items()}
        stages: list[list[Edge]] = []
        for i in range(len(self.scores)):
            stages += BlockStages(self.encoder, i, self.scores[i], weights, levers).stages()
        rest, each = self.rest
        ends = [
            Edge(In(t, True, was), "end", rest + each * t, 0.0) for t in self.encoder.tokens for was in (False, True)
        ]
        return Paths(starts, [*stages, ends], self.total, max(1, self.total // grains))

    def told(self) -> dict[str, Any]:
        """It as JSON values."""
        scores = [[one.heads.tolist(), one.hidden.tolist(), one.mapped, one.merged.tolist()] for one in self.scores]
        dropped = [*self.dropped.items()]
        return {**vars(self), "encoder": asdict(self.encoder), "scores": scores, "dropped": dropped}

    @classmethod
    def of(cls, told: dict[str, Any]) -> Measures:
        """What `told` gave."""
        encoder = {**told["encoder"], "sizes": [BlockSize(*size) for size in told["encoder"]["sizes"]]}
        tensor = torch.tensor
        scores = [BlockScores(tensor(h), tensor(u), mapped, tensor(m)) for h, u, mapped, m in told["scores"]]
        found = {"encoder": EncoderSizes(**encoder), "scores": scores, "dropped": dict(told["dropped"])}
        return cls(**{**told, **found, "rest": tuple(told["rest"])})

    def chosen(self, path: Sequence[Edge]) -> Layout:
        """What the edges of a path leave."""
        blocks = [path[3 * i : 3 * i + 3] for i in range(len(self.scores))]
        mapped = {i for i, (first, _, _) in enumerate(blocks) if first.end[0] == "map"}
        heads, merges, hidden = ([max(0, part.left) for part in parts] for parts in zip(*blocks, strict=True))
        return Layout(path[0].start[0], heads, hidden, merges, mapped)

    def moved(self, layout: Layout) -> float:
        """What a layout is taken to move an output by, in mm^2."""
        left, total = layout.keep, self.dropped[layout.keep]
        for i, (score, size) in enumerate(zip(self.scores, self.encoder.sizes, strict=True)):
            if i in layout.mapped:
                total += score.mapped
                continue
            total += going(score.heads.tolist(), size.heads, size.heads - layout.heads[i])
            total += going(score.hidden.tolist(), size.hidden, size.hidden - layout.hidden[i])
            total += merged_to(score, self.encoder.patches, left, left - layout.merges[i])
            left -= layout.merges[i]
        return total


class In(NamedTuple):
    """Where a path is before a block."""

    patches: int
    some: bool  # whether a block below is none of the maps, which not all can be
    mapped: bool  # whether the block below is one: neighbours share theirs


@dataclass(frozen=True)
class BlockStages:
    """The three stages of layouts in a block: heads, tokens that merge, hidden units; or a map in the place of all."""

    encoder: EncoderSizes
    place: int
    score: BlockScores
    weights: Mapping[str, float]
    levers: Sequence[str]

    def edge(self, start: Any, end: Any, macs: int, kind: str, moved: float, left: int) -> Edge:
        weight = self.weights.get(kind, 1.0) * self.weights.get(str(self.place), 1.0)
        return Edge(start, end, macs, weight * moved, left)

    def stages(self) -> list[list[Edge]]:
        size, prefix, tokens = self.encoder.sizes[self.place], self.encoder.prefix, self.encoder.tokens
        units = "prune_width" in self.levers
        heads = [*levels(self.score.heads.tolist(), size.heads, 1)][: None if units else 1]
        hidden = [*levels(self.score.hidden.tolist(), size.hidden, max(1, size.hidden // PIECES))][
            : None if units else 1
        ]
        before = [In(t, some, was) for t in tokens for some in (False, True) for was in (False, True)]
        attention = [
            self.edge(at, ("attended", at.patches), left * size.head(prefix + at.patches), "heads", moved, left)
            for at in before
            for left, moved in heads
        ]
        gone = {t: merged_by(self.score, 1 - t / self.encoder.patches) for t in tokens}
        merged = [
            self.edge(
                ("attended", t),
                ("merged", after),
                size.macs(prefix + t, prefix + after, 0, 0),  # of the matching
                "merge",
                gone[after] - gone[t],
                t - after,
            )
            for t in tokens
            for after in tokens
            if 2 * after >= t >= after and (after == t or "merge_tokens" in self.levers)
        ]
        fed = [
            self.edge(("merged", t), In(t, True, False), left * size.unit(prefix + t), "hidden", moved, left)
            for t in tokens
            for left, moved in hidden
        ]
        if "merge_layers" not in self.levers:
            return [attention, merged, fed]
        maps = [
            self.edge(
                at, ("map", at), 0 if at.mapped else (prefix + at.patches) * size.dim**2, "map", self.score.mapped, 0
            )
            for at in before
        ]
        past = [Edge(("map", at), ("map", at), 0, 0.0) for at in before]
        out = [Edge(("map", at), at._replace(mapped=True), 0, 0.0) for at in before]
        return [attention + maps, merged + past, fed + out]


def measures_of(model: Any, context: Context, protect: bool) -> Measures:
    """The measures of a model on the context's frames, taken once and kept where those keep what took long.

    protect: whether a person mask spares the person's tokens, and background may be dropped.
    """

    def ranked() -> list[BlockScores]:
        return rank(model, context.judge, context.observer)

    def take() -> Measures:
        begun = time.process_time()
        encoder, scores = EncoderSizes.of(model, protect), context.remembered("scores", ranked)
        dropped = dropping(encoder, model, context) if encoder.drops else {encoder.patches: 0.0}
        total = int(model.cost().macs.true)
        return Measures(encoder, scores, dropped, rest_of(model, encoder), total, time.process_time() - begun)

    def kept() -> Measures:
        with context.place("measures", protect) as path:
            file = path.with_suffix(".json")
            if not file.exists():
                atomic_write(file, json.dumps(take().told()).encode())
            return Measures.of(json.loads(file.read_bytes()))

    return context.remembered(("measures", protect), kept)


def rest_of(model: Any, encoder: EncoderSizes) -> tuple[int, int]:
    """MACs of what is no block, as a head that reads tokens: with no patch left, and for each one. Counted twice, with
    all patches and with half of them."""
    half, found = encoder.patches // 2, []
    few = MergeTokens(keep=encoder.patches - half, per_layer=half, protect="none")
    for steps, tokens in (((), encoder.patches), ((few,), encoder.patches - half)):
        first, *others = encoder.sizes
        after = encoder.prefix + tokens
        blocks = first.macs(encoder.prefix + encoder.patches, after, first.heads, first.hidden)
        found.append(
            counted(model, steps) - blocks - sum(each.macs(after, after, each.heads, each.hidden) for each in others)
        )
    each = max(0, -((found[1] - found[0]) // half))
    return found[0] - each * encoder.patches, each


def dropping(encoder: EncoderSizes, model: Any, context: Context) -> dict[int, float]:
    """What it moves the outputs by, in mm^2, to keep some of the patches before the first block and a ring around the
    person after all that lies further out: looked at, since gradients say nothing of tokens that are not there.

    Of half of the frames it is less: scores to first order do not see one that turns into another pose either.
    """
    seen = [*encoder.tokens[:-1:LOOKED]]
    ways = [MergeTokens(mode="drop", keep=keep, dilate=1) for keep in seen]
    moved = [movements(model, (way,), context).median().item() for way in ways]
    found = np.interp(encoder.tokens, [*seen, encoder.patches], [*moved, 0.0])
    return dict(zip(encoder.tokens, found.tolist(), strict=True))


def levels(moved: Sequence[float], units: int, each: int) -> Iterator[tuple[int, float]]:
    """Units of a block that may be left, all first, and what it moves by, in mm^2, that the others go. `each` go
    together."""
    most = units - count(units, SHARES[-1])
    for some in sorted({*range(0, most, each), most}):
        yield units - some, going(moved, units, some)


def going(moved: Sequence[float], units: int, some: int) -> float:
    """What it moves by, in mm^2, that some of a block's units go; never less where more go. moved: where each of SHARES
    is gone; between those, what rises straight."""
    gone = [0, *(units - count(units, share) for share in SHARES)]
    return float(np.interp(some, gone, np.maximum.accumulate([0.0, *moved])))


def merged_to(scores: BlockScores, patches: int, before: int, after: int) -> float:
    """What it moves by, in mm^2, to merge tokens in a block."""
    return merged_by(scores, 1 - after / patches) - merged_by(scores, 1 - before / patches)


def merged_by(scores: BlockScores, share: float) -> float:
    """What it moves by, in mm^2, that a share of the patches is gone by a block's merging: between the LEVELS that were
    looked at, and in squares beyond: those most alike are gone where fewer tokens than patches come in."""
    found = float(np.interp(share, (0.0, *LEVELS), (0.0, *np.maximum.accumulate(scores.merged.tolist()))))
    return found * max(1.0, share / LEVELS[-1]) ** 2
