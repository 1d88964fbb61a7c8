"""`python -m experiments.speedup STUDY`: trials per hour of several workers against one, on the same recipes."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import numpy as np
import typer
from optuna.trial import TrialState

from experiments.lab import Lab
from experiments.search import Job, claimed, opened, search
from experiments.storage import default_storage
from experiments.study import Study, read_study


def timed(asked: Study, trials: int, workers: int) -> dict[str, Any]:
    """Search in an empty home. Trials per hour are from the start of the first to the end of the last: drawing the
    frames, which each worker does once, is left out, and the search over layers, which all wait for, is in."""
    with empty_home():
        job = Job(asked, default_storage(asked.name), trials, workers)
        study = opened(job)
        lab = Lab(asked)
        claimed(study, job, lab)
        for values in drawn(asked, trials):
            study.enqueue_trial(values)
        started = time.monotonic()
        search(job)
        wall = time.monotonic() - started
        complete = study.get_trials(states=(TrialState.COMPLETE,))
        begins = [t.datetime_start for t in complete if t.datetime_start]
        ends = [t.datetime_complete for t in complete if t.datetime_complete]
        seconds = (max(ends) - min(begins)).total_seconds()
    return {"trials": len(complete), "seconds": seconds, "trials_per_h": 3600 * len(complete) / seconds, "wall_s": wall}


def drawn(asked: Study, count: int) -> list[dict[str, float]]:
    """The same recipes for every number of workers."""
    rng = np.random.default_rng(asked.seed)
    found = []
    for _ in range(count):
        values = {}
        for name, knob in asked.ranges().items():
            place = int(rng.integers(round((knob.high - knob.low) / knob.step) + 1))
            values[name] = knob.low + place * knob.step
        found.append(values)
    return found


@contextmanager
def empty_home() -> Iterator[None]:
    """A $FASTHMR_HOME without anything that an earlier search has found out."""
    before = os.environ.get("FASTHMR_HOME")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FASTHMR_HOME"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["FASTHMR_HOME"]
            else:
                os.environ["FASTHMR_HOME"] = before


def main(
    study: Annotated[str, typer.Argument(help="The .yaml file of a study.")], trials: int = 24, workers: int = 2
) -> None:
    asked = read_study(study)
    after = {"recover": None, "rivals": (), "baselines": (), "frames": asked.frames.model_copy(update={"test": 1})}
    asked = asked.model_copy(update=after)  # what comes after the trials is not timed
    found = {n: timed(asked, trials, n) for n in (1, workers)}
    ratio = found[workers]["trials_per_h"] / found[1]["trials_per_h"]
    typer.echo(json.dumps({"workers": found, "ratio": ratio, "cores": os.cpu_count()}, indent=1))


if __name__ == "__main__":
    typer.run(main)
