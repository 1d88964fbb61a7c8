"""`fasthmr compress`: a recipe goes in, a smaller model comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from experiments.cli.options import AsJson, CalibFrames, Data, FrameCount, LabelFree, Masks, RecipeName
from experiments.cli.output import cell, print_result, progress_bar, progress_callback, refuse_existing


def compress(
    recipe: RecipeName,
    model: Annotated[str, typer.Option(help="reference, reference-small or a .safetensors file of `fasthmr train`.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="The folder to write: the compressed model and what was measured.")],
    frames: FrameCount = None,
    calib_frames: CalibFrames = None,
    label_free: LabelFree = False,
    masks: Masks = None,
    as_json: AsJson = False,
) -> None:
    """Compress MODEL by RECIPE: its error and cost after each step, and a folder that loads anywhere."""
    from compress.recipe import read_recipe
    from experiments.run import compress
    from hmr.data.datasets import parse
    from hmr.load import resolve_model

    spec = parse(data, label_free, masks)
    read_recipe(recipe)  # its mistakes are told before a model is looked for
    refuse_existing(out)
    with progress_bar() as bar:
        result = compress(
            recipe, resolve_model(model), spec, out, frames, progress_callback(bar), label_free, calib_frames
        )
    print_result(result, as_json, steps_table)


def steps_table(result: dict[str, Any]) -> Table:
    """The row of each step, for people."""
    from hmr.evaluation.provenance import counted

    source = result["provenance"]
    data, calib, made = source["data"], source["calib"], result["artefact"]
    decided = f"decided on {calib['name']}:{calib['split']}, {calib['frames']} frames; " if calib else ""
    shown = Table(
        title=f"{source['model']['name']} on {data['name']}:{data['split']}"
        + (", errors as distance to the original model" if source["label_free"] else ""),
        caption=f"{counted(data)}; 95 % bootstrap intervals over recordings; {decided}"
        f"seed {source['seed']}, commit {source['commit'][:12]}\n{made['path']}: {made['id'][:12]}",
    )
    shown.add_column("after")
    for heading in ("layers", "tokens", "M params", "GMACs", "frames/s", "MPJPE mm", "rise mm", "person merged"):
        shown.add_column(heading, justify="right")
    for r in result["rows"]:
        share = r["protected_merged_share"]
        shown.add_row(
            r["step"] + ("" if r["changed"] or r["mpjpe_rise_mm"] is None else ": changed nothing"),
            str(r["layers"]),
            str(r["tokens"][-1] if r["tokens"] else "-"),
            f"{r['params'] / 1e6:.2f}",
            f"{r['macs']['true'] / 1e9:.3f}",
            f"{r['frames_per_s']:.1f}",
            cell(r["mpjpe_mm"]),
            cell(r["mpjpe_rise_mm"]),
            "-" if share is None else f"{share:.1%}",
        )
    return shown
