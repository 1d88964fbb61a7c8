"""Dynamic programming over multiply-accumulates: the path through stages of choices that moves an output least, for
every budget at once (in the spirit of SPDY, arXiv:2201.13096 Sec. 3.2, and ZipLM, arXiv:2302.04089 Sec. 3.2)."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

NOTHING = -1
Sums = dict[Hashable, NDArray[np.float64]]


class Edge(NamedTuple):
    """One choice of a stage: from a state to another."""

    start: Any  # states are hashable
    end: Any
    macs: int
    moved: float  # what it adds to what is to be small
    left: int = 0  # what was chosen, for whoever reads the path


class Paths:
    """The least sums of `moved` over all paths that take one edge of each stage, for each number of MACs.

    MACs are counted in `grain`, each edge's rounded up: a path found keeps its budget, and no path moves less of those
    that keep it in whole grains.
    """

    def __init__(
        self, starts: Mapping[Any, float], stages: Iterable[Iterable[Edge]], most: int, grain: int
    ) -> None:
        """starts: where a path may begin, and what that moves. most: the largest budget in MACs."""
        self.grain, self.bins = grain, most // grain + 1
        states = {state: np.full(self.bins, moved) for state, moved in starts.items()}
        self.stages: list[tuple[list[Edge], dict[Hashable, NDArray[np.int32]]]] = []
        for stage in stages:
            edges = [edge for edge in stage if edge.start in states]
            states = self._stepped(states, edges)
        self.ends = states

    def _stepped(
        self, states: dict[Hashable, NDArray[np.float64]], edges: list[Edge]
    ) -> dict[Hashable, NDArray[np.float64]]:
        """The sums (bins,) of each state after a stage, by the largest MACs up to there; keeps which edge each took."""
        sums: Sums = {}
        taken: dict[Hashable, NDArray[np.int32]] = {}
        for i, edge in enumerate(edges):
            if (width := self._grains(edge)) >= self.bins:
                continue
            if edge.end not in sums:
                sums[edge.end] = np.full(self.bins, np.inf)
                taken[edge.end] = np.full(self.bins, NOTHING, np.int32)
            found, into = states[edge.start][: self.bins - width] + edge.moved, sums[edge.end][width:]
            less = found < into
            into[less] = found[less]
            taken[edge.end][width:][less] = i
        self.stages.append((edges, taken))
        return sums

    def _grains(self, edge: Edge) -> int:
        return -(-edge.macs // self.grain)

    @property
    def least(self) -> int:
        """The smallest budget that some path keeps; beyond the largest where none does."""
        possible = [int(np.isfinite(sums).argmax()) for sums in self.ends.values() if np.isfinite(sums[-1])]
        return min(possible, default=self.bins) * self.grain

    def best(self, budget: int) -> tuple[float, list[Edge]] | None:
        """What the best path within `budget` MACs moves, and its edges, one of each stage; None where there is none."""
        place = min(budget // self.grain, self.bins - 1)
        ends = {end: sums[place] for end, sums in self.ends.items() if place >= 0}
        state = min(ends, key=lambda end: float(ends[end]), default=None)
        if state is None or not np.isfinite(moved := ends[state]):
            return None
        path: list[Edge] = []
        for edges, taken in reversed(self.stages):
            path.append(edges[taken[state][place]])
            state, place = path[-1].start, place - self._grains(path[-1])
        return float(moved), path[::-1]
