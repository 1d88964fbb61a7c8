"""`python -m experiments.paper.curves FOLDER...`: how the loss held out and the error went in trainings of decoders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from matplotlib.figure import Figure

from compress.atomic import atomic_write
from compress.errors import BadInput
from compress.provenance import provenance
from experiments.cli.main import ended
from experiments.reports import plots

CPU = torch.device("cpu")
LOOK = ("step", "loss", "mpjpe_mm", "train_loss")


def curve(folder: Path) -> dict[str, Any]:
    """What a training's curve.jsonl tells: each look, and the step whose weights the training gave. Raises BadInput
    where there is none."""
    file = folder / "curve.jsonl"
    if not file.exists():
        raise BadInput(f"{file}: no such file; name folders that `fasthmr train decoder` wrote")
    lines = {
        line["step"]: line for line in map(json.loads, file.read_text().splitlines())
    }  # a resumed run repeats some
    looks = [lines[step] for step in sorted(lines)]
    best = min(looks, key=lambda look: (look["loss"], look["step"]))
    training = json.loads((folder / "training.json").read_bytes())
    return {
        "name": folder.name,
        "asked_steps": training["steps"],
        "steps": looks[-1]["step"],
        "chosen": best["step"],
        "first_mm": looks[0]["mpjpe_mm"],
        "chosen_mm": best["mpjpe_mm"],
        "last_mm": looks[-1]["mpjpe_mm"],
        "curve": [{key: look[key] for key in LOOK if key in look} for look in looks],
    }


def drawn(rows: list[dict[str, Any]]) -> Figure:
    """The error on val against steps, and where the loss held out was least."""
    figure, axes = plots.framed(plots.WIDE, 3.2)
    for row, colour in zip(rows, (plots.BLUE, plots.ORANGE, plots.GREEN, plots.PURPLE), strict=False):
        steps = [look["step"] for look in row["curve"]]
        axes.plot(steps, [look["mpjpe_mm"] for look in row["curve"]], color=colour, label=row["name"])
        axes.plot(row["chosen"], row["chosen_mm"], "o", color=colour)
    axes.set(xlabel="steps", ylabel="MPJPE on val in mm")
    axes.legend(loc="upper left", frameon=False)
    plots.bare(axes)
    return figure


def main(
    folders: Annotated[list[Path], typer.Argument(help="Folders of trainings.")],
    out: Annotated[Path, typer.Option(help="The .json file to write; a picture lies beside it.")],
) -> None:
    """Read the curves of trainings."""
    rows = [curve(folder) for folder in folders]
    atomic_write(
        out, (json.dumps({"rows": rows, "provenance": provenance("curves", None, CPU)}, indent=1) + "\n").encode()
    )
    atomic_write(out.with_suffix(".png"), plots.png(drawn(rows)))
    for row in rows:
        typer.echo(f"{row['name']}: ended at step {row['steps']}, gave step {row['chosen']}, {row['chosen_mm']:.1f} mm")


if __name__ == "__main__":
    ended(lambda: typer.run(main))
