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
KEYS = ("mpjpe_mm", "pa_mpjpe_mm", "mpjpe_rise_mm", "frames_per_s", "person_merged")
Row = dict[str, Any]


def every_row(original: Any, models: dict[str, Any], counts: dict[str, int], observer: Observer) -> list[Row]:
    """A row of the original and one of each model: its cost, and KEYS behind the name of each set, at most so many
    frames, and of each kind of mask. Rises are paired with the original's."""
    every = {"original": original, **models}
    found = {name: cost_of(model, original) for name, model in every.items()}
    for of, frames in sets(original, counts, observer):
        first = frames.measure(original, "original", observer)
        for name, model in every.items():
            plain = model is original
            row = (first if plain else frames.measure(model, name, observer)).row(None if plain else first)
            found[name] |= {f"{of}_frames": len(frames), **{f"{of}_{key}": row.get(key) for key in KEYS}}
    return [{"name": name, **row} for name, row in found.items()]


def sets(original: Any, counts: dict[str, int], observer: Observer) -> Iterator[tuple[str, Frames]]:
    """What errors are measured on, each by its name in keys."""
    for data, count in counts.items():
        yield data.partition(":")[0], hmr.frames(data, count, model=original).drawn(observer)
    data, count = next(iter(counts.items()))
    seen = hmr.frames(data, min(count, WRONG), model=original).drawn(observer)
    for kind in MASKS:
        yield kind.replace(" ", "_"), with_masks(seen, kind)


def cost_of(model: Any, original: Any) -> Row:
    """What a model takes, beside the original."""
    cost, macs = model.cost(), original.cost().macs.true
    return {
        "layers": cost.layers,
        "tokens": cost.tokens,
        "params": cost.params,
        "macs_share": cost.macs.true / macs,
        "times_fewer": macs / cost.macs.true,
    }


def main(
    artefacts: Annotated[list[Path], typer.Argument(help="Folders that `fasthmr compress` wrote.")],
    out: Annotated[Path, typer.Option(help="The .json file to write.")],
    model: Annotated[str, typer.Option(help="What they were made from.")] = "reference",
    data: Annotated[list[str] | None, typer.Option(help=f"Frames that report; without: {', '.join(COUNTS)}.")] = None,
    frames: Annotated[int | None, typer.Option(min=2, help="At most so many of each.")] = None,
) -> None:
    """Measure them all."""
    original, models = hmr.load(model), {path.name: hmr.load(str(path)) for path in artefacts}
    counts = {name: frames or COUNTS.get(name, WRONG) for name in data or COUNTS}
    with progress_bar() as bar:
        rows = every_row(original, models, counts, progress_callback(bar))
    source = provenance("frontier", original, next(original.parameters()).device)
    atomic_write(out, json.dumps({"rows": rows, "provenance": source}, indent=1, allow_nan=False).encode())
    for row in rows:
        for name in (data.partition(":")[0] for data in counts):
            rise = row[f"{name}_mpjpe_rise_mm"]
            over = "" if rise is None else formatted(rise, "+.1f")
            typer.echo(
                f"{row['name']:16} {row['macs_share']:6.1%} {name:12} {formatted(row[f'{name}_mpjpe_mm'])} {over}"
            )


if __name__ == "__main__":
    ended(lambda: typer.run(main))
