"""Which layers to merge: searches under an error budget. Plain integers; nothing here knows a network.

Blocks are numbered 0 to depth - 1 as in the original model. A window (low, high), both ends included, is a run of
blocks that one block or one linear map replaces; every other block is left as it is. Every trial is a tuple of windows:
it defines how to build the trial from the original weights, whatever was tried before.

`smallest` is the number of blocks in the smallest window: 2 where blocks are merged into one, 1 where a map, which is
hardly a block, takes their place. A search chooses places, each of which leaves one block less: place p is the joint of
blocks p and p + 1 where blocks are merged, block p itself where maps replace them. Places in a row make one window, so
no map stands beside another: two in a row are one map, at twice the cost.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Collection, MutableMapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from random import Random
from typing import Literal, NamedTuple, Protocol, get_args

from filelock import FileLock

from compress.atomic import append_line, writing
from compress.errors import BadInput

Window = tuple[int, int]
Windows = tuple[Window, ...]  # in rising order, disjoint
Strategy = Literal["window", "greedy", "cka"]


class Evaluate(Protocol):
    """The error of the original model with `windows` merged. `settled` are the windows that the search has already
    decided on and this trial grew from: no part of the question, but an evaluation may keep what they share."""

    def __call__(self, windows: Windows, settled: Windows, /) -> float: ...


class PathPoint(NamedTuple):
    """A model that a search came through."""

    depth: int  # blocks that are left, maps not counted
    windows: Windows
    error: float


class TrialProgress(NamedTuple):
    """What a search reports after each trial."""

    windows: Windows
    error: float
    done: int  # trials so far
    total: int  # trials in all


@dataclass(frozen=True)
class SearchResult:
    """What a search decided. `path` starts at the original model, whose windows are ()."""

    windows: Windows
    error: float
    path: tuple[PathPoint, ...]


def error_constrained(
    evaluate: Evaluate,
    depth: int,
    strategy: Strategy = "window",
    *,
    threshold: float | None = None,
    layers: int | None = None,
    similarity: Sequence[float] = (),
    commit_open_window: bool = True,
    smallest: int = 2,
    known: MutableMapping[Windows, float] | None = None,
    progress: Callable[[TrialProgress], None] = lambda _: None,
) -> SearchResult:
    """The windows of a model of `depth` blocks to merge, so that the error rises by less than `threshold`.

    Strategies: `window` (FastHMR Alg. 1) needs a threshold; `greedy` and `cka` walk a path of ever fewer blocks and
    take the shortest model on it within the threshold or, where `layers` is given, the one of so many blocks. An error
    that is not finite counts as infinite.

    Nothing that stands in `known` (windows -> error) is evaluated again, and what is evaluated is put there: with a
    `TrialJournal`, a search that was killed continues where it stopped. Raises BadInput where an argument is missing or
    wrong.
    """
    if threshold is None and (layers is None or strategy == "window"):
        raise BadInput(f"strategy {strategy} needs a threshold" + (" or a number of layers" * (strategy != "window")))
    if strategy not in get_args(Strategy):
        raise BadInput(f"no search is called {strategy!r}: choose one of {', '.join(get_args(Strategy))}")
    if layers is not None and not 1 <= layers <= depth:
        raise BadInput(f"layers: {layers} blocks cannot be left of {depth}")
    least = smallest - 1 if layers is None else layers
    total = trials(strategy, depth, least, smallest)
    error = remembered(evaluate, {} if known is None else known, total, progress)
    if strategy == "window":
        return window(error, depth, threshold or 0.0, commit_open_window, smallest)
    if strategy == "greedy":
        path = greedy(error, depth, least, smallest)
    else:
        path = cka(error, depth, similarity, least, smallest)
    chosen = path[-1] if layers is not None else shortest(path, threshold or 0.0)
    return SearchResult(chosen.windows, chosen.error, path)


def window(
    error: Evaluate, depth: int, threshold: float, commit_open_window: bool = True, smallest: int = 2
) -> SearchResult:
    """FastHMR Algorithm 1: from the last block down, windows grow while the error rises by less than `threshold`.

    As printed, the loop ends without merging a window that is still open when it reaches block 0;
    `commit_open_window` merges it. A block that a window was refused is the first of the next one; a map would then
    stand beside a map, so of these the next one begins below. Makes depth + 2 - smallest evaluations, the original
    model's included.
    """
    base = error((), ())
    path, merged = [PathPoint(depth, (), base)], ()  # type: tuple[list[PathPoint], Windows]
    high, low = depth - 1, depth - smallest
    while low >= 0:
        trial = ((low, high), *merged)
        found = error(trial, merged)
        if found - base < threshold:
            path.append(PathPoint(blocks_left(trial, depth, smallest), trial, found))
            low -= 1
            continue
        if high - low >= smallest:
            merged = ((low + 1, high), *merged)
        high, low = low - 2 + smallest, low - 1
    if commit_open_window and high - low >= smallest:  # low is -1, and the window (0, high) was accepted
        merged = ((0, high), *merged)
    return SearchResult(merged, next(step.error for step in path if step.windows == merged), tuple(path))


def greedy(error: Evaluate, depth: int, layers: int = 1, smallest: int = 2) -> tuple[PathPoint, ...]:
    """The path down to `layers` blocks that takes, each time, the place whose window leaves the least error: the two
    adjacent runs whose merge does, or the block whose replacement does.

    A window that grows is made again from all of its original blocks. Among equals the later blocks go first.
    """
    chosen: frozenset[int] = frozenset()
    path = [PathPoint(depth, (), error((), ()))]
    while depth - len(chosen) > layers:
        settled = windows_at(chosen, smallest)
        trials = [chosen | {place} for place in reversed(range(depth + 1 - smallest)) if place not in chosen]
        least, chosen = min(
            ((error(windows_at(trial, smallest), settled), trial) for trial in trials), key=itemgetter(0)
        )
        path.append(PathPoint(depth - len(chosen), windows_at(chosen, smallest), least))
    return tuple(path)


def cka(
    error: Evaluate, depth: int, similarity: Sequence[float], layers: int = 1, smallest: int = 2
) -> tuple[PathPoint, ...]:
    """The path down to `layers` blocks that takes the places of most similar layers first; one evaluation a step.

    similarity (depth + 1 - smallest), larger is more alike: of the outputs of block i and block i + 1 (smallest 2), or
    of what goes into block i and what comes out (1). Among equals the later blocks go first. Raises BadInput for
    another number of similarities.
    """
    places = max(0, depth + 1 - smallest)
    if len(similarity) != places:
        each = "one per two neighbours" if smallest > 1 else "one each"
        raise BadInput(f"{depth} blocks need {places} similarities, {each}, not {len(similarity)}")
    order = sorted(range(places), key=lambda i: (-similarity[i], -i))
    path = [PathPoint(depth, (), error((), ()))]
    for count in range(1, depth - layers + 1):
        windows = windows_at(order[:count], smallest)
        path.append(PathPoint(depth - count, windows, error(windows, path[-1].windows)))
    return tuple(path)


def explicit(windows: Sequence[Sequence[int]], depth: int | None = None, smallest: int = 2) -> Windows:
    """`windows` as a tuple, where they are pairs (low < high, or low <= high for maps), in rising order, disjoint and
    within `depth` blocks.

    Without a depth, only what does not depend on the model is checked. Raises BadInput that names the window.
    """
    before = -1
    for given in windows:
        shown = f"window {list(given)}"
        if len(given) != 2 or given[1] - given[0] < smallest - 1:
            order = "first < last" if smallest > 1 else "first <= last"
            raise BadInput(f"{shown} is not a pair [first, last] with {order} (both are merged, blocks count from 0)")
        low, high = given
        if low < 0:
            raise BadInput(f"{shown} begins before block 0, the first")
        if depth is not None and high >= depth:
            raise BadInput(f"{shown} reaches beyond the last of {depth} blocks, block {depth - 1}")
        if low <= before:
            raise BadInput(f"{shown} overlaps or precedes the window before it: list disjoint windows, lowest first")
        before = high
    return tuple((given[0], given[1]) for given in windows)


def shortest(path: Sequence[PathPoint], threshold: float) -> PathPoint:
    """The step with the fewest blocks whose error is less than `threshold` above the first one's, or the first.

    Errors need not rise along the path: a later step may be back within the threshold.
    """
    within = [step for step in path[1:] if step.error - path[0].error < threshold]
    return min(within, key=lambda step: step.depth, default=path[0])


def spread(
    evaluate: Evaluate, settled: Windows, depth: int, known: MutableMapping[Windows, float], smallest: int = 2
) -> None:
    """Evaluate what a greedy search tries from a settled model in an order of this process's own, so that processes on
    one journal share the trials. NOTE: with a lock around the whole walk all others waited for one, and two workers did
    1.4 times the trials of one."""
    chosen = {place for low, high in settled for place in range(low, high + 2 - smallest)}
    left = [place for place in range(depth + 1 - smallest) if place not in chosen]
    for place in Random(os.getpid()).sample(left, len(left)):
        windows = windows_at({*chosen, place}, smallest)
        if windows not in known:
            error = float(evaluate(windows, settled))
            known[windows] = error if math.isfinite(error) else math.inf


def runs_of(windows: Windows, depth: int) -> list[Window]:
    """The partition of blocks 0 to depth - 1 into runs (low, high): the windows, and every other block alone. A run is
    replaced where it is one of the windows."""
    ends = dict(windows)
    runs, low = [], 0
    while low < depth:
        runs.append((low, ends.get(low, low)))
        low = runs[-1][1] + 1
    return runs


def windows_at(places: Collection[int], smallest: int = 2) -> Windows:
    """The windows that places make: places in a row are of one window."""
    starts = sorted(place for place in places if place - 1 not in places)
    ends = sorted(place for place in places if place + 1 not in places)
    return tuple((low, high + smallest - 1) for low, high in zip(starts, ends, strict=True))


def blocks_left(windows: Windows, depth: int, smallest: int = 2) -> int:
    """Blocks of a model of `depth` after merging `windows`, maps not counted."""
    return depth - sum(high - low + 2 - smallest for low, high in windows)


def trials(strategy: Strategy, depth: int, layers: int = 1, smallest: int = 2) -> int:
    """Evaluations of a whole search, the original model's included."""
    places = max(0, depth + 1 - smallest)
    if strategy == "greedy":
        return 1 + sum(range(places, places - depth + layers, -1))
    return 1 + places if strategy == "window" else 1 + depth - layers


def remembered(
    evaluate: Evaluate, known: MutableMapping[Windows, float], total: int, progress: Callable[[TrialProgress], None]
) -> Evaluate:
    """`evaluate`, asked only for what is not `known`; errors that are not finite become infinite."""
    done = 0

    def error(windows: Windows, settled: Windows) -> float:
        nonlocal done
        if windows not in known:
            found = float(evaluate(windows, settled))
            known[windows] = found if math.isfinite(found) else math.inf
        done += 1
        progress(TrialProgress(windows, known[windows], done, total))
        return known[windows]

    return error


class TrialJournal(dict[Windows, float]):
    """Errors by windows, kept in a file of JSON lines that is only ever appended to and synced at every line.

    Several processes may add to it: what others have added is read when an error is looked for. A last line that a
    crash tore is cut off. A journal holds for one model, operator and judge: whoever gives the path sees to it. Raises
    BadInput where the file holds anything else, and Unwritable.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.read, self.lines = path, 0, 0  # bytes and lines read so far
        self.lock = FileLock(path.with_suffix(".lock"))
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with writing(path), self.lock:
            self._cut()

    def __contains__(self, windows: object) -> bool:
        if not super().__contains__(windows):
            self._catch_up()
        return super().__contains__(windows)

    def _catch_up(self) -> None:
        """Read the whole lines that were added since the last look."""
        if not self.path.exists() or self.path.stat().st_size == self.read:
            return
        with self.path.open("rb") as file:
            file.seek(self.read)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        for line in whole.splitlines():
            self.lines += 1
            super().__setitem__(*self._read(line, self.lines))
        self.read += len(whole)

    def _cut(self) -> None:
        """Remove what is left of a last line whose writer was killed; nobody else may write meanwhile."""
        self._catch_up()
        if self.path.exists() and self.read < self.path.stat().st_size:
            os.truncate(self.path, self.read)

    def _read(self, line: bytes, number: int) -> tuple[Windows, float]:
        try:
            entry = json.loads(line)
            error = entry["error"]
            return explicit(entry["windows"], smallest=1), math.inf if error is None else float(error)
        except (ValueError, KeyError, TypeError) as problem:
            where = f"{self.path}, line {number}"
            raise BadInput(f"{where} is not a trial of a layer search: delete the file to start over") from problem

    def __setitem__(self, windows: Windows, error: float) -> None:
        line = json.dumps({"windows": windows, "error": error if math.isfinite(error) else None})
        with self.lock:
            self._cut()
            append_line(self.path, line)
        super().__setitem__(windows, error)
