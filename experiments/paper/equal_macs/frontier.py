"""How much artefacts err beside their original on every data set: `python -m experiments.paper.equal_macs.frontier`.

What it reports is each set's `test`, and the first of them again under masks as segmenters get them wrong; whatever the
artefacts were chosen and trained on stands in their own folders.
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
from hmr.data.dataset import Frames
from hmr.data.mask_errors import MASKS, with_masks

COUNTS = {"synth:test": 1000, "synth-shift:test": 330, "real:test": 200}  # frames of each
WRONG = 220  # of the first, whose masks are wrong
Row = dict[str, Any]
KEYS = ("frames_per_s", "mpjpe_mm", "pa_mpjpe_mm", "mpjpe_rise_mm", "person_merged")


def rows(original: Any, models: dict[str, Any], frames: Frames, data: str, observer: Observer) -> Iterator[Row]:
    """A row of the original and one of each model on `frames`; rises are paired."""
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


def every_row(original: Any, models: dict[str, Any], counts: dict[str, int], observer: Observer) -> Iterator[Row]:
    """Those of each data set, at most so many frames, and those of wrong masks."""
    for data, count in counts.items():
        frames = hmr.frames(data, count, model=original).drawn(observer)
        yield from rows(original, models, frames, data, observer)
    data, count = next(iter(counts.items()))
    seen = hmr.frames(data, min(count, WRONG), model=original).drawn(observer)
    for kind in MASKS:
        yield from rows(original, models, with_masks(seen, kind), f"{data}, masks {kind}", observer)


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
        counts = {name: frames or COUNTS.get(name, WRONG) for name in data or COUNTS}
        found = list(every_row(original, models, counts, progress_callback(bar)))
    source = provenance("frontier", original, next(original.parameters()).device)
    atomic_write(out, json.dumps({"rows": found, "provenance": source}, indent=1, allow_nan=False).encode())
    for row in found:
        rise = "-" if row["mpjpe_rise_mm"] is None else formatted(row["mpjpe_rise_mm"], "+.1f")
        typer.echo(f"{row['data']:18} {row['name']:20} {row['macs_share']:.1%} {formatted(row['mpjpe_mm'])} {rise}")


if __name__ == "__main__":
    ended(lambda: typer.run(main))
