"""What recovery gives back, by minutes, and to whom: `python -m experiments.paper.equal_macs.recovery`.

For each share of the multiply-accumulates (MACs) a recipe of the ranking, and at one share recipes by hand, learn from
the original for as many steps; on the way there are looks at their errors on `val`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import hmr
from compress.atomic import append_line, atomic_write
from compress.card import formatted
from compress.context import Context, Observer
from compress.distillation.training import distil
from compress.pipeline import result_provenance, run_all_steps
from compress.policies.prune_width import PruneWidth
from compress.policies.recover import Recover
from compress.ranking.budget import MACBudget, Steps, recipe_for
from compress.recipe import Recipe
from compress.training.loop import Progress
from experiments.cli.main import ended
from experiments.cli.output import progress_bar, progress_callback
from experiments.paper.equal_macs.shares import RANKING, by_hand, dearest_within
from hmr.data.dataset import Frames
from hmr.evaluation.measure import Measurement
from hmr.home import fasthmr_home

SHARES = (0.5, 0.4, 0.3, 0.2)  # 50, 60, 70 and 80 % fewer
BESIDE = 0.4  # the share of the recipes by hand
LOOKS = (0.0, 1 / 6, 1 / 3, 2 / 3, 1.0)  # of the steps
WIDTHS: list[Steps] = [(PruneWidth(mlp_ratio=n / 16, head_ratio=n / 16, refit=True),) for n in range(16)]
Row = dict[str, Any]


def ways(model: Any, context: Context, protect: bool) -> Iterator[tuple[str, float, Steps]]:
    """Names, shares and steps of what recovers."""
    for share in SHARES:
        yield RANKING, share, recipe_for(model, MACBudget(share), context, protect).steps
    families = by_hand(model.cost().layers, model.grid[0] * model.grid[1])
    for name, family in [*families.items(), ("width alone, refitted", WIDTHS)]:
        steps = dearest_within(model, family, BESIDE * model.cost().macs.true)
        if steps is not None:
            yield name, BESIDE, steps


class Recovery:
    """A recipe that learns, and looks at it, each a line of a file that a killed run goes on from."""

    def __init__(self, context: Context, val: Frames, original: Measurement, steps: int, file: Path) -> None:
        self.context, self.val, self.original, self.steps, self.file = context, val, original, steps, file
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        self.seen: dict[tuple[str, int], Row] = {(line["recipe"], line["step"]): line for line in lines}
        self.looks = {round(part * steps) for part in LOOKS}

    def curve(self, recipe: Recipe) -> tuple[Row, list[Row]]:
        """What the model of a recipe takes, and its looks: step, minutes of one core, and errors."""
        model = run_all_steps(self.context.original, recipe.steps, context := self.context.fresh())
        macs = model.cost().macs.true
        cost = {
            "macs_share": macs / context.original.cost().macs.true,
            "tokens": model.cost().tokens,
            "layers": model.cost().layers,
        }
        before = max((row["minutes"] for (made, _), row in self.seen.items() if made == recipe.id), default=0.0)
        looking, began = 0.0, time.process_time() - 60 * before

        def look(now: Progress) -> None:
            nonlocal looking
            if now.step in self.looks and (recipe.id, now.step) not in self.seen:
                minutes, start = (time.process_time() - began - looking) / 60, time.process_time()
                self.add(recipe, now.step, minutes, model)
                looking += time.process_time() - start

        look(Progress())
        if (recipe.id, self.steps) not in self.seen:
            plan = Recover(steps=self.steps).plan(model, context)
            with context.place("recover", "curve", recipe.id, self.steps) as folder:
                distil(plan, model, context.original, context.pictures, folder, seed=context.seed, observe=look)
            context.forget("recover")
        return cost, [self.seen[recipe.id, step] for step in sorted(self.looks)]

    def add(self, recipe: Recipe, step: int, minutes: float, model: Any) -> None:
        with torch.no_grad():
            found = self.val.measure(model).row(self.original)
        kept = {key: found[key] for key in ("mpjpe_mm", "pa_mpjpe_mm", "mpjpe_rise_mm")}
        self.seen[recipe.id, step] = {"recipe": recipe.id, "step": step, "minutes": minutes, **kept}
        append_line(self.file, json.dumps(self.seen[recipe.id, step]))


def table(model: Any, frames: int, calib_frames: int, steps: int, observer: Observer) -> Row:
    """Every way's curve."""
    calib, val = (
        hmr.frames(f"synth:{split}", count, model=model).drawn(observer)
        for split, count in (("calib", calib_frames), ("val", frames))
    )
    context = Context(model, calib, observer)
    file = fasthmr_home() / "recovery" / f"{frames}-{calib_frames}-{steps}.jsonl"
    recovery = Recovery(context, val, val.measure(model, "original", observer), steps, file)
    rows = []
    for name, share, made in ways(model, context, calib.has_masks):
        observer(f"{name}, {share:g}", "", 0, 1)
        recipe = Recipe(schema_version=1, name="recovery", steps=made)
        cost, looks = recovery.curve(recipe)
        rows += [{"name": name, "share": share, **cost, **look} for look in looks]
    return {"rows": rows, "steps": steps, "provenance": result_provenance(context, val), "calib": calib.described()}


def main(
    out: Annotated[Path, typer.Option(help="The .json file to write.")],
    model: Annotated[str, typer.Option(help="The original.")] = "reference",
    frames: Annotated[int, typer.Option(min=2, help="Of synth:val, that errors are measured on.")] = 110,
    calib_frames: Annotated[int, typer.Option(min=2, help="Of synth:calib, that choices are made on.")] = 64,
    steps: Annotated[int, typer.Option(min=6, help="Of each recovery.")] = 150,
) -> None:
    """Recover them all."""
    with progress_bar() as bar:
        found = table(hmr.load(model), frames, calib_frames, steps, progress_callback(bar))
    atomic_write(out, (json.dumps(found, indent=1, allow_nan=False) + "\n").encode())
    for row in found["rows"]:
        rise = formatted(row["mpjpe_rise_mm"], "+.1f")
        typer.echo(f"{row['name']:28} {row['macs_share']:6.1%} step {row['step']:4} {row['minutes']:5.1f} min {rise}")


if __name__ == "__main__":
    ended(lambda: typer.run(main))
