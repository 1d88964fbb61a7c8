"""`fasthmr inspect`, `convert`, `body` and `masks`: checkpoints, bodies and mask networks of other projects."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from experiments.cli.options import AsJson, CamModel, Checkpoint, Heads, Tokenizer
from experiments.cli.output import print_result, refuse_existing

body_app = typer.Typer(help="The body model.", no_args_is_help=True)
masks_app = typer.Typer(help="Person segmentation networks.", no_args_is_help=True)


def inspect(
    path: Checkpoint,
    tokenizer: Tokenizer = None,
    cam_model: CamModel = None,
    heads: Heads = None,
    as_json: AsJson = False,
) -> None:
    """Show what a checkpoint contains: family, sizes and ignored keys; executes nothing in it. The code of an adapter,
    FILE.py, is run."""
    from hmr.adapters.adapter import is_adapter
    from hmr.checkpoints.convert import adapter_inspection, inspection

    named = str(path)
    found = adapter_inspection(named) if is_adapter(named) else None
    result = found or inspection(path, heads, tokenizer=tokenizer, cam_model=cam_model)
    print_result(result, as_json, inspection_table)


def convert(
    path: Checkpoint,
    out: Annotated[Path, typer.Option(help="The folder to write: safetensors, manifest and licence.")],
    tokenizer: Tokenizer = None,
    cam_model: CamModel = None,
    heads: Heads = None,
    as_json: AsJson = False,
) -> None:
    """Convert a checkpoint to a folder that every command accepts as MODEL."""
    from hmr.checkpoints.convert import convert

    refuse_existing(out)
    made = convert(path, out, heads, tokenizer=tokenizer, cam_model=cam_model)
    sys.stdout.write((json.dumps(made) if as_json else made["path"]) + "\n")


@body_app.command("import")
def body_import(
    path: Annotated[Path, typer.Argument(help="An official SMPL or MANO .pkl or .npz file.")],
    name: Annotated[
        str | None,
        typer.Option(help="smpl, smpl-female, smpl-male, mano or mano-left, where the file's name does not show it."),
    ] = None,
) -> None:
    """Convert an SMPL or MANO file to plain arrays in $FASTHMR_HOME, without executing anything in it."""
    from hmr.body.files import import_body

    typer.echo(import_body(path, name))


@masks_app.command("import")
def masks_import(
    path: Annotated[Path, typer.Argument(help="The wheel of mediapipe 0.10.21, or a .tflite file.")],
) -> None:
    """Import BlazePose's networks into $FASTHMR_HOME where pip cannot fetch them; executes nothing in the wheel."""
    from hmr.data.blazepose_files import import_masks

    typer.echo("\n".join(map(str, import_masks(path))))


def inspection_table(result: dict[str, Any]) -> Table:
    """An inspection as people read it."""
    table = Table(show_header=False, title=result["architecture"] or "no model that we know")
    for name in ("family", "licence", "tokens", "head_needs"):
        table.add_row(name, str(result[name] if result[name] is not None else "-"))
    table.add_row("sizes", ", ".join(f"{name} {value}" for name, value in result["sizes"].items()) or "-")
    table.add_row("prefixes", ", ".join(result["prefixes"]))
    for name in ("missing", "unexpected", "ignored_keys", "unknown_globals"):
        keys = result[name]
        more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
        table.add_row(name.replace("_", " "), f"{len(keys)}: {', '.join(keys[:5])}{more}" if keys else "none")
    return table
