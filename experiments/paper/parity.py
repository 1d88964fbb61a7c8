"""`python -m experiments.paper.parity MODEL...`: how far exported files are from models, or why there are none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer

import hmr
from compress.atomic import atomic_write
from compress.context import Observer, silent
from compress.errors import BadInput
from compress.provenance import provenance
from experiments.cli.main import ended
from experiments.cli.output import progress_bar, progress_callback
from hmr.data.sample import Sample
from hmr.deploy.export import export
from hmr.deploy.parity import FRAMES

FILES = (("onnx", "float32"), ("openvino", "float32"), ("torch", "float32"), ("onnx", "float16"), ("onnx", "int8"))


def parities(
    model: Any, samples: Sequence[Sample], calib: Sequence[Sample], observer: Observer = silent
) -> list[dict[str, Any]]:
    """A row for each of FILES, as JSON values: `worst_mm` and how many frames merged other tokens, the worst of all
    batches; where the export failed, both are None and `reason` says why."""
    rows = []
    for form, precision in FILES:
        row: dict[str, Any] = {"model": model.encoder.name, "format": form, "precision": precision}
        row |= {"worst_mm": None, "flipped": None, "rise_mm": None, "reason": None}
        try:
            with TemporaryDirectory() as folder:
                asked: dict[str, Any] = {"form": form, "precision": precision, "calib": calib, "observer": observer}
                made = export(model, Path(folder) / "file", samples, **asked)
        except BadInput as error:
            rows.append({**row, "reason": str(error)})
            continue
        batches = made["parity"]["batches"]
        worst, flipped = (max(of) for of in zip(*((b["worst_mm"], len(b["flipped"])) for b in batches), strict=True))
        rows.append({**row, "worst_mm": worst, "flipped": flipped, "rise_mm": made["rise_mm"]})
    return rows


def main(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Models, as elsewhere.")],
    out: Annotated[Path, typer.Option(help="The JSON file to write, over an older one.")] = Path("parity.json"),
    frames: Annotated[int, typer.Option(min=1, help="Of synth:test, and as many of synth:calib.")] = FRAMES,
) -> None:
    """Export every MODEL in every format and precision, and print how far each file is off."""
    rows: list[dict[str, Any]] = []
    with progress_bar() as bar:
        observer = progress_callback(bar)
        for name in models:
            model = hmr.load(name)
            test, calib = (
                list(hmr.frames(f"synth:{split}", frames, size=model.encoder.crop_size).drawn(observer))
                for split in ("test", "calib")
            )
            rows += parities(model, test, calib, observer)
            source = provenance("parity", model, torch.device("cpu"), frames=frames)
            atomic_write(out, json.dumps({"rows": rows, "provenance": source}, indent=1).encode())
    typer.echo("| model | format | precision | worst joint mm | other merges | |\n|---|---|---|--:|--:|---|")
    for row in rows:
        worst = "-" if row["worst_mm"] is None else f"{row['worst_mm']:.2g}"
        cells = (row["model"], row["format"], row["precision"], worst, row["flipped"] or 0, row["reason"] or "")
        typer.echo(f"| {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    ended(lambda: typer.run(main))
