"""How much artefacts err beside their original on every data set: `python -m experiments.paper.equal_macs.frontier`.

What it reports is each set's `test`; whatever the artefacts were chosen and trained on stands in their own folders.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

import hmr
from compress.atomic import atomic_write
from compress.card import formatted
from compress.context import Observer
from compress.provenance import provenance
from experiments.cli.main import ended
from experiments.cli.output import progress_bar, progress_callback

COUNTS = {"synth:test": 1000, "synth-shift:test": 330, "real:test": 200}  # frames of each
KEYS = ("frames_per_s", "mpjpe_mm", "pa_mpjpe_mm", "mpjpe_rise_mm", "person_merged")


def rows(original: Any, models: dict[str, Any], data: str, count: int, observer: Observer) -> Iterator[dict[str, Any]]:
    """A row of the original and one of each model on at most `count` frames of `data`; rises are paired."""
    frames = hmr.frames(data, count, model=original).drawn(observer)
    first, macs = frames.measure(original, "original", observer), original.cost().macs.true
    for name, model in {"original": original, **models}.items():
        found = first if model is original else frames.measure(model, name, observer)
        row, cost = found.row(None if model is original else first), model.cost()
        yield {
            "data": data,
            "name": name,
            "frames": len(frames),
            "tokens": cost.tokens[-1],
            "macs_share": cost.macs.true / macs,
            "times_fewer": macs / cost.macs.true,
            **{key: row.get(key) for key in KEYS},
        }


def main(
    artefacts: Annotated[list[Path], typer.Argument(help="Folders that `fasthmr compress` wrote.")],
    out: Annotated[Path, typer.Option(help="The .json file to write.")],
    model: Annotated[str, typer.Option(help="What they were made from.")] = "reference",
    data: Annotated[
        list[str] | None, typer.Option(help=f"Frames that report; without any: {', '.join(COUNTS)}.")
    ] = None,
    frames: Annotated[int | None, typer.Option(min=2, help="At most so many of each.")] = None,
) -> None:
    """Measure them all."""
    original, models = hmr.load(model), {path.name: hmr.load(str(path)) for path in artefacts}
    with progress_bar() as bar:
        observer = progress_callback(bar)
        found = [
            row for name in data or COUNTS for row in rows(original, models, name, frames or COUNTS[name], observer)
        ]
    source = provenance("frontier", original, next(original.parameters()).device)
    atomic_write(out, json.dumps({"rows": found, "provenance": source}, indent=1, allow_nan=False).encode())
    for row in found:
        rise = "-" if row["mpjpe_rise_mm"] is None else formatted(row["mpjpe_rise_mm"], "+.1f")
        typer.echo(f"{row['data']:18} {row['name']:20} {row['macs_share']:.1%} {formatted(row['mpjpe_mm'])} {rise}")


if __name__ == "__main__":
    ended(lambda: typer.run(main))
