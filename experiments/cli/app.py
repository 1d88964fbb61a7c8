"""All commands of `fasthmr`. What one needs is imported inside it, so that `fasthmr --help` does not wait for torch."""

from __future__ import annotations

import os
from importlib.metadata import version as version_of
from typing import Annotated

import typer

from experiments.cli.adapter import adapter_app
from experiments.cli.compress import attach, compress
from experiments.cli.data import data_app
from experiments.cli.deploy import bench, export
from experiments.cli.evaluate import cost, depth, evaluate
from experiments.cli.models import body_app, convert, inspect, masks_app
from experiments.cli.paper import decoders, paper
from experiments.cli.recipe import recipe_app
from experiments.cli.run import run
from experiments.cli.search import report, search
from experiments.cli.train import reconstruct, train_app

app = typer.Typer(
    help="Make human mesh recovery models smaller and faster, and measure what it costs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
COMMANDS = (
    evaluate,
    depth,
    cost,
    compress,
    attach,
    export,
    bench,
    search,
    report,
    paper,
    inspect,
    convert,
    decoders,
    reconstruct,
    run,
)
for command in COMMANDS:
    app.command()(command)
for name, group in {
    "adapter": adapter_app,
    "body": body_app,
    "masks": masks_app,
    "data": data_app,
    "train": train_app,
    "recipe": recipe_app,
}.items():
    app.add_typer(group, name=name)


def show_version(wanted: bool) -> None:
    """Print the version and stop, where --version is given."""
    if wanted:
        typer.echo(f"fasthmr {version_of('fasthmr')}")
        raise typer.Exit


@app.callback()
def settings(
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1; by default cuda if available.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of torch; by default one per core.")] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Settings of every command, left in the environment for torch and for the workers of a search."""
    if device is not None:
        os.environ["FASTHMR_DEVICE"] = device
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
