"""`fasthmr train` and `reconstruct`: HMR models, motion VAEs and motion decoders."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from compress.errors import BadInput
from experiments.cli.options import AsJson, Batch, FrameCount, Minutes, Mocap, Products, Rate, Steps, Vae
from experiments.cli.output import print_result, progress_bar, progress_callback, result_table

if TYPE_CHECKING:
    from compress.training.task import TrainConfig

train_app = typer.Typer(help="Train models.", no_args_is_help=True)


@train_app.command()
def hmr(
    out: Annotated[Path, typer.Option(help="Folder of the run; an interrupted run is resumed.")],
    minutes: Annotated[float, typer.Option(min=0.01, help="Minutes of training, without rendering the frames.")],
    architecture: Annotated[str, typer.Option(help="reference or reference-small.")] = "reference",
    frames: Annotated[int, typer.Option(min=1, help="Images at half resolution; half as many at full.")] = 100_000,
    start: Annotated[
        Path | None, typer.Option(help="Weights to start from; those of half the blocks are grown.")
    ] = None,
    mocap: Mocap = None,
) -> None:
    """Train an HMR model on synth:train, from scratch or from weights; prints the path of the weights."""
    from accelerate import PartialState

    from hmr.training.rendered import train_hmr

    log_to_stderr()
    path = train_hmr(architecture, out, minutes, frames, mocap, start, os.cpu_count() or 1)
    if PartialState().is_main_process:
        typer.echo(path)


@train_app.command()
def vae(
    out: Annotated[Path, typer.Option(help="Folder of the run; an interrupted run is resumed.")],
    minutes: Minutes = None,
    steps: Steps = None,
    size: Annotated[str, typer.Option(help="reference or paper.")] = "reference",
    mocap: Mocap = None,
    data: Annotated[Path | None, typer.Option(help="A clip file to train on, as `fasthmr data clips` writes.")] = None,
    lr: Rate = 2e-3,
    batch: Batch = 16,
    precision: Products = "float32",
    pieces: Annotated[int | None, typer.Option(min=1, help="Number of motion pieces to cut from recordings.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train a motion VAE and measure its reconstruction error on motion families held out of training."""
    from accelerate import PartialState

    from diffusion.training.run import vae_training

    config = train_config(out, minutes, steps, lr, batch, precision)
    result = vae_training(size, config, mocap, data, pieces)
    if PartialState().is_main_process:  # under `accelerate launch` one process prints
        print_result(result, as_json, reconstruction_table)


@train_app.command()
def decoder(
    model: Annotated[str, typer.Option(help="The encoder: a MODEL as elsewhere.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; an interrupted run is resumed.")],
    data: Annotated[str, typer.Option(help="synth-video, or a clip file (.json).")] = "synth-video",
    vae: Vae = None,
    minutes: Minutes = None,
    steps: Steps = None,
    frames: FrameCount = None,
    mocap: Mocap = None,
    lr: Rate = 3e-4,
    batch: Batch = 16,
    precision: Products = "float32",
) -> None:
    """Train a motion decoder on the features of one encoder; prints the path of the weights."""
    from accelerate import PartialState

    import hmr
    from diffusion.training.run import decoder_training

    config = train_config(out, minutes, steps, lr, batch, precision)
    with progress_bar() as bar:
        path = decoder_training(hmr.load(model), data, vae, config, mocap, frames, observer=progress_callback(bar))
    if PartialState().is_main_process:
        typer.echo(path)


def reconstruct(
    weights: Annotated[
        Path | None, typer.Argument(help="Weights of `fasthmr train vae`; by default the shipped ones.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Reconstruction error of a motion VAE on motion families held out of training."""
    from diffusion.training.run import reconstruction

    print_result(reconstruction(weights), as_json, reconstruction_table)


def train_config(
    out: Path, minutes: float | None, steps: int | None, lr: float, batch: int, precision: str
) -> TrainConfig:
    """How to train, with a log on stderr; raises BadInput for neither or both of minutes and steps."""
    from pydantic import ValidationError

    from compress.training.task import TrainConfig

    log_to_stderr()
    try:
        return TrainConfig(out=out, minutes=minutes, steps=steps, lr=lr, batch=batch, precision=precision)  # type: ignore[arg-type]  # checked here
    except ValidationError as error:
        raise BadInput(f"training: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error


def log_to_stderr() -> None:
    """A line with its time for everything that a training logs."""
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("accelerate").setLevel(logging.WARNING)  # it logs every file of every checkpoint


def reconstruction_table(result: dict[str, Any]) -> Table:
    """The gate, for people."""
    from compress.card import formatted

    rows = [(split, formatted(error)) for split, error in result["mpjpe_mm"].items()]
    rows.append((f"gate: {result['gate_mm']:g} mm on test", "passed" if result["passes"] else "not passed"))
    title = f"MPJPE of what {Path(result['weights']['path']).name} reconstructs"
    caption = "motion families held out of training, 95 % t intervals over pieces"
    return result_table(title, caption, ("split", "MPJPE mm"), rows)
