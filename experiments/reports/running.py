"""`python -m experiments.reports.running ORIGINAL COMPRESSED`: two runs of one video, stage by stage and as pictures.

Both are folders of `fasthmr run`, with --overlay for the strip, which has their bodies over the same frames, one row
for each. The record is what tables of docs/ are filled from.
"""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image

from compress.atomic import atomic_write
from compress.errors import BadInput
from experiments.cli.main import ended
from experiments.reports.chain import small
from experiments.reports.pictures import Picture, spread
from hmr.video.frames import Film
from hmr.video.stages import NAMES, NETWORK

WIDE = 420  # pixels of a picture in the strip


def read(run: Path) -> dict[str, Any]:
    """What `run.json` of a finished run holds. Raises BadInput where it is none."""
    try:
        found: dict[str, Any] = json.loads((run / "run.json").read_bytes())
        return {**found, "by_name": {stage["name"]: stage for stage in found["stages"]}}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{run}: not the folder of a finished run ({error})") from error


def record(original: dict[str, Any], compressed: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds a frame of each stage that either has, and of all, and how many times as fast the second is.

    Raises BadInput for two runs of different frames.
    """
    runs = {"original": original, "compressed": compressed}
    counts = {name: (run["frames"], run["provenance"]["data"]["name"]) for name, run in runs.items()}
    if counts["original"] != counts["compressed"]:
        raise BadInput(f"these are no runs of the same frames: {counts}")
    rows = [row(name, {run: seconds(runs[run], (name,)) for run in runs}, original["frames"]) for name in NAMES]
    network = {run: seconds(runs[run], NETWORK) for run in runs}
    whole = {run: runs[run]["frames"] / runs[run]["frames_per_s"]["end_to_end"] for run in runs}
    rows = [each for each in rows if each["original_ms"] or each["compressed_ms"]]
    rows += [row("network", network, original["frames"]), row("end to end", whole, original["frames"])]
    return {"rows": rows, "provenance": {name: run["provenance"] for name, run in runs.items()}}


def seconds(run: dict[str, Any], names: tuple[str, ...]) -> float:
    """Of some stages of a run."""
    return sum(run["by_name"][name]["s"] for name in names if name in run["by_name"])


def row(name: str, took: dict[str, float], frames: int) -> dict[str, Any]:
    """One stage."""
    one, other = took["original"], took["compressed"]
    ratio = one / other if one and other else None
    return {"name": name, "original_ms": 1e3 * one / frames, "compressed_ms": 1e3 * other / frames, "times": ratio}


def strip(runs: list[Path], columns: int) -> Picture:
    """The same frames of each run's overlay, a row for each run. Raises BadInput where a run has none."""
    rows = []
    for run in runs:
        film = Film(run / "overlay.mp4")
        if not film.path.is_file():
            raise BadInput(f"{run}: no overlay.mp4: run again with --overlay")
        wanted = set(spread(sum(1 for _ in film.shots()), columns + 2)[1:-1])
        rows.append(np.concatenate([smaller(shot.image) for shot in film.shots() if shot.number in wanted], 1))
    return np.concatenate(rows)


def smaller(image: Picture) -> Picture:
    """A frame (H, W, 3) WIDE pixels wide."""
    height = round(len(image) * WIDE / image.shape[1])
    return np.asarray(Image.fromarray(image).resize((WIDE, height), Image.Resampling.LANCZOS))


def main(
    original: Annotated[Path, typer.Argument(help="A folder of `fasthmr run` by the original model.")],
    compressed: Annotated[Path, typer.Argument(help="One of the same video, by the compressed model.")],
    out: Annotated[Path | None, typer.Option(help="The PNG to write, of runs with --overlay.")] = None,
    table: Annotated[Path | None, typer.Option(help="The JSON of times to write.")] = None,
    columns: Annotated[int, typer.Option(min=1, help="Frames of the strip.")] = 4,
) -> None:
    """Show two runs of one video: a strip of their overlays, and how long each stage took."""
    found = record(read(original), read(compressed))
    if out:
        stream = BytesIO()
        Image.fromarray(strip([original, compressed], columns)).save(stream, "png")
        atomic_write(out, small(stream.getvalue()))
    if table:
        atomic_write(table, json.dumps(found, indent=1).encode())
    for one in found["rows"]:
        typer.echo(f"{one['name']:22}{one['original_ms']:9.1f}{one['compressed_ms']:9.1f} ms a frame")


if __name__ == "__main__":
    ended(lambda: typer.run(main))
