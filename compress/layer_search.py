"""Which layers to merge: searches under an error budget. Plain integers; nothing here knows a network.

Blocks are numbered 0 to depth - 1 as in the original model. A window (low, high), both ends included, is a run of
blocks that one block replaces. Every trial is a tuple of windows, that is a partition of the original blocks into runs:
it says how to build the trial from the original weights, whatever was tried before.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal, NamedTuple, Protocol, get_args

from filelock import FileLock

from compress.errors import BadInput

Window = tuple[int, int]
Windows = tuple[Window, ...]  # in rising order, disjoint
Strategy = Literal["window", "greedy", "cka"]


class Evaluate(Protocol):
    """The error of the original model with `windows` merged. `settled` are the windows that the search has already
    decided on and this trial grew from: no part of the question, but an evaluation may keep what they share."""

    def __call__(self, windows: Windows, settled: Windows, /) -> float: ...


class Step(NamedTuple):
    """A model that a search came through."""

    depth: int  # blocks that are left
    windows: Windows
    error: float


class Progress(NamedTuple):
    """What a search reports after each trial."""

    windows: Windows
    error: float
    done: int  # trials so far
    total: int  # trials in all


@dataclass(frozen=True)
class Found:
    """What a search decided. `path` starts at the original model, whose windows are ()."""

    windows: Windows
    error: float
    path: tuple[Step, ...]


def error_constrained(
    evaluate: Evaluate,
    depth: int,
    strategy: Strategy = "window",
    *,
    threshold: float | None = None,
    layers: int | None = None,
    similarity: Sequence[float] = (),
    commit_open_window: bool = True,
    known: MutableMapping[Windows, float] | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Found:
    """The windows of a model of `depth` blocks to merge, so that the error rises by less than `threshold`.

    Strategies: `window` (FastHMR Alg. 1) needs a threshold; `greedy` and `cka` walk a path of ever fewer blocks and
    take the shortest model on it within the threshold or, where `layers` is given, the one of so many blocks. An error
    that is not finite counts as infinite.

    Nothing that stands in `known` (windows -> error) is evaluated again, and what is evaluated is put there: with a
    `Journal`, a search that was killed continues where it stopped. Raises BadInput where an argument is missing or
    wrong.
    """
    if threshold is None and (layers is None or strategy == "window"):
        raise BadInput(f"strategy {strategy} needs a threshold" + (" or a number of layers" * (strategy != "window")))
    if strategy not in get_args(Strategy):
        raise BadInput(f"no search is called {strategy!r}: choose one of {', '.join(get_args(Strategy))}")
    if layers is not None and not 1 <= layers <= depth:
        raise BadInput(f"layers: {layers} blocks cannot be left of {depth}")
    least = 1 if layers is None else layers
    total = trials(strategy, depth, least)
    error = remembered(evaluate, {} if known is None else known, total, progress)
    if strategy == "window":
        return window(error, depth, threshold or 0.0, commit_open_window)
    path = greedy(error, depth, least) if strategy == "greedy" else cka(error, depth, similarity, least)
    chosen = path[-1] if layers is not None else shortest(path, threshold or 0.0)
    return Found(chosen.windows, chosen.error, path)


def window(error: Evaluate, depth: int, threshold: float, commit_open_window: bool = True) -> Found:
    """FastHMR Algorithm 1: from the last block down, windows grow while the error rises by less than `threshold`.

    As printed, the loop ends without merging a window that is still open when it reaches block 0;
    `commit_open_window` merges it. Makes `depth` evaluations, the original model's included.
    """
    base = error((), ())
    path, merged = [Step(depth, (), base)], ()  # type: tuple[list[Step], Windows]
    high, low = depth - 1, depth - 2
    while low >= 0:
        trial = ((low, high), *merged)
        found = error(trial, merged)
        if found - base < threshold:
            path.append(Step(blocks_left(trial, depth), trial, found))
            low -= 1
        elif low + 1 != high:
            merged = ((low + 1, high), *merged)
            high, low = low, low - 1
        else:
            high, low = high - 1, low - 1
    if commit_open_window and high > 0:  # only an accepted trial brings `low` to -1 and leaves blocks below `high`
        merged = ((0, high), *merged)
    return Found(merged, next(step.error for step in path if step.windows == merged), tuple(path))


def greedy(error: Evaluate, depth: int, layers: int = 1) -> tuple[Step, ...]:
    """The path down to `layers` blocks that joins, each time, the two adjacent runs whose merge has the least error.

    A run that is joined again is rebuilt from all of its original blocks. Among equals the later blocks go first.
    """
    runs = runs_of((), depth)
    path = [Step(depth, (), error((), ()))]
    while len(runs) > layers:
        settled = windows_of(runs)
        trials = [joined(runs, place) for place in reversed(range(len(runs) - 1))]
        least, runs = min(((error(windows_of(trial), settled), trial) for trial in trials), key=lambda found: found[0])
        path.append(Step(len(runs), windows_of(runs), least))
    return tuple(path)


def cka(error: Evaluate, depth: int, similarity: Sequence[float], layers: int = 1) -> tuple[Step, ...]:
    """The path down to `layers` blocks that joins the most similar neighbours first; one evaluation a step.

    similarity (depth - 1): of block i and block i + 1, larger is more alike. Among equals the later blocks go first.
    Raises BadInput for another number of similarities.
    """
    if len(similarity) != max(0, depth - 1):
        raise BadInput(f"{depth} blocks need {depth - 1} similarities, one per two neighbours, not {len(similarity)}")
    order = sorted(range(depth - 1), key=lambda i: (-similarity[i], -i))
    path = [Step(depth, (), error((), ()))]
    for count in range(1, depth - layers + 1):
        joints = set(order[:count])
        starts = [i for i in range(depth) if i - 1 not in joints]
        runs = [(a, b - 1) for a, b in zip(starts, [*starts[1:], depth], strict=True)]
        merged = windows_of(runs)
        path.append(Step(len(runs), merged, error(merged, path[-1].windows)))
    return tuple(path)


def explicit(windows: Sequence[Sequence[int]], depth: int | None = None) -> Windows:
    """`windows` as a tuple, where they are pairs (low < high), in rising order, disjoint and within `depth` blocks.

    Without a depth, only what can be said without knowing the model is checked. Raises BadInput that names the window.
    """
    before = -1
    for given in windows:
        shown = f"window {list(given)}"
        if len(given) != 2 or given[0] >= given[1]:
            raise BadInput(f"{shown} is no pair [first, last] with first < last (both are merged, blocks count from 0)")
        low, high = given
        if low < 0:
            raise BadInput(f"{shown} begins before block 0, the first")
        if depth is not None and high >= depth:
            raise BadInput(f"{shown} reaches beyond the last of {depth} blocks, block {depth - 1}")
        if low <= before:
            raise BadInput(f"{shown} overlaps or precedes the window before it: list disjoint windows, lowest first")
        before = high
    return tuple((given[0], given[1]) for given in windows)


def shortest(path: Sequence[Step], threshold: float) -> Step:
    """The step with the fewest blocks whose error is less than `threshold` above the first one's, or the first.

    Errors need not rise along the path: a later step may be back within the threshold.
    """
    within = [step for step in path[1:] if step.error - path[0].error < threshold]
    return min(within, key=lambda step: step.depth, default=path[0])


def spread(evaluate: Evaluate, settled: Windows, depth: int, known: MutableMapping[Windows, float]) -> None:
    """Evaluate the joins of two neighbours of a settled model in an order of this process's own, so that processes on
    one journal share them. NOTE: with a lock around the whole walk all others waited for one, and two workers did 1.4
    times the trials of one."""
    runs = runs_of(settled, depth)
    for place in Random(os.getpid()).sample(range(len(runs) - 1), len(runs) - 1):
        windows = windows_of(joined(runs, place))
        if windows not in known:
            error = float(evaluate(windows, settled))
            known[windows] = error if math.isfinite(error) else math.inf


def runs_of(windows: Windows, depth: int) -> list[Window]:
    """The partition of blocks 0 to depth - 1 into runs (low, high): the windows, and every other block alone."""
    ends = dict(windows)
    runs, low = [], 0
    while low < depth:
        runs.append((low, ends.get(low, low)))
        low = runs[-1][1] + 1
    return runs


def windows_of(runs: Sequence[Window]) -> Windows:
    """The runs of more than one block."""
    return tuple((low, high) for low, high in runs if low < high)


def joined(runs: Sequence[Window], place: int) -> list[Window]:
    """The runs with the one at `place` and the next made one."""
    return [*runs[:place], (runs[place][0], runs[place + 1][1]), *runs[place + 2 :]]


def blocks_left(windows: Windows, depth: int) -> int:
    """Blocks of a model of `depth` after merging `windows`."""
    return depth - sum(high - low for low, high in windows)


def trials(strategy: Strategy, depth: int, layers: int = 1) -> int:
    """Evaluations of a whole search, the original model's included."""
    if strategy == "greedy":
        return 1 + sum(range(layers, depth))  # a model of d + 1 blocks has d neighbours
    return max(1, depth) if strategy == "window" else 1 + depth - layers


def remembered(
    evaluate: Evaluate, known: MutableMapping[Windows, float], total: int, progress: Callable[[Progress], None]
) -> Evaluate:
    """`evaluate`, asked only for what is not `known`; errors that are not finite become infinite."""
    done = 0

    def error(windows: Windows, settled: Windows) -> float:
        nonlocal done
        if windows not in known:
            found = float(evaluate(windows, settled))
            known[windows] = found if math.isfinite(found) else math.inf
        done += 1
        progress(Progress(windows, known[windows], done, total))
        return known[windows]

    return error


class Journal(dict[Windows, float]):
    """Errors by windows, kept in a file of JSON lines that is only ever appended to and synced at every line.

    Several processes may add to it: what others have added is read when an error is looked for. A last line that a
    crash tore is cut off. A journal holds for one model, operator and judge: whoever gives the path sees to it. Raises
    BadInput where the file holds anything else.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.read, self.lines = path, 0, 0  # bytes and lines read so far
        path.parent.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(path.with_suffix(".lock"))
        with self.lock:
            self._catch_up()
            if path.exists() and self.read < path.stat().st_size:
                os.truncate(path, self.read)

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

    def _read(self, line: bytes, number: int) -> tuple[Windows, float]:
        try:
            entry = json.loads(line)
            error = entry["error"]
            return explicit(entry["windows"]), math.inf if error is None else float(error)
        except (ValueError, KeyError, TypeError) as problem:
            where = f"{self.path}, line {number}"
            raise BadInput(f"{where} is no trial of a layer search: delete the file to start over") from problem

    def __setitem__(self, windows: Windows, error: float) -> None:
        line = json.dumps({"windows": windows, "error": error if math.isfinite(error) else None}) + "\n"
        with self.lock, self.path.open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        super().__setitem__(windows, error)
