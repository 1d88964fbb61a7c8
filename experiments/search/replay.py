"""`python -m experiments.search.replay STUDY`: which sampler finds a front in the fewest trials?

Every recipe of the study's space is measured once, by `fasthmr search` and as safely. Then each sampler searches the
space with several seeds, and a look into the table takes the place of a model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import optuna
import typer
from numpy.typing import NDArray
from optuna.exceptions import TrialPruned

from compress.atomic import atomic_folder
from compress.context import Observer
from experiments.cli.main import ended
from experiments.cli.output import progress_bar, progress_callback, refuse_existing
from experiments.reports import plots
from experiments.search.lab import Lab
from experiments.search.pareto import Values, grown, hypervolume, reference_point
from experiments.search.sampling import drawn, sampler
from experiments.search.space import Space
from experiments.search.storage import default_storage, quiet
from experiments.search.study import Sampler, Study, read_study
from experiments.search.trials import IMPOSSIBLE, Trial
from experiments.search.workers import FAR_MM, SearchJob, enqueue_baselines, opened, record_purpose, search
from hmr.home import fasthmr_home

Cell = tuple[float, ...]  # a value of each knob, as optuna has it
Measured = dict[Cell, Values | None]  # None: pruned or failed


def cells(space: Space) -> list[Cell]:
    """Every point of a study's space."""
    found: list[dict[str, float]] = [{}]
    for name in space.ranges:
        found = [{**values, name: value} for values in found for value in space.knob(name, values).values]
    return [tuple(values.values()) for values in found]


def measure(job: SearchJob, lab: Lab, observer: Observer) -> list[Trial]:
    """Measure every recipe of the space that was not measured yet; returns all trials."""
    (fasthmr_home() / "searches").mkdir(parents=True, exist_ok=True)
    names, study = list(job.spec.ranges()), opened(job)
    record_purpose(study, job, lab)
    enqueue_baselines(study, job.spec)
    there = {cell_of(t.params | t.system_attrs.get("fixed_params", {}), names) for t in study.get_trials()}
    for cell in cells(lab.space):
        if cell not in there:
            study.enqueue_trial(dict(zip(names, cell, strict=True)))
    waiting = len(study.get_trials(states=(optuna.trial.TrialState.WAITING,)))
    complete = len(study.get_trials(states=(optuna.trial.TrialState.COMPLETE,)))
    return search(SearchJob(job.spec, job.storage, complete + waiting, job.workers), observer)


def cell_of(params: Mapping[str, Any], names: list[str]) -> Cell | None:
    return tuple(params[name] for name in names) if params.keys() >= {*names} else None


def tabled(trials: list[Trial], spec: Study) -> Measured:
    """What was measured of each point of the space."""
    ranges, names = spec.ranges(), list(spec.ranges())
    found: Measured = {}
    for t in trials:
        places = {k: ranges[k].choices.index(v) if ranges[k].choices else v for k, v in t.params.items()}
        cell = cell_of(places, names)
        if cell is not None:
            found[cell] = t.record.values(spec.objectives) if t.record else None
    return found


def replayed(measured: Measured, space: Space, name: Sampler, seed: int, trials: int) -> list[Values | None]:
    """What a sampler draws, trial after trial, where the table answers in the place of a model."""
    quiet()
    chosen = Space(space.spec.model_copy(update={"sampler": name, "seed": seed}), space.size)
    study = optuna.create_study(directions=["minimize"] * len(chosen.spec.objectives), sampler=sampler(chosen))
    seen: list[Values | None] = []

    def objective(trial: optuna.Trial) -> Values:
        seen.append(measured.get(tuple(drawn(trial, chosen).values())))
        value = seen[-1]
        if value is None:
            trial.set_constraint(IMPOSSIBLE, FAR_MM)
            raise TrialPruned
        return value

    study.optimize(objective, n_trials=trials)
    return seen


def curves(measured: Measured, space: Space, trials: int, seeds: int) -> dict[str, NDArray[np.float64]]:
    """Hypervolume (seeds, trials) of each sampler, as a share of that of all recipes."""
    possible = [value for value in measured.values() if value is not None]
    reference = reference_point(possible)
    whole = hypervolume(possible, reference)
    return {
        name: np.array([grown(replayed(measured, space, name, seed, trials), reference) for seed in range(seeds)])
        / whole
        for name in get_args(Sampler)
    }


def main(
    study: Annotated[str, typer.Argument(help="The .yaml file of a study whose space can be measured whole.")],
    out: Annotated[Path, typer.Option(help="The folder to write: replay.json, replay.svg, replay.png.")],
    storage: str | None = None,
    workers: int = 1,
    trials: int = 60,
    seeds: int = 10,
) -> None:
    refuse_existing(out)
    spec = read_study(study)
    lab = Lab(spec)
    with progress_bar() as bar:
        done = measure(SearchJob(spec, storage or default_storage(spec.name), 0, workers), lab, progress_callback(bar))
    measured = tabled(done, spec)
    found = curves(measured, lab.space, trials, seeds)
    bands = {name: np.percentile(values, [10, 50, 90], axis=0).tolist() for name, values in found.items()}
    stored = {
        "recipes": len(measured),
        "not_measured": sum(value is None for value in measured.values()),
        "seeds": seeds,
        "hypervolume": {name: dict(zip(("p10", "median", "p90"), band, strict=True)) for name, band in bands.items()},
        "provenance": next(t.record.provenance for t in done if t.record),
    }
    figure = plots.bands(found)
    with atomic_folder(out) as folder:
        (folder / "replay.json").write_text(json.dumps(stored, indent=1))
        (folder / "replay.svg").write_text(plots.svg(figure), encoding="utf-8")
        (folder / "replay.png").write_bytes(plots.png(figure))
    for name, values in found.items():
        last = np.percentile(values[:, -1], [10, 50, 90])
        typer.echo(f"{name}: {last[1]:.3f} [{last[0]:.3f}, {last[2]:.3f}] of the hypervolume after {trials} trials")


if __name__ == "__main__":
    ended(lambda: typer.run(main))
