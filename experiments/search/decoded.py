"""A study's front with decoders: each recipe's encoder on videos, alone and with a decoder that is trained for it.

What is finished lies in `$FASTHMR_HOME`, a file for each point, and what is being trained has its checkpoints there: a
report that was stopped goes on, and several of them, or several workers of one, share the points out.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import torch

import hmr
from compress.atomic import alone, atomic_write
from compress.context import Observer, silent
from compress.errors import BadInput, Taken
from compress.policy import FrozenModel
from compress.provenance import provenance
from compress.registry import AnyPlan
from diffusion.policy import MotionDecoder
from experiments.search.lab import Lab
from experiments.search.study import Study
from experiments.search.trials import Trial
from hmr.home import fasthmr_home

PATIENCE = 5.0  # s between looks at what another worker has in hand
FIGURES = ("mpjpe_mm", "pa_mpjpe_mm", "pve_mm", "accel_mm_per_frame2", "frames_per_s")


class DecodedPoint(FrozenModel):
    """A point of a front that gets a decoder, as any process can do it."""

    schema_version: Literal[1] = 1
    study: Study
    number: int
    recipe_id: str
    plans: tuple[AnyPlan, ...]
    decoder: MotionDecoder
    data: str
    frames: int | None

    @property
    def file(self) -> Path:
        """Where its figures are kept: they follow from all of it but its number."""
        asked = self.model_dump(mode="json", exclude={"study", "number", "plans"})
        facts = [self.study.model, *(plan.decided() for plan in self.plans), asked]
        name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return fasthmr_home() / "decoded" / f"{name[:32]}.json"


def points_of(
    study: Study, front: Sequence[Trial], decoder: MotionDecoder, data: str, frames: int | None
) -> list[DecodedPoint]:
    """The points of a front of videos `data`. Raises BadInput for a decoder that is not trained."""
    if not decoder.trains:
        raise BadInput("decoders of a front are trained for each of its points: name how, and no weights")
    return [
        DecodedPoint(
            study=study,
            number=t.number,
            recipe_id=t.record.recipe_id,
            plans=t.record.plans,
            decoder=decoder,
            data=data,
            frames=frames,
        )
        for t in front
        if t.record
    ]


def decoded(points: Sequence[DecodedPoint], workers: int = 1, observer: Observer = silent) -> list[dict[str, Any]]:
    """What `figures` gives of every point, from the files or into them."""
    jobs = [point.model_dump_json() for point in points if not point.file.exists()]
    observer("decoders of the front", "", len(points) - len(jobs), len(points))
    if workers > 1 and len(jobs) > 1:
        with ProcessPoolExecutor(min(workers, len(jobs)), get_context("spawn")) as pool:
            for done, _ in enumerate(pool.map(do, jobs), len(points) - len(jobs) + 1):
                observer("decoders of the front", "", done, len(points))
    else:
        for job in jobs:
            do(job, observer)
    return [{**json.loads(point.file.read_bytes()), "number": point.number} for point in points]


def do(job: str, observer: Observer = silent) -> None:
    """Make a point's file, unless another process does, whose end is waited for; what that leaves undone is done."""
    point = DecodedPoint.model_validate_json(job)
    while not point.file.exists():
        try:
            with alone(point.file):
                if not point.file.exists():
                    found = figures(point, observer)
                    atomic_write(point.file, json.dumps(found, indent=1, allow_nan=False).encode())
        except Taken:
            time.sleep(PATIENCE)


def figures(point: DecodedPoint, observer: Observer = silent) -> dict[str, Any]:
    """A point measured on videos, as JSON values: `alone`, `decoded`, how that was trained, and where it comes from.

    The rise in `decoded` is over the encoder alone, on the same frames. MACs are per frame.
    """
    lab = Lab(point.study, observer=observer)
    model, context = lab.made([*point.plans, point.decoder])
    test = hmr.frames(f"{point.data}:test", point.frames, model=model.encoder)
    name = f"point {point.number}"
    bare = test.measure(model.encoder, f"{name} alone", observer)
    whole = test.measure(model, f"{name} decoded", observer)
    found = {
        "recipe_id": point.recipe_id,
        "alone": {**picked(bare.row()), "macs": asdict(model.encoder.cost().macs)},
        "decoded": {**picked(whole.row(bare), "mpjpe_rise_mm"), "macs": asdict(model.cost().macs)},
        "train": context.plans[-1].measured,
        "decoder": point.decoder.model_dump(mode="json"),
        "provenance": provenance("report", lab.model, torch.device("cpu"), **test.provenance(model)),
    }
    context.forget("decoders")
    return found


def picked(row: dict[str, Any], *more: str) -> dict[str, Any]:
    """The figures of a row that both fronts show."""
    return {name: row[name] for name in (*FIGURES, *more)}
