"""`python -m experiments.search.replay.live`: one search of each sampler as `fasthmr search` does it, by the clock.

What the replay's stand-ins leave out is here: recipes are those that samplers draw, and measuring stops where it does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, get_args

import numpy as np
import typer
from optuna.trial import FrozenTrial, TrialState

from compress.atomic import atomic_write
from experiments.cli.main import ended
from experiments.cli.output import progress_bar, progress_callback
from experiments.search.lab import Lab
from experiments.search.replay.searches import SHIPPED, Seen, rises, summarised
from experiments.search.storage import default_storage
from experiments.search.study import Sampler, read_study
from experiments.search.trials import BASELINE, RECORD
from experiments.search.trials import read as record_of
from experiments.search.workers import SearchJob, opened, search


def seen_of(trials: list[FrozenTrial], began_s: float) -> list[Seen]:
    """Of trials that are over, when each was measured, in seconds of its worker, its MACs and its error in mm."""
    found, spent = [], began_s
    for trial in trials:
        if BASELINE in trial.user_attrs or trial.duration is None:
            continue
        spent += trial.duration.total_seconds()
        record = record_of(trial.user_attrs.get(RECORD))
        if trial.state == TrialState.COMPLETE and record:
            found.append((spent, float(record.macs.true), record.mpjpe_mm.mean))
    return found


def main(
    out: Annotated[Path, typer.Option(help="The .json file to write.")],
    study: Annotated[str, typer.Argument(help="The .yaml file of a study with per_block.")] = SHIPPED,
    trials: Annotated[int, typer.Option(min=1, help="Of each sampler, the study's baselines among them.")] = 60,
) -> None:
    """Search once with each sampler, going on with what was searched before."""
    spec, seen = read_study(study), {}
    lab = Lab(spec)
    with progress_bar() as bar:
        for name in get_args(Sampler):
            own = spec.model_copy(update={"name": f"{spec.name}-{name}", "sampler": name})
            job = SearchJob(own, default_storage(own.name), trials)
            search(job, progress_callback(bar))
            begun = lab.measures().seconds if name == "budgets" else 0.0
            seen[name] = seen_of(opened(job).get_trials(deepcopy=False), begun)
        whole = lab.measure(spec.recipe)
    end = min(max(s for s, _, _ in each) for each in seen.values())  # all searched as long
    times = np.linspace(0, end, 241)
    most = max(mm for each in seen.values() for _, _, mm in each)
    original = (whole.macs.true, whole.mpjpe_mm.mean)
    rows = summarised({name: rises(each, times, original, most)[None] for name, each in seen.items()}, times)
    stored = {"rows": rows, "search_s": end, "trials": trials, "provenance": whole.provenance}
    atomic_write(out, (json.dumps(stored, indent=1) + "\n").encode())
    for row in rows:
        typer.echo(f"{row['sampler']}: +{row['rise_mm']['mean']:.1f} mm, as random has after {row['as_random_s']} s")


if __name__ == "__main__":
    ended(lambda: typer.run(main))
