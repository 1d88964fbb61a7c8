"""The command `fasthmr`: 0 done, 2 bad input told in one sentence, 1 a bug.

What a command needs is imported inside it, so that `fasthmr --help` does not wait for torch.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from compress.errors import BadInput

if TYPE_CHECKING:
    from experiments.datasets import DataSpec
    from experiments.models import Resolved

app = typer.Typer(
    help="Make human mesh recovery models smaller and faster, and measure what it costs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
body_app = typer.Typer(help="The body model that everything is posed on.", no_args_is_help=True)
data_app = typer.Typer(help="The data sets.", no_args_is_help=True)
train_app = typer.Typer(help="Training.", no_args_is_help=True)
for _name, _group in (("body", body_app), ("data", data_app), ("train", train_app)):
    app.add_typer(_group, name=_name)

Data = Annotated[str, typer.Option(help="name[:split], the name one of synth, synth-video, synth-shift.")]
FrameCount = Annotated[int | None, typer.Option(min=1, help="Use no more than this many frames.")]
Mocap = Annotated[
    Path | None,
    typer.Option(envvar="FASTHMR_MOCAP", help="Folder of more motion to train on: DeepMimic, ASF/AMC, BVH or AMASS."),
]
COLUMNS = {
    "mpjpe_mm": "MPJPE mm",
    "pa_mpjpe_mm": "PA-MPJPE mm",
    "pve_mm": "PVE mm",
    "accel_mm_per_frame2": "Accel mm/frame²",
}


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="reference, reference-small or a .safetensors file of `fasthmr train`.")],
    data: Data,
    frames: FrameCount = None,
    mocap: Mocap = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Errors of MODEL, beside predictors that see no picture, and its frames/s."""
    from experiments.datasets import parse
    from experiments.models import resolve_model

    spec = parse(data)
    result = evaluation(resolve_model(model), spec, frames, mocap)
    if as_json:
        sys.stdout.write(json.dumps(result, allow_nan=False) + "\n")
    else:
        show(result)


@body_app.command("import")
def body_import(path: Annotated[Path, typer.Argument(help="An official SMPL .pkl or .npz file.")]) -> None:
    """Convert an SMPL file to plain arrays in $FASTHMR_HOME, without running anything in it."""
    from hmr.body import import_body

    typer.echo(import_body(path))


@data_app.command()
def preview(
    data: Data,
    out: Annotated[Path, typer.Option(help="The .png file to write.")],
    frames: Annotated[int, typer.Option(min=1, max=400, help="Number of frames, spread over the data set.")] = 24,
    mocap: Mocap = None,
) -> None:
    """A contact sheet: pictures, their masks and their joints."""
    from experiments.datasets import open_data, parse
    from experiments.preview import contact_sheet
    from hmr.checkpoints import write_atomically

    spec = parse(data)
    refuse_existing(out)
    if out.suffix.lower() != ".png":
        raise BadInput(f"--out {out}: the contact sheet is a PNG, so its name must end in .png")
    opened = open_data(spec, mocap=mocap)
    count = min(frames, len(opened))
    samples = [opened[i * len(opened) // count] for i in range(count)]
    write_atomically(out, contact_sheet(samples))


@train_app.command()
def hmr(
    out: Annotated[Path, typer.Option(help="Folder of the run; one that was stopped goes on.")],
    minutes: Annotated[float, typer.Option(min=0.01, help="Minutes of training, drawing the frames apart.")],
    architecture: Annotated[str, typer.Option(help="reference or reference-small.")] = "reference",
    frames: Annotated[int, typer.Option(min=1, help="Pictures at half size; a quarter as many at full.")] = 100_000,
    mocap: Mocap = None,
) -> None:
    """Train an HMR model from nothing on synth:train; prints the file of weights."""
    import logging

    from experiments.training import train_hmr

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    typer.echo(train_hmr(architecture, out, minutes, frames, mocap, os.cpu_count() or 1))


def evaluation(model: Resolved, spec: DataSpec, frames: int | None, mocap: Path | None) -> dict[str, Any]:
    """What `evaluate --json` prints, with progress on stderr."""
    import torch

    from experiments import evaluate
    from experiments.datasets import DataSpec, open_data
    from experiments.provenance import provenance
    from hmr.body import load_body

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    opened, body = open_data(spec, frames, mocap), load_body().to(device)
    # small crops: of the training frames only the poses are looked at
    mean = evaluate.mean_rotations(open_data(DataSpec("synth", "train"), mocap=mocap, size=(32, 24)))
    with progress_bar() as bar:
        task = bar.add_task(f"{model.name} on {spec.name}:{spec.split}", total=len(opened))
        result = evaluate.evaluate(model.model.to(device), opened, body, mean, device, lambda n: bar.advance(task, n))
    return {**result, "provenance": provenance("evaluate", model, body, spec, opened, device)}


def show(result: dict[str, Any]) -> None:
    """The evaluation as a table on stdout."""
    source = result["provenance"]
    data = source["data"]
    table = Table(
        title=f"{source['model']['name']} on {data['name']}:{data['split']}",
        caption=f"{data['frames']} frames of {data['clips']} recordings; 95 % bootstrap intervals over recordings\n"
        f"{result['frames_per_s']:.1f} frames/s, {source['device']}, {source['threads']} threads, "
        f"{source['precision']}; seed {source['seed']}, commit {source['commit'][:12]}",
    )
    table.add_column("predictor")
    for heading in COLUMNS.values():
        table.add_column(heading, justify="right")
    for row in result["rows"]:
        table.add_row(row["name"], *(cell(row[key]) for key in COLUMNS))
    # rich takes 80 columns where stdout is no terminal, and would fold the cells
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def cell(value: dict[str, float] | None) -> str:
    return "-" if value is None else f"{value['mean']:.1f} [{value['lo']:.1f}, {value['hi']:.1f}]".replace("[", "\\[")


def progress_bar() -> Progress:
    """A bar on stderr, and nothing where stderr is no terminal."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())


def refuse_existing(out: Path) -> None:
    """Raise BadInput where `out` is a file or folder with something in it."""
    if out.is_dir() and any(out.iterdir()):
        raise BadInput(f"--out {out}: the folder is not empty; name another one")
    if out.is_file() and out.stat().st_size:
        raise BadInput(f"--out {out}: the file exists; name another one or remove it")


def main() -> None:
    """Entry point; turns BadInput into a sentence on stderr and exit code 2."""
    try:
        app()
    except BadInput as error:
        sys.stderr.write("fasthmr: " + " ".join(str(error).split()) + "\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
