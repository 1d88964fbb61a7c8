"""`fasthmr search` and `report`: many recipes, and a page about the best of them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from compress.errors import BadInput
from experiments.cli.options import AsJson, FrameCount, LabelFree, Masks, Minutes, Steps, Storage, StudyFile
from experiments.cli.output import print_result, progress_bar, progress_callback, refuse_existing, result_table

if TYPE_CHECKING:
    from experiments.reports.front import Results
    from experiments.search.decoded import DecodedPoint

DECODER_MINUTES = 15.0
DECODER_FRAMES = 8_100  # of training videos, each to be drawn and seen by each encoder: 100 videos


def search(
    study: StudyFile,
    trials: Annotated[int, typer.Option(min=1, help="Number of completed trials that the study should have in total.")],
    storage: Storage = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine, with one thread each.")] = 1,
    label_free: LabelFree = False,
    masks: Masks = None,
    as_json: AsJson = False,
) -> None:
    """Search for the recipes with the best trade-offs of cost and error; resumes an interrupted search."""
    from experiments.reports.front import result, study_results
    from experiments.search.storage import default_storage, shown
    from experiments.search.study import read_study
    from experiments.search.workers import SearchJob, search

    spec = read_study(study)
    with progress_bar() as bar:
        search(
            SearchJob(spec, storage or default_storage(spec.name), trials, workers, label_free, masks),
            progress_callback(bar),
        )
    results = study_results(study, storage)
    look = f"optuna-dashboard {shlex.quote(shown(storage or default_storage(spec.name)))}  (shows every trial)"
    print_result(result(results), as_json, lambda _: front_table(results, look))


def report(
    studies: Annotated[
        list[str],
        typer.Argument(metavar="STUDY_OR_FOLDERS...", help="A study's .yaml file, or folders written by `compress`."),
    ],
    out: Annotated[Path, typer.Option(help="The folder to write: report.html, front.json, tables and recipes.")],
    storage: Storage = None,
    decoders: Annotated[
        bool, typer.Option("--decoders", help="Also train a motion decoder for each point, and draw both fronts.")
    ] = False,
    kind: Annotated[str, typer.Option(help="Of the decoders: linear, regressor or diffusion.")] = "regressor",
    minutes: Minutes = None,
    steps: Steps = None,
    frames: FrameCount = None,
    train_frames: Annotated[int, typer.Option(min=1, help="Train on at most this many frames.")] = DECODER_FRAMES,
    workers: Annotated[int, typer.Option(min=1, help="Processes that train decoders, on this machine.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Write a report on a study: its front, costs, worst frames, and the recipe of each point; --minutes, --steps,
    --frames and --train-frames are those of --decoders."""
    from experiments.reports.front import load_results
    from experiments.reports.front_page import write
    from experiments.search.decoded import decoded

    refuse_existing(out)
    results = load_results(studies, storage)
    points = decoded_points(results, kind, minutes, steps, frames, train_frames) if decoders else []
    with progress_bar() as bar:
        observer = progress_callback(bar)
        summary = write(results, out, observer, decoded(points, workers, observer) if points else ())
    print_result(summary, as_json, lambda _: front_table(results))


def decoded_points(
    results: Results,
    kind: str,
    minutes: float | None,
    steps: int | None,
    frames: int | None,
    train_frames: int | None = None,
) -> list[DecodedPoint]:
    """The points of a front that get decoders of a kind, trained for as long. Raises BadInput for what is no study and
    for a decoder that cannot be."""
    from pydantic import ValidationError

    from diffusion.policy import MotionDecoder, Retraining
    from experiments.search.decoded import points_of

    if results.spec is None:
        raise BadInput("--decoders are trained for the points of a study: name its .yaml file")
    if kind != "linear" and minutes is None and steps is None:
        minutes = DECODER_MINUTES
    try:
        train = Retraining(minutes=minutes, steps=steps, frames=train_frames)
        decoder = MotionDecoder(kind=kind, train=train)  # type: ignore[arg-type]  # which pydantic checks
    except ValidationError as error:
        raise BadInput(f"--decoders: {error.errors()[0]['msg']}") from error
    return points_of(results.spec, results.front, decoder, "synth-video", frames)


def front_table(results: Results, *more: str) -> Table:
    """The points of the front, for people, and `more` lines below."""
    from experiments.reports.front import COLUMNS, beaten, found_on, rows
    from experiments.search.trials import STATES

    first = results.original
    data = first.provenance["data"]
    states = {state: sum(t.state == state for t in results.trials) for state in STATES}
    return result_table(
        f"front of {results.title}: {first.provenance['model']['name']} on {data['name']}",
        f"{', '.join(f'{n} {state}' for state, n in states.items())}; "
        f"{found_on(results)}, {data['frames']} frames; commit {first.provenance['commit'][:12]}"
        + "".join(f"\n{line}" for line in (*beaten(results), *more)),
        COLUMNS,
        rows(results),
    )
