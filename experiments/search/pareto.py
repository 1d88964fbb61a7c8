"""Fronts of trials that are better the lower their values are. Plain numbers; nothing here knows a model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Values = Sequence[float]  # one of each objective


def dominates(one: Values, other: Values) -> bool:
    """No worse in any objective, and better in one."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def front(values: Sequence[Values]) -> list[int]:
    """Places of what nothing dominates, in rising order of the first objective.

    Ties: of equals in every objective the first alone stands on the front, so that a front lists each trade once.
    """
    first = {tuple(v): i for i, v in reversed(list(enumerate(values)))}
    best = [i for v, i in first.items() if not any(dominates(other, v) for other in first)]
    return sorted(best, key=lambda i: tuple(values[i]))


def reference_point(values: Sequence[Values]) -> tuple[float, ...]:
    """A tenth beyond the worst value of each objective: what hypervolumes are measured from."""
    return tuple((1.1 * np.asarray(values, np.float64).max(0)).tolist())


def hypervolume(values: Sequence[Values], reference: Values) -> float:
    """Volume between a set of points and `reference` that some point dominates.

    By slicing along the last objective (While et al. 2006, "A faster algorithm for calculating hypervolume", Sec. 3),
    which is fast enough for fronts of some dozens in two to four objectives. Points beyond the reference count nothing.
    """
    # NOTE: optuna 5 has this in private alone (optuna._hypervolume); in public it draws plot_hypervolume_history.
    inside = np.array([v for v in values if dominates(v, reference)], np.float64).reshape(-1, len(reference))
    return sliced(inside, np.asarray(reference, np.float64))


def sliced(points: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """`hypervolume` of points (N, D), none beyond reference (D,)."""
    if not len(points):
        return 0.0
    if points.shape[1] == 1:
        return float(reference[0] - points.min())
    order = points[points[:, -1].argsort()]
    ends = np.append(order[1:, -1], reference[-1])
    depths = ends - order[:, -1]
    volumes = (depth * sliced(order[: i + 1, :-1], reference[:-1]) for i, depth in enumerate(depths) if depth > 0)
    return float(sum(volumes))


def grown(values: Sequence[Values | None], reference: Values) -> list[float]:
    """Hypervolume after each trial; None is a trial that counts nothing: infeasible, pruned or failed."""
    found: list[float] = []
    best: list[Values] = []
    for value in values:
        if value is not None:
            best = [value, *best]
            best = [best[i] for i in front(best)]
        found.append(hypervolume(best, reference) if value is not None or not found else found[-1])
    return found


def contributions(values: Sequence[Values], reference: Values) -> list[float]:
    """What the hypervolume of all would lose without each one."""
    whole = hypervolume(values, reference)
    return [whole - hypervolume([*values[:i], *values[i + 1 :]], reference) for i in range(len(values))]
