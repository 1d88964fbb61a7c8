"""Measuring cheap first: a recipe on some recordings, then on more, and no further once it is worse, beyond chance,
than another one that takes no more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from compress.context import Observer
from experiments.search.trials import Record
from hmr.data.dataset import Frames
from hmr.evaluation.errors import Errors
from hmr.evaluation.intervals import half_width
from hmr.evaluation.measure import Measurement

PARTS = (0.25, 0.5)  # of the recordings, after which there is a look at a recipe
FEWEST = 4  # recordings that say something
PerRecording = Mapping[str, float]  # mm


class Worse(NamedTuple):
    """Why a recipe is measured no further."""

    recordings: int  # that it was measured on
    of: int
    least_mm: float  # that it is worse by: the lower end of the interval

    def __str__(self) -> str:
        return (
            f"on {self.recordings} of {self.of} recordings it is worse by at least {self.least_mm:.1f} mm than a "
            "recipe that takes no more: it was measured no further"
        )


class NoFurther(Exception):
    """A recipe is measured no further."""

    def __init__(self, why: Worse) -> None:
        super().__init__(str(why))
        self.why = why


def looks(recordings: int) -> list[int]:
    """After how many recordings there is a look at a recipe."""
    return sorted({max(FEWEST, round(part * recordings)) for part in PARTS} & {*range(FEWEST, recordings)})


def per_recording(record: Record) -> tuple[int, PerRecording]:
    """MACs of a record, and its errors."""
    return record.macs.true, {one["clip"]: one["mpjpe_mm"] for one in record.per_clip}


def worse(mine: PerRecording, macs: float, others: Iterable[tuple[float, PerRecording]]) -> Worse | None:
    """Whether a recipe is worse on the recordings that it was measured on, as far as there is a look at them: paired
    with the best of `others`, (MACs, errors on all recordings), that takes no more MACs."""
    rivals = [errors for cost, errors in others if cost <= macs]
    best = min(rivals, key=lambda errors: sum(errors.values()) / len(errors), default={})
    for count in looks(len(best)):
        names = sorted(best)[:count]
        if any(name not in mine for name in names):
            break
        apart = np.array([mine[name] - best[name] for name in names])
        if (least := float(apart.mean() - half_width(apart))) > 0:
            return Worse(count, len(best), least)
    return None


def measured_first(
    model: object, frames: Frames, name: str, observer: Observer, see: Callable[[PerRecording], Worse | None]
) -> Measurement:
    """What `frames.measure` gives, recordings by parts. Raises NoFurther where `see` finds a model worse after one."""
    names = sorted({*frames.recordings})
    ends = [0, *looks(len(names)), len(names)]
    parts: list[tuple[list[int], Measurement]] = []
    seen: dict[str, float] = {}
    for start, end in pairwise(ends):
        wanted = {*names[start:end]}
        places = [i for i, recording in enumerate(frames.recordings) if recording in wanted]
        part = some(frames, places)
        parts.append((places, part.measure(model, name, observer)))
        seen |= {one["clip"]: one["mpjpe_mm"] for one in parts[-1][1].row()["per_clip"]}
        if end < len(names) and (why := see(seen)):
            raise NoFurther(why)
    return joined(frames, parts)


def some(frames: Frames, places: Sequence[int]) -> Frames:
    """Frames at some places, in their order."""
    recordings = frames.recordings
    times = None if frames.times is None else tuple(frames.times[i] for i in places)
    return replace(
        frames,
        draw=lambda i: frames[places[i]],
        recording_of=lambda i: recordings[places[i]],
        count=len(places),
        drawn_before=None,
        times=times,
    )


def joined(frames: Frames, parts: Sequence[tuple[list[int], Measurement]]) -> Measurement:
    """What was measured of all frames, from what was of parts, each with its places."""
    order = torch.tensor([i for places, _ in parts for i in places]).argsort()

    def whole(values: Sequence[torch.Tensor]) -> torch.Tensor:
        every = torch.cat([*values])
        return every[order.to(every.device)] if len(every) == len(order) else every  # unknown: (0,)

    errors = {name: whole([getattr(one.errors, name) for _, one in parts]) for name in vars(parts[0][1].errors)}
    seconds = sum(len(places) / one.frames_per_s for places, one in parts)
    merged = [one.person_merged for _, one in parts if one.person_merged is not None]
    name = parts[0][1].name
    return Measurement(name, frames, Errors(**errors), len(order) / seconds, whole(merged) if merged else None)
