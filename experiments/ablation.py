"""Tables that compare ways to compress one model on the same frames, as the paper's tables do.

A table is data: rows with the steps of a recipe each. What rows share (frames, activations of a search's trials, the
original's errors) is made once.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from rich.table import Table as Shown

from compress.merge_layers import MergeLayers
from compress.policy import Plan, Policy
from compress.recover import Recover
from experiments.datasets import DataSpec, body_of, open_data
from experiments.evaluate import paired_rise
from experiments.models import Resolved, resolve_model
from experiments.provenance import dataset, provenance
from experiments.recipe import Recipe, Step
from experiments.recover import DATA, Recovery
from experiments.run import Held, Measured, Tell, applied, held, interval, journal_of, measured, planned, refuse, row
from hmr.body import BodyModel
from hmr.judge import JointJudge
from hmr.mask_errors import with_masks
from hmr.model import HMRModel


@dataclass(frozen=True)
class Row:
    """One way to compress: steps as in a recipe, on masks of a kind of `hmr.mask_errors.MASKS`.

    `as_deep_as` names an earlier row whose number of layers a search of this row has to come down to. `model` is
    another model to measure as it is, in the place of the table's own.
    """

    name: str
    steps: tuple[Step, ...] = ()
    masks: str = "exact"
    as_deep_as: str | None = None
    model: str | None = None


@dataclass(frozen=True)
class Table:
    """A question and the rows that answer it."""

    name: str
    title: str
    question: str
    rows: tuple[Row, ...]


class Bench:
    """A model, the frames that decide and those that report, drawn once for all rows."""

    def __init__(self, model: Resolved, spec: DataSpec, frames: int | None, calib_frames: int | None, tell: Tell):
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.resolved, self.model, self.tell = model, model.model.to(device), tell
        opened = open_data(spec, frames, model=self.model)
        self.body: BodyModel = body_of(opened, self.model).to(device)
        decide = DataSpec(spec.name, "calib", spec.root)
        self.test = held(opened, f"{spec.name}:{spec.split}", tell)
        self.calib = held(open_data(decide, calib_frames, model=self.model), f"{decide.name}:{decide.split}", tell)
        self.judge = JointJudge(self.model, self.calib.samples, self.body)
        self.original = measured(self.model, self.test, self.body, "original", tell)
        self.recovery = Recovery(self.model, self.body)
        self.depths: dict[str, int] = {}
        self.latest: tuple[tuple[Step, ...], HMRModel, list[Plan]] = ((), self.model, [])

    def measure(self, way: Row) -> dict[str, Any]:
        """The figures of one row."""
        model, plans = self.made(way)
        self.depths.setdefault(way.name, len(model.stack.blocks))
        seen = Held(with_masks(self.test.samples, way.masks), self.test.fps, self.test.clip_names)
        return self.told(way, model, measured(model, seen, self.body, way.name, self.tell), plans)

    def made(self, way: Row) -> tuple[HMRModel, list[Plan]]:
        """A row's model; that of the row before, where the two differ in masks alone."""
        if way.model is not None:
            return resolve_model(way.model).model.to(next(self.model.parameters()).device), []
        steps = self.steps(way)
        if steps != self.latest[0]:
            model, plans = copy.deepcopy(self.model), []
            for step in steps:
                chosen = planned(step, model, self.judge, self.journal(step), self.tell)
                plans.append(applied(chosen, model, self.recovery, self.tell))
            self.latest = steps, model, plans
        return self.latest[1:]

    def journal(self, step: Policy) -> Path | None:
        """Where a search finds the trials of the rows before it."""
        if isinstance(step, MergeLayers) and step.strategy != "explicit":
            return journal_of(self.resolved, step.operator, self.body, self.calib)
        return None

    def steps(self, way: Row) -> tuple[Step, ...]:
        """A row's steps, its search told how deep to go."""
        if way.as_deep_as is None:
            return way.steps
        layers = self.depths[way.as_deep_as]
        return tuple(s.model_copy(update={"layers": layers}) if isinstance(s, MergeLayers) else s for s in way.steps)

    def told(self, way: Row, model: HMRModel, now: Measured, plans: list[Plan]) -> dict[str, Any]:
        found = row(way.name, plans[-1] if plans else None, model, now, self.original, self.test)
        rise = paired_rise(now.errors, self.original.errors, self.test.clip_names)
        kept = {key: value for key, value in found.items() if key not in ("step", "changed", "measured")}
        recipe = Recipe(schema_version=1, name="row", steps=self.steps(way))
        return {
            "name": way.name,
            "masks": way.masks,
            "model": way.model or self.resolved.name,
            "recipe_id": recipe.id,
            "plans": [plan.decided() for plan in plans],
            **kept,
            "mpjpe_rise_mm": rise["mpjpe_mm"],
        }


def with_recovery(rows: Sequence[Row], minutes: float) -> list[Row]:
    """`rows` and, after those of the same steps, the same once more with label-free recovery at the end."""
    step = Recover(minutes=minutes, precision="bfloat16")
    found: list[Row] = []
    for _, group in groupby(rows, key=lambda way: (way.steps, way.as_deep_as)):
        alike = list(group)
        found += alike
        found += [replace(w, name=f"{w.name}, recovered", steps=(*w.steps, step)) for w in alike if w.steps]
    return found


def ablate(
    table: Table,
    model: Resolved,
    spec: DataSpec,
    frames: int | None = None,
    calib_frames: int | None = None,
    tell: Tell = lambda what, word, done, total: None,
    recover_minutes: float | None = None,
) -> dict[str, Any]:
    """Measure every row of `table` on `spec`, decided on its calibration split.

    `frames` and `calib_frames` make them smaller; with `recover_minutes`, every row is there with recovery too. A run
    that was killed goes on where it stopped: searches and recoveries stand in $FASTHMR_HOME until the table is whole.
    Raises BadInput where a row's steps cannot be done with this model, before anything is measured.
    """
    ways = list(table.rows) if recover_minutes is None else with_recovery(table.rows, recover_minutes)
    for way in ways:
        refuse(Recipe(schema_version=1, name=table.name, steps=way.steps), model, spec)
    bench = Bench(model, spec, frames, calib_frames, tell)
    rows = [bench.measure(way) for way in (Row("original"), *ways)]
    source = provenance("paper", model, bench.body, spec, bench.test, next(bench.model.parameters()).device)
    source["calib"] = dataset(DataSpec(spec.name, "calib", spec.root), bench.calib)
    source["recover"] = dataset(DATA, bench.recovery.crops.data) if recover_minutes else None
    bench.recovery.forget()
    return {"table": table.name, "title": table.title, "question": table.question, "rows": rows, "provenance": source}


def shown(result: dict[str, Any]) -> Shown:
    """The rows of a table, for people."""
    source = result["provenance"]
    data, calib = source["data"], source["calib"]
    found = Shown(
        title=f"{result['title']}: {source['model']['name']} on {data['name']}:{data['split']}",
        caption=f"{result['question']}\n{data['frames']} frames of {data['clips']} recordings, 95 % bootstrap "
        f"intervals over them; decided on {calib['frames']} frames of {calib['name']}:{calib['split']}; commit "
        f"{source['commit'][:12]}",
    )
    found.add_column("row")
    for heading in ("masks", "layers", "tokens", "GMACs", "frames/s", "MPJPE mm", "rise mm", "person merged"):
        found.add_column(heading, justify="right")
    base = result["rows"][0]["macs"]["true"]
    for r in result["rows"]:
        share = r["protected_merged_share"]
        found.add_row(
            r["name"],
            r["masks"],
            str(r["layers"]),
            str(r["tokens"][-1] if r["tokens"] else "-"),
            f"{r['macs']['true'] / 1e9:.3f} ({r['macs']['true'] / base:.0%})",
            f"{r['frames_per_s']:.1f}",
            interval(r["mpjpe_mm"]).replace("[", "\\["),
            interval(r["mpjpe_rise_mm"]).replace("[", "\\["),
            "-" if share is None else f"{share:.1%}",
        )
    return found
