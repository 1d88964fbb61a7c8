"""Whether an exported file gives what the model gives: on every frame, at several batches, the worst joint counts."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from compress.errors import BadInput
from compress.policies.precision import rounded
from hmr.body.model import BodyModel
from hmr.data.sample import Sample, batch
from hmr.deploy.network import DecoderNetwork, ExportNetwork, Network
from hmr.deploy.runtime import Arrays, Run, in_groups
from hmr.evaluation.intervals import paired_interval
from hmr.evaluation.metrics import mpjpe

BATCHES, FRAMES = (1, 2, 5), 64
BOUNDS_MM = {"float32": 0.1, "float16": 1.0}  # by how much a joint may lie elsewhere; int8 has no bound
GROUP = 8  # frames that the model itself sees at once
CLIPS = 5  # that a motion decoder is compared on
READ = ("reading", "betas")  # of the model's outputs, by a motion decoder


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
    inputs = given(network, samples)
    wanted = in_groups(partial(outputs, network), inputs, network.outputs, GROUP)
    names = tuple(f"{sample.recording}#{i}" for i, sample in enumerate(samples))
    return Expected(names, inputs, wanted)


def given(network: ExportNetwork, samples: Sequence[Sample]) -> dict[str, NDArray[Any]]:
    """Samples as the inputs (N, ...) of a network; raises BadInput where they lack what it needs."""
    if not len(samples):
        raise BadInput("an export needs frames, and there are none")
    seen = batch(samples)
    every = {"crops": seen.crops, "masks": seen.masks, "condition": seen.conditions}
    found = {name: value.float().numpy() for name in network.inputs if (value := every[name]) is not None}
    if missing := [name for name in network.inputs if name not in found]:
        raise BadInput(f"the frames of an export have no {missing[0]}")
    return found


def rise(
    run: Run, frames: Expected, body: Any, samples: Sequence[Sample], size: int | None
) -> dict[str, float | None] | None:
    """By how much a file's MPJPE in mm is above the model's on the same frames, with its interval over recordings, as
    JSON values; None where their poses are unknown or a model has no body to pose. `size`: frames that go in at once,
    None: all."""
    seen = batch(samples)
    if not isinstance(body, BodyModel) or seen.rotations is None or seen.betas is None:
        return None
    if seen.rotations.shape[1] != len(body.parents):
        return None
    true = body.joints_from_pelvis(seen.rotations.float(), seen.betas.float())
    found = in_groups(run, frames.given, ["joints"], size or GROUP)["joints"]
    both = (torch.from_numpy(joints) for joints in (found, frames.wanted["joints"]))
    mine, theirs = (mpjpe(joints, true).numpy() for joints in both)
    return asdict(paired_interval(mine, theirs, [sample.recording for sample in samples]))


def compared(run: Run, frames: Expected, size: int) -> Parity:
    """A file against the model, `size` frames at once; the last ones are filled up with copies."""
    names = [name for name in ("joints", "source") if name in frames.wanted]
    count = len(frames.names)
    found = in_groups(run, frames.given, names, size)
    off = 1000 * np.linalg.norm(found["joints"] - frames.wanted["joints"], axis=-1)  # (N, J), of clips (N, F, J) mm
    off = off.reshape(count, -1)
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


def clips_of(outputs: Arrays, length: int) -> dict[str, NDArray[Any]]:
    """Outputs of a video's frames (N, ...) as a decoder takes CLIPS clips of it: each begins a frame later than the one
    before, and frames behind the last one are not seen."""
    frames = np.arange(CLIPS)[:, None] + np.arange(length)  # (CLIPS, F)
    places = np.minimum(frames, len(outputs["betas"]) - 1)
    return {**{name: outputs[name][places] for name in READ}, "seen": frames == places}


def decoded(network: DecoderNetwork, clips: dict[str, NDArray[Any]]) -> Expected:
    """What the motion decoder of a model, on the CPU, gives for clips."""
    names = tuple(f"in the clip from frame {i}" for i in range(len(clips["seen"])))
    with torch.no_grad():
        return Expected(names, clips, in_groups(partial(outputs, network), clips, network.outputs, CLIPS))


@torch.no_grad()
def rounding(model: Any, frames: Expected) -> dict[str, float] | None:
    """How far in mm the joints of a model whose blocks are rounded lie from those that the same weights give in
    float32, which is what its file is held to: the worst and the mean of all; None where no block is rounded."""
    if not rounded(model):
        return None
    own = ExportNetwork(copy.deepcopy(model).cpu())
    found = in_groups(partial(outputs, own), frames.given, ["joints"], GROUP)["joints"]
    off = 1000 * np.linalg.norm(found - frames.wanted["joints"], axis=-1)
    return {"worst_mm": float(off.max()), "mean_mm": float(off.mean())}


def outputs(network: Network, given: Arrays, wanted: Sequence[str]) -> dict[str, NDArray[Any]]:
    """What a network gives for inputs by name, as a runtime does."""
    made = network(*(torch.from_numpy(given[name]) for name in network.inputs))
    values = dict(zip(network.outputs, made, strict=True))
    return {name: values[name].numpy() for name in wanted}


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
