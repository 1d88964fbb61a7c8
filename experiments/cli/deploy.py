"""`fasthmr export`: a model as a file for another runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from compress.errors import BadInput
from experiments.cli.options import AsJson, Model
from experiments.cli.output import print_result, progress_bar, progress_callback, refuse_existing, result_table


def export(
    model: Model,
    out: Annotated[Path, typer.Option(help="The folder to write: the file, and how far its joints are off.")],
    format: Annotated[str, typer.Option(help="onnx, openvino or torch.")] = "onnx",
    batch: Annotated[str, typer.Option(help="Frames that go in at once: a number, or dynamic.")] = "dynamic",
    precision: Annotated[str, typer.Option(help="float32 or float16.")] = "float32",
    vertices: Annotated[bool, typer.Option("--vertices", help="Vertices come out beside joints.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write MODEL as a file for ONNX Runtime, OpenVINO or torch; fails where its joints differ from MODEL's."""
    refuse_existing(out)
    asked = {"form": format, "batch": frames_at_once(batch), "precision": precision, "vertices": vertices}
    with progress_bar() as bar:
        result = exported(model, out, asked, progress_callback(bar))
    print_result(result, as_json, parity_table)


def frames_at_once(batch: str) -> int | None:
    """What --batch says; None: any number. Raises BadInput for what is neither a number above 0 nor `dynamic`."""
    if batch == "dynamic":
        return None
    if not batch.isdecimal() or not int(batch):
        raise BadInput(f"--batch {batch}: name a number of frames, or dynamic")
    return int(batch)


def exported(model: str, out: Path, asked: dict[str, Any], observer: Any) -> dict[str, Any]:
    """What `export --json` prints."""
    import hmr
    from compress.provenance import provenance
    from hmr.deploy.export import export
    from hmr.deploy.parity import FRAMES

    found = hmr.load(model)
    frames = hmr.frames("synth:test", FRAMES, size=found.encoder.crop_size)
    result = export(found, out, list(frames.drawn(observer)), **asked, observer=observer)
    source = provenance("export", found, next(found.parameters()).device)
    return {**result, "provenance": {**source, "data": frames.described(), "precision": asked["precision"]}}


def parity_table(result: dict[str, Any]) -> Table:
    """How far the file is off, for people."""
    parity = result["parity"]
    rows = [
        (str(row["batch"]), f"{row['worst_mm']:.2g}", row["worst_frame"], f"{row['mean_mm']:.2g}", flips(row))
        for row in parity["batches"]
    ]
    bound = f"at most {parity['bound_mm']:g} mm" if parity["bound_mm"] is not None else "no bound"
    return result_table(
        result["path"],
        f"joints of {parity['frames']} frames of synth:test against the model's: {bound}",
        ("batch", "worst joint mm", "in frame", "mean mm", "frames where other tokens merge"),
        rows,
    )


def flips(row: dict[str, Any]) -> str:
    """In how many frames other tokens merged, and the first of them."""
    names = row["flipped"]
    return f"{len(names)}: {names[0]}{' ...' * (len(names) > 1)}" if names else "0"
