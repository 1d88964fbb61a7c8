"""How far exported files are from models, or why there are none.

python -m experiments.paper.deployment.parity [MODEL...]

A file's figures are written as soon as they are there, and no file is made twice: who stops the command goes on later.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
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
from experiments.paper.deployment.parity_models import MADE
from hmr.data.sample import Sample
from hmr.deploy.export import export
from hmr.deploy.parity import FRAMES

FILES = (("onnx", "float32"), ("openvino", "float32"), ("torch", "float32"), ("onnx", "float16"), ("onnx", "int8"))
KEY = ("model", "format", "precision", "frames")  # whose figures they are
REFUSED = "refused"
EMPTY = {"worst_mm": None, "flipped": None, "decoder_mm": None, "rise_mm": None, "rounding": None, "reason": None}


class ParityRecord:
    """The figures of every file, and a row of each model's, in a JSON file that is written anew with each."""

    def __init__(self, path: Path, frames: int) -> None:
        self.path, self.frames = path, frames
        self.content = json.loads(path.read_bytes()) if path.is_file() else {"rows": [], "files": []}

    @property
    def files(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.content["files"]
        return found

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One of each model, in the order of their first files."""
        groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for file in self.files:
            groups.setdefault((file["model"], file["frames"]), []).append(file)
        return [row_of(files) for files in groups.values()]

    def missing(self, name: str) -> list[tuple[str, str]]:
        """Which of FILES a model has no figures of."""
        there = {tuple(file[key] for key in KEY) for file in self.files}
        return [file for file in FILES if (name, *file, self.frames) not in there]

    def add(self, file: dict[str, Any], source: dict[str, Any]) -> None:
        """Write a file's figures; `source`: where they come from."""
        self.files.append({**file, "frames": self.frames, "provenance": source})
        self.content |= {"rows": self.rows, "commit": source.get("commit", "")}
        atomic_write(self.path, (json.dumps(self.content, indent=1, allow_nan=False) + "\n").encode())


def row_of(files: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What one model's files are off by, in mm: REFUSED where an export failed, None where none was tried."""
    ways: dict[tuple[str, ...], Any] = {(file["format"], file["precision"]): file for file in files}

    def worst(key: str, *way: str) -> Any:
        file = ways.get(way, EMPTY)
        return REFUSED if file["reason"] else file[key]

    plain = {f"{form}_off_mm": worst("worst_mm", form, precision) for form, precision in FILES[:3]}
    decoders = [file["decoder_mm"] for file in files if file["decoder_mm"] is not None]
    return {
        "model": files[0]["model"],
        **plain,
        "float16_off_mm": worst("worst_mm", "onnx", "float16"),
        "decoder_off_mm": max(decoders, default=None),
        "int8_rise_mm": worst("rise_mm", "onnx", "int8"),
        "flipped": max(file["flipped"] or 0 for file in files if file["precision"] != "int8"),
        "frames": files[0]["frames"],
    }


def parities(
    name: str,
    model: Any,
    files: Sequence[tuple[str, str]],
    samples: Sequence[Sample],
    calib: Sequence[Sample],
    observer: Observer = silent,
) -> Iterator[dict[str, Any]]:
    """The figures of each file, as JSON values: `worst_mm`, that of a motion decoder's file, and how many frames merged
    other tokens, the worst of all batches; where the export failed, all are None and `reason` says why."""
    for form, precision in files:
        row: dict[str, Any] = {"model": name, "format": form, "precision": precision, **EMPTY}
        try:
            with TemporaryDirectory() as folder:
                asked: dict[str, Any] = {"form": form, "precision": precision, "calib": calib, "observer": observer}
                made = export(model, Path(folder) / "file", samples, **asked)
        except BadInput as error:
            yield {**row, "reason": str(error)}
            continue
        worst, flipped = worst_of(made)
        decoder = None if made["decoder"] is None else worst_of(made["decoder"])[0]
        kept = {key: made[key] for key in ("rise_mm", "rounding")}
        yield {**row, "worst_mm": worst, "flipped": flipped, "decoder_mm": decoder, **kept}


def worst_of(file: dict[str, Any]) -> tuple[float, int]:
    """The worst joint of any batch in mm, and in how many frames other tokens merged."""
    batches = file["parity"]["batches"]
    return max(batch["worst_mm"] for batch in batches), max(len(batch["flipped"]) for batch in batches)


def pictures(model: Any, frames: int, observer: Observer) -> list[list[Sample]]:
    """Those that files are compared on, and those that int8 takes its ranges from."""
    names = (f"synth{'-video' * model.takes_clips}:test", "synth:calib")
    return [list(hmr.frames(name, frames, size=model.encoder.crop_size).drawn(observer)) for name in names]


def measure(record: ParityRecord, named: str, observer: Observer) -> None:
    """Add what is missing of a model, `NAME`, `MODEL` or `NAME=MODEL`; where it cannot be made, why not."""
    name, _, place = named.partition("=")
    if not (files := record.missing(name)):
        return
    try:
        model = MADE[name]() if name in MADE and not place else hmr.load(place or name)
    except BadInput as error:
        for form, precision in files:
            record.add({"model": name, "format": form, "precision": precision, **EMPTY, "reason": str(error)}, {})
        return
    source = provenance("parity", model, torch.device("cpu"))
    test, calib = pictures(model, record.frames, observer)
    for row in parities(name, model, files, test, calib, observer):
        record.add(row, source)


def main(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=]MODEL...", help=f"Models; without any: {', '.join(MADE)}.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The JSON file that figures are added to.")] = Path("parity.json"),
    frames: Annotated[int, typer.Option(min=1, help="Of synth:test, and as many of synth:calib.")] = FRAMES,
) -> None:
    """Export every MODEL in every format and precision, and print how far each file is off."""
    record = ParityRecord(out, frames)
    with progress_bar() as bar:
        for named in models or MADE:
            measure(record, named, progress_callback(bar))
    typer.echo("| model | format | precision | worst joint mm | of the decoder | other merges | |")
    typer.echo("|---|---|---|--:|--:|--:|---|")
    for row in record.files:
        found = [shown(row["worst_mm"]), shown(row["decoder_mm"]), row["flipped"] or 0, row["reason"] or ""]
        typer.echo(f"| {' | '.join(map(str, (row['model'], row['format'], row['precision'], *found)))} |")


def shown(worst: float | None) -> str:
    return "-" if worst is None else f"{worst:.2g}"


if __name__ == "__main__":
    ended(lambda: typer.run(main))
