"""`python -m experiments.search.replay.recovered`: are recipes ranked as they are once they are recovered?

Some recipes of the replay's table, of like MACs and from the least error to the largest, each with some steps of
recovery: over them, ranks of what a ranking takes them to move an output by, and of their errors before, are held
against ranks of their errors after.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from scipy.stats import spearmanr

from compress.atomic import append_line, atomic_write
from compress.context import Observer
from compress.policies.recover import Recover
from experiments.cli.main import ended
from experiments.cli.output import progress_bar, progress_callback
from experiments.search.blocks import BlockSpace
from experiments.search.lab import Lab
from experiments.search.replay.searches import SHIPPED
from experiments.search.replay.table import MeasuredRecipe, lines_of, read
from experiments.search.study import read_study
from hmr.home import fasthmr_home

BAND = (0.3, 0.5)  # of the MACs, from which recipes are taken


@dataclass(frozen=True)
class RecoveredRecipe:
    """A recipe of the table, by what it is taken to move an output by, and its error before and after recovery."""

    recipe_id: str
    kind: str
    macs_share: float
    moved_mm2: float
    before_mm: float
    after_mm: float


def spread(rows: Sequence[MeasuredRecipe], count: int) -> list[MeasuredRecipe]:
    """So many rows, evenly from the least error to the largest."""
    ranked = sorted(rows, key=lambda row: row.mpjpe_mm)
    return [ranked[i] for i in sorted({round(i) for i in np.linspace(0, len(ranked) - 1, count)})]


def ranks(rows: Sequence[RecoveredRecipe]) -> dict[str, float]:
    """Spearman's correlations of each two of: moved, before, after."""
    columns = {
        name: [getattr(row, field) for row in rows]
        for name, field in (("moved", "moved_mm2"), ("before", "before_mm"), ("after", "after_mm"))
    }
    return {
        f"{one}_{other}": float(spearmanr(columns[one], columns[other])[0]) for one, other in combinations(columns, 2)
    }


def recovered(
    lab: Lab, rows: Sequence[MeasuredRecipe], steps: int, file: Path, observer: Observer
) -> list[RecoveredRecipe]:
    """The rows after so many steps of recovery, each once measured, in a file that a killed run goes on from."""
    space = lab.space
    assert isinstance(space, BlockSpace)
    known = {line["recipe_id"]: RecoveredRecipe(**line) for line in lines_of(file)}
    for i, row in enumerate(rows):
        observer("recovering recipes", row.kind, i, len(rows))
        if row.recipe_id in known:
            continue
        model, _ = lab.made([*space.recipe(row.places).steps, Recover(steps=steps)])
        after = lab.frames("val").measure(model).row()["mpjpe_mm"]["mean"]
        moved = space.measures.moved(space.given(row.places))
        share = row.macs / space.measures.total
        known[row.recipe_id] = RecoveredRecipe(row.recipe_id, row.kind, share, moved, row.mpjpe_mm, after)
        append_line(file, json.dumps(asdict(known[row.recipe_id])))
        lab.context.forget("recover")
    return [known[row.recipe_id] for row in rows]


def main(
    out: Annotated[Path, typer.Option(help="The .json file to write.")],
    study: Annotated[str, typer.Argument(help="The .yaml file whose table was measured.")] = SHIPPED,
    count: Annotated[int, typer.Option(min=3, help="Recipes to recover.")] = 16,
    steps: Annotated[int, typer.Option(min=1, help="Steps of recovery.")] = 40,
) -> None:
    """Recover some recipes of the table, and correlate."""
    spec = read_study(study)
    lab, folder = Lab(spec), fasthmr_home() / "replays"
    with progress_bar() as bar:
        whole = lab.measure(spec.recipe)
        rows = [row for row in read(folder / f"{spec.name}.jsonl") if BAND[0] <= row.macs / whole.macs.true <= BAND[1]]
        found = recovered(
            lab, spread(rows, count), steps, folder / f"{spec.name}-{steps}.jsonl", progress_callback(bar)
        )
    stored: dict[str, Any] = {
        "rows": [asdict(row) for row in found],
        "correlation": ranks(found),
        "steps": steps,
        "original_mm": whole.mpjpe_mm.mean,
        "provenance": whole.provenance,
    }
    atomic_write(out, (json.dumps(stored, indent=1) + "\n").encode())
    for name, value in stored["correlation"].items():
        typer.echo(f"{name}: {value:.2f}")


if __name__ == "__main__":
    ended(lambda: typer.run(main))
