"""Whether an exported file gives what the model gives: on every frame, at several batches, the worst joint counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from compress.errors import BadInput
from hmr.data.sample import Sample, batch
from hmr.deploy.network import ExportNetwork
from hmr.deploy.runtime import Arrays

BATCHES, FRAMES = (1, 2, 5), 64
BOUNDS_MM = {"float32": 0.1, "float16": 1.0}  # by how much a joint may lie elsewhere; int8 has no bound
GROUP = 8  # frames that the model itself sees at once

Run = Callable[[Arrays, Sequence[str]], Mapping[str, NDArray[Any]]]


@dataclass(frozen=True)
class Parity:
    """How far a file's joints lie from the model's at one batch size. `flipped`: frames in which other tokens merged,
    as those are that are equal but for rounding."""

    batch: int
    worst_mm: float
    mean_mm: float
    worst_frame: str
    flipped: tuple[str, ...]


@dataclass(frozen=True)
class Expected:
    """Frames as a file takes them, and what the model gives for them."""

    names: tuple[str, ...]  # of the frames
    given: dict[str, NDArray[Any]]  # by input, (N, ...)
    wanted: dict[str, NDArray[Any]]  # by output, (N, ...)


@torch.no_grad()
def expected(network: ExportNetwork, samples: Sequence[Sample]) -> Expected:
    """What the model of `network`, on the CPU, gives for samples; raises BadInput where they lack what it needs."""
    seen = batch(samples)
    every = {"crops": seen.crops, "masks": seen.masks, "condition": seen.conditions}
    given = {name: value.float() for name in network.inputs if (value := every[name]) is not None}
    if missing := [name for name in network.inputs if name not in given]:
        raise BadInput(f"the frames that an export is checked on have no {missing[0]}")
    starts = range(0, len(samples), GROUP)
    parts = [network(*(value[i : i + GROUP] for value in given.values())) for i in starts]
    wanted = {name: torch.cat(values).numpy() for name, *values in zip(network.outputs, *parts, strict=True)}
    names = tuple(f"{sample.recording}#{i}" for i, sample in enumerate(samples))
    return Expected(names, {name: value.numpy() for name, value in given.items()}, wanted)


def compared(run: Run, frames: Expected, size: int) -> Parity:
    """A file against the model, `size` frames at once; the last ones are filled up with copies."""
    names = [name for name in ("joints", "source") if name in frames.wanted]
    count = len(frames.names)
    places = np.minimum(np.arange(-(-count // size) * size), count - 1)
    parts = [
        run({name: np.ascontiguousarray(value[places[i : i + size]]) for name, value in frames.given.items()}, names)
        for i in range(0, len(places), size)
    ]
    found = {name: np.concatenate([part[name] for part in parts])[:count] for name in names}
    off = 1000 * np.linalg.norm(found["joints"] - frames.wanted["joints"], axis=-1)  # (N, J) mm
    worst = np.nan_to_num(off.max(1), nan=np.inf)  # (N,)
    other = np.zeros(count, bool)
    if "source" in found:
        other = (found["source"] != frames.wanted["source"]).any(1)
    return Parity(
        batch=size,
        worst_mm=float(worst.max()),
        mean_mm=float(off.mean()),
        worst_frame=frames.names[int(worst.argmax())],
        flipped=tuple(name for name, odd in zip(frames.names, other, strict=True) if odd),
    )


def refuse_unlike(rows: Sequence[Parity], precision: str, what: str) -> None:
    """Raise BadInput where a joint of any frame lies further from the model's than the precision's bound."""
    bound = BOUNDS_MM.get(precision, np.inf)
    if failed := [row for row in rows if not row.worst_mm <= bound]:
        row = failed[0]
        flipped = f"; other tokens merged in {len(row.flipped)} frames" if row.flipped else ""
        raise BadInput(
            f"{what}: at batch {row.batch} a joint of frame {row.worst_frame} lies {row.worst_mm:.3g} mm from the "
            f"model's, and {precision} may be off by {bound:g} mm{flipped}: nothing was written"
        )
