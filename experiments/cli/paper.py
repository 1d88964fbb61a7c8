"""`fasthmr paper` and `decoders`: the tables of the FastHMR paper, measured on models at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from experiments.cli.options import AsJson, Batch, CalibFrames, Data, FrameCount, Masks, Mocap, Products, Vae
from experiments.cli.output import (
    ERRORS,
    print_result,
    progress_bar,
    progress_callback,
    refuse_existing,
    result_table,
)


def paper(
    table: Annotated[
        str,
        typer.Argument(help="all, a table of the paper (tab2, fig2, ...), or one of operators, tokens, budgets."),
    ],
    model: Annotated[str, typer.Option(help="reference, reference-small or a checkpoint.")],
    data: Data,
    out: Annotated[Path | None, typer.Option(help="The folder to write: a page with the tables.")] = None,
    frames: FrameCount = None,
    calib: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Data to make choices on, where --data has only a test split, such as emdb."),
    ] = None,
    calib_frames: CalibFrames = None,
    masks: Masks = None,
    recover_minutes: Annotated[
        float | None,
        typer.Option(min=0.01, help="Also measure each row after this many minutes of label-free recovery."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a table of the FastHMR paper on MODEL and test its finding; resumes an interrupted run."""
    import hmr
    from experiments.paper import evidence
    from experiments.paper.ablation import Comparison
    from experiments.paper.tables import ALL, tables

    chosen = tables(table)
    if table == ALL:
        frames, calib_frames = frames or evidence.FRAMES, calib_frames or evidence.CALIB_FRAMES
    if out is not None:
        refuse_existing(out)
    with progress_bar() as bar:
        comparison = Comparison(hmr.load(model), data, frames, calib_frames, progress_callback(bar), calib, masks)
        result = evidence.ablate_all(chosen, comparison, recover_minutes)
    if out is not None:
        evidence.write(result, out)
    comparison.forget()
    if table == ALL:
        print_result(result, as_json, summary_table)
    else:
        print_result(result["tables"][0], as_json, paper_table)


def decoders(
    table: Annotated[
        str,
        typer.Argument(
            help="decoder, objectives, denoising-steps, representation, protection, latents, streaming, smoothness, "
            "noise-seeds, tasks or keypoints."
        ),
    ],
    model: Annotated[str, typer.Option(help="The original encoder: a MODEL as elsewhere.")],
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of every trained row.")],
    data: Data = "synth-video:test",
    recipe: Annotated[
        str, typer.Option(help="Recipe that makes the encoder; a decoder in it is left out.")
    ] = "fasthmr-reference-video",
    out: Annotated[Path | None, typer.Option(help="The .json file to write.")] = None,
    vae: Vae = None,
    vae_steps: Annotated[int, typer.Option(min=0, help="Optimizer steps of a VAE for each row; 0 uses --vae.")] = 0,
    frames: FrameCount = None,
    train_frames: Annotated[int | None, typer.Option(min=1, help="Train on at most this many frames.")] = None,
    batch: Batch = 16,
    precision: Products = "float32",
    mocap: Mocap = None,
    as_json: AsJson = False,
) -> None:
    """Measure what each part of the motion decoder contributes, next to simpler baselines."""
    from typing import get_args

    import hmr
    from compress.atomic import atomic_write
    from compress.choices import one_of
    from compress.training.task import Precision
    from experiments.paper.decoder_tasks import TABLES as TASKS
    from experiments.paper.decoder_tasks import TaskComparison
    from experiments.paper.decoders import TABLES, DecoderComparison, RowBudget

    name = one_of(table, (*TABLES, *TASKS), "table")
    budget = RowBudget(steps, vae_steps, batch, precision=one_of(precision, get_args(Precision), "precision"))
    if out is not None:
        refuse_existing(out)
    with progress_bar() as bar:
        sources = hmr.load(model), recipe, data, budget, vae, frames, train_frames, mocap
        comparison = DecoderComparison(*sources, progress_callback(bar))
        result = TaskComparison(comparison).table(name) if name in TASKS else comparison.table(name)
    if out is not None:
        atomic_write(out, json.dumps(result, indent=1, allow_nan=False).encode(), new=True)
    print_result(result, as_json, tasks_table if name in TASKS else decoders_table)


def tasks_table(result: dict[str, Any]) -> Table:
    """The rows of all tasks, for people."""
    from compress.card import formatted

    source, budget = result["provenance"], result["budget"]
    columns = {
        "mpjpe_mm": "MPJPE mm",
        "energy_mm": "energy score mm",
        "energy_mm_over_regressor": "over the regressor's Gaussian mm",
        "best_of_10_mm": "best of 10 mm",
        "accel_mm_per_frame2": "Accel mm/frame²",
    }
    rows = []
    for row in result["rows"]:
        covered = formatted(row["coverage"], ".2f")
        rows.append((f"{row['task']}: {row['name']}", *(formatted(row[key]) for key in columns), covered))
    data = source["data"]
    return result_table(
        f"{result['table']}: {source['model']['name']} on {data['name']}:{data['split']}",
        f"on what is hidden; 95 % t intervals over videos, differences paired; {budget['steps']} steps a trained "
        f"row; commit {source['commit'][:12]}",
        ("task", *columns.values(), "within the central 90 %"),
        rows,
    )


def decoders_table(result: dict[str, Any]) -> Table:
    """The rows of a table, for people."""
    from compress.card import formatted

    source, budget = result["provenance"], result["budget"]
    data = source["data"]
    columns = {
        **ERRORS,
        "mpjpe_rise_mm": "rise mm",
        "pa_rise_mm": "PA rise mm",
        "over_decoder_mm": "over the decoder mm",
    }
    columns = {key: heading for key, heading in columns.items() if key in result["rows"][0]}
    rows = [
        (row["name"], *(formatted(row[key]) for key in columns), f"{row['frames_per_s']:.1f}") for row in result["rows"]
    ]
    return result_table(
        f"{result['table']}: {source['model']['name']} on {data['name']}:{data['split']}",
        f"{data['frames']} frames of {data['clips']} videos, 95 % t intervals over videos, rise over the baseline "
        f"paired; {budget['steps']} steps for each trained row; commit {source['commit'][:12]}",
        ("row", *columns.values(), "frames/s"),
        rows,
    )


def paper_table(result: dict[str, Any]) -> Table:
    """The rows of a table, for people."""
    from experiments.paper.grid import grid, measured_on

    lines = [result["question"], measured_on(result["provenance"])]
    lines += [f"Impossible: {name}, because {why}" for name, why in result["impossible"].items()]
    title = f"{result['title']}: {result['provenance']['model']['name']}"
    caption = "\n".join(filter(None, [*lines, result["sentence"]]))
    shown = result_table(title, caption, *grid(result["columns"], result["rows"], result["paper_model"]))
    shown.caption_justify = "left"
    return shown


def summary_table(result: dict[str, Any]) -> Table:
    """A line for each table, for people."""
    from experiments.paper.grid import measured_on

    shown = Table(title=f"the paper's tables: {result['provenance']['model']['name']}", show_lines=True)
    shown.caption = measured_on(result["provenance"])
    shown.add_column("table")
    shown.add_column("what it shows")
    for table in result["tables"]:
        lines = (table["sentence"], table.get("missing"))
        shown.add_row(table["table"], escape("\n".join(filter(None, lines))))
    return shown
