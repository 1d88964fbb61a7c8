"""Layer searches against brute force: Algorithm 1 straight from its pseudocode, and partitions tried by hand."""

from __future__ import annotations

import ast
import itertools
import math
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.errors import BadInput
from compress.layers import search
from compress.layers.search import (
    TrialJournal,
    TrialProgress,
    Windows,
    error_constrained,
    explicit,
    runs_of,
    windows_at,
)


def landscape(seed: int, spread: float = 1.0):
    """A random error of every partition, the same for the same windows, around 50 mm."""

    def error(windows: Windows, settled: Windows = ()) -> float:
        return 50.0 + Random(f"{seed} {windows}").uniform(-0.3, 1.0) * spread * bool(windows)

    return error


def algorithm_1(error, depth: int, tau: float) -> tuple[list[tuple[int, ...]], tuple[int, int] | None]:
    """FastHMR Alg. 1 as printed, on a model that is a list of blocks, each the originals it was merged from.

    Returns the model and the window that is open when the loop ends.
    """

    def merge(model, low, high):
        return [*model[:low], sum(model[low : high + 1], ()), *model[high + 1 :]]

    def mpjpe(model):
        return error(tuple((b[0], b[-1]) for b in model if len(b) > 1))

    model: list[tuple[int, ...]] = [(i,) for i in range(depth)]
    base = mpjpe(model)
    high = depth - 1
    low = high - 1
    while low >= 0:
        trial = merge(model, low, high)
        if mpjpe(trial) - base < tau:
            low -= 1
        else:
            if low + 1 != high:
                model = merge(model, low + 1, high)
                high = low
                low = high - 1
            else:
                high -= 1
                low -= 1
    return model, (0, high) if high > low + 1 else None


@given(st.integers(0, 2**31), st.integers(1, 14), st.floats(0, 1), st.booleans())
def test_window_is_algorithm_1(seed: int, depth: int, tau: float, commit: bool) -> None:
    error = landscape(seed)
    model, left_open = algorithm_1(error, depth, tau)
    merged = tuple((b[0], b[-1]) for b in model if len(b) > 1)
    if commit and left_open:
        merged = (left_open, *merged)
    found = error_constrained(error, depth, "window", threshold=tau, commit_open_window=commit)
    assert found.windows == merged
    assert found.error == error(merged)
    assert all(step.error - found.path[0].error < tau for step in found.path[1:])


@given(st.integers(0, 2**31), st.integers(1, 14), st.floats(0, 1), st.booleans())
def test_window_of_maps_is_algorithm_1_over_single_blocks(seed: int, depth: int, tau: float, commit: bool) -> None:
    """Block by block from the last one down: it joins the open map, or opens one, or stays and closes it."""
    error = landscape(seed)
    done: list[tuple[int, int]] = []
    run: list[int] = []  # the open window
    for block in reversed(range(depth)):
        wider = [block, *run]
        if error(((wider[0], wider[-1]), *done)) - error(()) < tau:
            run = wider
        elif run:
            done, run = [(run[0], run[-1]), *done], []
    merged = ((run[0], run[-1]), *done) if run and commit else tuple(done)
    found = error_constrained(error, depth, "window", threshold=tau, commit_open_window=commit, smallest=1)
    assert (found.windows, found.error) == (merged, error(merged))


def test_window_left_open_at_the_first_block() -> None:
    """Every merge is fine: printed, the loop ends and merges nothing; committed, one block is left."""
    assert error_constrained(lambda w, _: 50.0, 8, threshold=0.1).windows == ((0, 7),)
    assert error_constrained(lambda w, _: 50.0, 8, threshold=0.1, commit_open_window=False).windows == ()


smallests = st.sampled_from([1, 2])  # maps, merges


@given(st.integers(0, 2**31), st.integers(1, 9), st.sampled_from(["window", "greedy", "cka"]), smallests)
def test_nothing_merges_where_no_merge_is_acceptable(
    seed: int, depth: int, strategy: search.Strategy, smallest: int
) -> None:
    """Identity: threshold 0, and every merge costs something, nothing at all, or breaks the model."""
    costs = Random(seed).choices([0.0, 1.0, math.nan, math.inf], k=4)
    found = error_constrained(
        lambda w, _: 50.0 + Random(f"{seed}{w}").choice(costs) if w else 50.0,
        depth,
        strategy,
        threshold=0.0,
        similarity=[0.5] * (depth + 1 - smallest),
        smallest=smallest,
    )
    assert found.windows == () and found.error == 50.0


@given(st.integers(0, 2**31), st.integers(1, 8))
def test_greedy_takes_the_best_neighbours_each_time(seed: int, depth: int) -> None:
    error = landscape(seed)
    path = error_constrained(error, depth, "greedy", threshold=0.5).path
    assert [step.depth for step in path] == list(range(depth, 0, -1))
    for before, after in itertools.pairwise(path):
        runs = runs_of(before.windows, depth)
        options = []
        for i in range(len(runs) - 1):  # drop one border between two runs
            borders = sorted({low for low, _ in runs} - {runs[i + 1][0]})
            ends = [b - 1 for b in borders[1:]] + [depth - 1]
            options.append(tuple((a, b) for a, b in zip(borders, ends, strict=True) if a < b))
        assert after.windows in options
        assert after.error == error(after.windows) == min(error(option) for option in options)


@given(st.integers(0, 2**31), st.integers(1, 8))
def test_greedy_replaces_the_best_block_each_time(seed: int, depth: int) -> None:
    """A block that lies beside a map, or between two, becomes part of it: sets of blocks, written out as runs."""
    error = landscape(seed)
    path = error_constrained(error, depth, "greedy", threshold=0.5, smallest=1).path
    assert [step.depth for step in path] == list(range(depth, -1, -1)) and path[-1].windows == ((0, depth - 1),)
    for before, after in itertools.pairwise(path):
        replaced = {i for low, high in before.windows for i in range(low, high + 1)}
        options = []
        for block in set(range(depth)) - replaced:
            wider = sorted(replaced | {block})
            groups = itertools.groupby(wider, key=lambda i: i - wider.index(i))
            runs = [list(group) for _, group in groups]
            options.append(tuple((run[0], run[-1]) for run in runs))
        assert after.windows in options
        assert after.error == error(after.windows) == min(error(option) for option in options)


@given(st.integers(0, 2**31), st.integers(2, 9), st.floats(0, 1), st.sampled_from(["greedy", "cka"]), smallests)
def test_threshold_takes_the_shortest_model_within_it(seed, depth, tau, strategy, smallest) -> None:
    similarity = [Random(f"{seed}{i}").random() for i in range(depth + 1 - smallest)]
    found = error_constrained(landscape(seed), depth, strategy, threshold=tau, similarity=similarity, smallest=smallest)
    fits = [step for step in found.path if step.depth == depth or step.error - 50.0 < tau]
    assert (found.windows, found.error) == min(fits, key=lambda step: step.depth)[1:]


@given(st.integers(0, 2**31), st.integers(2, 9), st.sampled_from(["greedy", "cka"]), smallests, st.data())
def test_layers_is_a_knob_on_the_same_path(seed, depth, strategy, smallest, data) -> None:
    similarity = [Random(f"{seed}{i}").random() for i in range(depth + 1 - smallest)]
    known = {"similarity": similarity, "smallest": smallest}
    whole = error_constrained(landscape(seed), depth, strategy, threshold=0.1, **known)
    layers = data.draw(st.integers(1, depth))
    found = error_constrained(landscape(seed), depth, strategy, layers=layers, **known)
    assert found.path == whole.path[: depth - layers + 1]
    assert search.blocks_left(found.windows, depth, smallest) == layers


def test_cka_joins_the_most_similar_neighbours_first() -> None:
    path = error_constrained(landscape(0), 6, "cka", threshold=1.0, similarity=[0.1, 0.9, 0.5, 0.8, 0.7]).path
    assert [step.windows for step in path] == [
        (),
        ((1, 2),),
        ((1, 2), (3, 4)),
        ((1, 2), (3, 5)),
        ((1, 5),),
        ((0, 5),),
    ]


def test_cka_replaces_the_blocks_that_change_least_first() -> None:
    path = error_constrained(
        landscape(0), 5, "cka", threshold=1.0, similarity=[0.1, 0.9, 0.5, 0.8, 0.7], smallest=1
    ).path
    assert [step.windows for step in path] == [
        (),
        ((1, 1),),
        ((1, 1), (3, 3)),
        ((1, 1), (3, 4)),
        ((1, 4),),
        ((0, 4),),
    ]


@given(st.sets(st.integers(0, 12)))
def test_places_in_a_row_are_a_window(places: set[int]) -> None:
    """Of maps, the blocks are counted back; of merges, each place is the joint after a block."""
    maps, merges = windows_at(places, 1), windows_at(places, 2)
    assert {i for low, high in maps for i in range(low, high + 1)} == places
    assert merges == tuple((low, high + 1) for low, high in maps)
    assert all(after[0] - before[1] > 1 for before, after in itertools.pairwise(maps))
    for smallest, windows in ((1, maps), (2, merges)):
        assert search.blocks_left(windows, 14, smallest) == 14 - len(places)
        assert explicit(windows, 14, smallest) == windows


@given(st.sets(st.integers(1, 30)), st.integers(1, 31))
def test_runs_are_a_partition_and_windows_its_longer_ones(borders: set[int], depth: int) -> None:
    starts = [0, *sorted(b for b in borders if b < depth)]
    runs = [(a, b - 1) for a, b in itertools.pairwise([*starts, depth])]
    windows = tuple((low, high) for low, high in runs if low < high)
    assert runs_of(windows, depth) == runs
    assert [i for low, high in runs for i in range(low, high + 1)] == list(range(depth))
    assert explicit([list(w) for w in windows], depth) == windows
    assert search.blocks_left(windows, depth) == len(runs)


@given(st.lists(st.lists(st.integers(-2, 9), max_size=3), max_size=4), st.integers(1, 8), smallests)
def test_explicit_takes_what_is_a_partition_and_nothing_else(
    windows: list[list[int]], depth: int, smallest: int
) -> None:
    members = [list(range(w[0], w[1] + 1)) if len(w) == 2 else [] for w in windows]
    flat = list(itertools.chain(*members))
    valid = all(len(m) >= smallest for m in members) and flat == sorted(set(flat)) and set(flat) <= set(range(depth))
    if valid:
        assert explicit(windows, depth, smallest) == tuple((w[0], w[1]) for w in windows)
    else:
        with pytest.raises(BadInput, match=r"^window \["):
            explicit(windows, depth, smallest)


@pytest.mark.parametrize(
    ("windows", "words"),
    [
        ([[24, 33]], r"\[24, 33\] reaches beyond the last of 32 blocks, block 31"),
        ([[-1, 3]], r"\[-1, 3\] begins before block 0"),
        ([[5, 5]], "first < last"),
        ([[7, 5]], "first < last"),
        ([[5]], "not a pair"),
        ([[3, 6], [6, 9]], r"\[6, 9\] overlaps or precedes"),
        ([[8, 9], [2, 3]], r"\[2, 3\] overlaps or precedes"),
    ],
)
def test_explicit_says_what_is_wrong(windows: list[list[int]], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        explicit(windows, 32)


@pytest.mark.parametrize(
    "arguments",
    [
        {"strategy": "window"},
        {"strategy": "window", "layers": 3},
        {"strategy": "greedy"},
        {"strategy": "greedy", "layers": 9},
        {"strategy": "greedy", "layers": 0},
        {"strategy": "cka", "threshold": 1.0, "similarity": [0.5] * 8},
    ],
)
def test_search_without_what_it_needs_is_refused(arguments: dict) -> None:
    with pytest.raises(BadInput):
        error_constrained(landscape(0), 8, **arguments)


class Stopped(Exception):
    """Stands for a kill."""


def arguments_of(strategy: search.Strategy, depth: int, smallest: int = 2) -> dict:
    similarity = [i / depth for i in range(depth + 1 - smallest)]
    known = {"similarity": similarity, "smallest": smallest}
    return {"depth": depth, "strategy": strategy, "threshold": 0.6, **known}


@given(
    st.integers(0, 2**31),
    st.sampled_from(["window", "greedy", "cka"]),
    smallests,
    st.integers(0, 20),
    st.integers(0, 60),
)
def test_killed_search_continues_where_it_stopped(tmp_path_factory, seed, strategy, smallest, stop, torn) -> None:
    """Killed at any trial, with the last line torn at any place, then started again: same result, nothing twice."""
    path = tmp_path_factory.mktemp("journal") / "new" / "search.jsonl"
    error = landscape(seed)
    spec: list[Windows] = []

    def counted(windows: Windows, settled: Windows) -> float:
        if len(spec) == stop:
            raise Stopped
        spec.append(windows)
        return error(windows)

    known_facts = arguments_of(strategy, 7, smallest)
    try:
        error_constrained(counted, known=TrialJournal(path), **known_facts)
    except Stopped:
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        if lines and torn < len(lines[-1]):
            path.write_bytes(b"".join(lines[:-1]) + lines[-1][:torn])
            spec.pop()
    stop = -1
    found = error_constrained(counted, known=TrialJournal(path), **known_facts)
    assert found == error_constrained(error, **known_facts)
    every = search.trials(strategy, 7, smallest - 1, smallest)
    assert len(spec) == len(set(spec)) == len(TrialJournal(path)) == every


def test_journal_keeps_every_error_to_the_bit(tmp_path: Path) -> None:
    journal = TrialJournal(tmp_path / "j.jsonl")
    errors = {(): 0.1 + 0.2, ((0, 1),): math.inf, ((0, 1), (3, 30)): 1e-300, ((4, 4),): 1.0}
    for windows, error in errors.items():
        journal[windows] = error
    assert TrialJournal(tmp_path / "j.jsonl") == errors


@pytest.mark.parametrize("line", ["{", "[]", '{"windows": [[3, 2]], "error": 1.0}', '{"windows": []}', "null", "\x00"])
def test_journal_that_is_none_is_refused_and_left_alone(tmp_path: Path, line: str) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text('{"windows": [], "error": 1.0}\n' + line + "\n")
    before = path.read_bytes()
    with pytest.raises(BadInput, match=r"j\.jsonl, line 2 "):
        TrialJournal(path)
    assert path.read_bytes() == before


@given(st.integers(0, 2**31), st.integers(1, 9), st.sampled_from(["window", "greedy", "cka"]), smallests)
def test_progress_names_every_trial_and_ends_at_its_total(seed, depth, strategy, smallest) -> None:
    seen: list[TrialProgress] = []
    arguments = arguments_of(strategy, depth, smallest)
    found = error_constrained(landscape(seed), progress=seen.append, **arguments)
    assert [p.done for p in seen] == list(range(1, seen[0].total + 1))
    assert all(p.error == landscape(seed)(p.windows) for p in seen)
    assert set(found.path) <= {(search.blocks_left(p.windows, depth, smallest), p.windows, p.error) for p in seen}


def test_search_knows_no_torch() -> None:
    tree = ast.parse(Path(search.__file__ or "").read_text())
    names = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    names |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert not any(name and name.startswith(("torch", "numpy")) for name in names)
    assert {name for name in names if name and name.startswith("compress")} == {"compress.atomic", "compress.errors"}
