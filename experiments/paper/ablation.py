"""Tables that compare ways to compress one model on the same frames, as the paper's tables do.

A table is data: rows with the steps of a recipe each. What rows share (frames, activations of a search's trials, the
original's errors, rows of other tables) is made once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

import hmr
from compress.atomic import append_line
from compress.context import Context, Observer, silent
from compress.cost.macs import Cost
from compress.errors import BadInput
from compress.pipeline import refuse_misfit, result_provenance, run_all_steps
from compress.policies.recover import Recover
from compress.policy import Plan, Policy
from compress.provenance import commit
from compress.recipe import Recipe
from compress.stack import transformer_blocks
from experiments.paper.finding import Finding, sentence
from hmr.data.dataset import Frames, refuse_choosing_split
from hmr.data.datasets import choosing, parse, with_split
from hmr.data.mask_errors import with_masks
from hmr.evaluation.errors import KEYS
from hmr.evaluation.measure import Measurement, body_for
from hmr.evaluation.predict import times_faster
from hmr.home import fasthmr_home
from hmr.models.device import best_device

Figures = Mapping[str, Mapping[str, float]]  # by data set ("any": of none), by key of a measured row, in its unit
USUAL = (
    *("layers", "tokens", "macs_true", "macs_share", "frames_per_s", "times_faster"),
    *("mpjpe_mm", "mpjpe_rise_mm", "protected_merged_share"),
)


@dataclass(frozen=True)
class TableRow:
    """One way to compress: steps as in a recipe, on masks of a kind of `hmr.data.mask_errors.MASKS`.

    `as_deep_as` names an earlier row whose number of layers a search of this row has to come down to. `model` is
    another model in the place of the table's own; an architecture without weights is counted and not measured. `paper`
    holds the paper's figures of this row.
    """

    name: str
    steps: tuple[Policy, ...] = ()
    masks: str = "exact"
    as_deep_as: str | None = None
    model: str | None = None
    paper: Figures = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A question, the rows that answer it, and what is claimed of them.

    `look` measures something of the original model in the place of rows, for `columns` and for a figure. `paper_model`
    is whose figures the rows hold.
    """

    name: str
    title: str
    question: str
    finding: Finding
    rows: tuple[TableRow, ...] = ()
    columns: tuple[str, ...] = USUAL
    original: TableRow = TableRow("original")
    look: Callable[[Comparison], dict[str, Any]] | None = None
    paper_model: str = "CameraHMR"


class Comparison:
    """A model, the frames that choices are made on and those that report, drawn once for all rows of all tables."""

    def __init__(
        self,
        model: Any,
        data: str,
        frames: int | None = None,
        calib_frames: int | None = None,
        observer: Observer = silent,
        calib: str | None = None,
        masks: str | None = None,
    ) -> None:
        self.model, self.observer = model.to(best_device()), observer
        refuse_choosing_split(parse(data, masks=masks))
        self.opened = hmr.frames(data, frames, model=self.model, masks=masks)
        refuse_misfit(self.model, (), None, self.opened)
        body_for(self.opened, self.model)  # a body file that is missing is reported before anything is measured
        self.calib_data = choosing(calib) if calib else with_split(data, "calib")
        self.calib_frames, self.masks = calib_frames, masks
        self.depths: dict[str, int] = {}
        self.latest: tuple[tuple[Policy, ...], Any, list[Plan]] = ((), self.model, [])
        self.recovered: dict[str, tuple[Any, Plan]] = {}  # by what was done before, and the recovery

    @cached_property
    def test(self) -> Frames:
        return self.opened.drawn(self.observer)

    @cached_property
    def calib(self) -> Frames:
        """Raises BadInput where there is nothing to choose on."""
        if parse(self.calib_data, masks=self.masks).test_only:
            raise BadInput(
                f"{self.calib_data} is a test set alone, and this table makes choices on other frames: name them, as "
                "--calib synth or --calib 3dpw@FOLDER"
            )
        calib = hmr.frames(self.calib_data, self.calib_frames, model=self.model, masks=self.masks)
        return calib.drawn(self.observer)

    @cached_property
    def context(self) -> Context:
        """What the steps of all rows share."""
        return Context(self.model, self.calib, self.observer)

    @cached_property
    def original(self) -> Measurement:
        return self.test.measure(self.model, "original", self.observer)

    @cached_property
    def cost(self) -> Cost:
        """What the original costs."""
        return self.model.cost()

    @cached_property
    def journal(self) -> Path:
        """JSON lines of the rows that this code measured of this model on these frames, by what was done."""
        facts = (commit(), self.model.sha256, self.test.content, torch.__version__)
        return fasthmr_home() / "tables" / f"{hashlib.sha256(repr(facts).encode()).hexdigest()[:32]}.jsonl"

    @cached_property
    def known(self) -> dict[str, dict[str, Any]]:
        """Those rows; a line that a crash tore is not there."""
        rows = {}
        for line in self.journal.read_text().splitlines() if self.journal.is_file() else ():
            with suppress(ValueError):
                key, rows[key] = json.loads(line)
        return rows

    def remember(self, key: str, row: dict[str, Any]) -> None:
        append_line(self.journal, json.dumps([key, row]))
        self.known[key] = row

    def refuse(self, rows: Sequence[TableRow]) -> None:
        """Raise BadInput, before anything is measured, where a row cannot be done."""
        for row in rows:
            if row.model is not None:
                hmr.load(row.model, weightless=True)
                continue
            needs_calib = any(step.needs_calib for step in row.steps)
            refuse_misfit(self.model, row.steps, self.calib if needs_calib else None, self.opened)

    def measure(self, row: TableRow, model: Any, plans: Sequence[Plan]) -> dict[str, Any]:
        """The figures of a row's model, taken from an earlier row where that came to the same one."""
        self.depths.setdefault(row.name, len(transformer_blocks(model.stack)))
        recipe = Recipe(schema_version=1, name="row", steps=self.steps(row))
        done = [plan.decided() for plan in plans if not plan.empty]
        key = json.dumps([done, row.masks, row.model and [row.model, recipe.id]])
        if key not in self.known:
            self.remember(key, self.counted(model) | self.errors(row, model))
        return {
            "name": row.name,
            "masks": row.masks,
            "model": row.model or self.model.name,
            "recipe_id": recipe.id,
            "plans": [plan.decided() for plan in plans],
            **self.known[key],
            "paper": {**row.paper.get("any", {}), **row.paper.get(self.opened.spec.name, {})},
        }

    def made(self, row: TableRow) -> tuple[Any, list[Plan]]:
        """A row's model; that of the row before, where the two differ in masks alone."""
        if row.model is not None:
            other = hmr.load(row.model, weightless=True)
            other = run_all_steps(other, row.steps, Context(other))
            return other if other.is_meta else other.to(best_device()), []
        steps = self.steps(row)
        if steps != self.latest[0]:
            needs_frames = any(step.needs_calib or step.policy == "recover" for step in steps)
            context = self.context.fresh() if needs_frames else Context(self.model)
            self.latest = steps, self.applied(steps, context), context.plans
        return self.latest[1:]

    def applied(self, steps: Sequence[Policy], context: Context) -> Any:
        """The model after all steps. Rows whose searches come to the same model are recovered once."""
        if not steps or steps[-1].policy != "recover":
            return run_all_steps(self.model, steps, context)
        model = run_all_steps(self.model, steps[:-1], context)
        key = repr(([plan.decided() for plan in context.plans if not plan.empty], steps[-1]))
        if key in self.recovered:
            recovered, plan = self.recovered[key]
            context.plans.append(plan)
            return recovered
        model = run_all_steps(model, steps[-1:], context)
        self.recovered[key] = model, context.plans[-1]
        return model

    def steps(self, row: TableRow) -> tuple[Policy, ...]:
        """A row's steps, its layer search with the number of layers to leave."""
        if row.as_deep_as is None:
            return row.steps
        layers = {"layers": self.depths[row.as_deep_as]}
        return tuple(s.model_copy(update=layers) if s.policy == "merge_layers" else s for s in row.steps)

    def counted(self, model: Any) -> dict[str, Any]:
        """What a model costs a frame."""
        cost = asdict(model.cost())
        cost.pop("parts")
        share = None if model.is_meta else cost["macs"]["true"] / self.cost.macs.true
        return {**cost, "tokens": list(cost["tokens"]), "macs_share": share}

    def errors(self, row: TableRow, model: Any) -> dict[str, Any]:
        """How wrong and how fast a model is; unknown of one without weights."""
        if model.is_meta:
            return dict.fromkeys(("frames_per_s", "times_faster", *KEYS, "mpjpe_rise_mm", "protected_merged_share"))
        seen = with_masks(self.test, row.masks)
        now = self.original if model is self.model else seen.measure(model, row.name, self.observer)
        return {**now.row(self.original), "times_faster": times_faster(self.model, model, self.test)}

    def source(self) -> dict[str, Any]:
        """Where the figures of all rows come from."""
        context = vars(self).get("context", Context(self.model))
        return {**result_provenance(context, vars(self).get("test")), "schema": "fasthmr.paper/1"}

    def forget(self) -> None:
        """Remove what a run that is killed would have gone on from; searches stay, for other tables."""
        if "context" in vars(self):
            self.context.forget("recover")
        if "journal" in vars(self):
            self.journal.unlink(missing_ok=True)


def with_recovery(rows: Sequence[TableRow], minutes: float) -> list[TableRow]:
    """`rows` and, after those of the same steps, the same once more with label-free recovery at the end."""
    step = Recover(minutes=minutes, precision="bfloat16")
    every: list[TableRow] = []
    for _, group in groupby(rows, key=lambda row: (row.steps, row.as_deep_as)):
        alike = list(group)
        some = [row for row in alike if row.steps and row.model is None]
        every += alike
        every += [replace(r, name=f"{r.name}, recovered", steps=(*r.steps, step), paper={}) for r in some]
    return every


def ablate(table: Table, comparison: Comparison, recover_minutes: float | None = None) -> dict[str, Any]:
    """Measure every row of `table`, and summarise what the table shows.

    With `recover_minutes`, every row is there with recovery too. A run that was killed goes on where it stopped:
    searches, recoveries and rows stand in $FASTHMR_HOME until `Comparison.forget()`. Raises BadInput, before anything
    is measured, where a row cannot be done with this model or on these frames.
    """
    entries = list(table.rows) if recover_minutes is None else with_recovery(table.rows, recover_minutes)
    comparison.refuse(entries)
    looked = table.look(comparison) if table.look else {}
    rows, impossible = (
        measured_rows(comparison, [table.original, *entries]) if entries else (looked.pop("rows", []), {})
    )
    by_name = {row["name"]: row for row in rows}
    return {
        **named(table),
        "columns": list(table.columns),
        "paper_model": table.paper_model,
        "rows": rows,
        "impossible": impossible,
        **looked,
        "holds": table.finding.holds(by_name),
        "sentence": sentence(table.finding, by_name),
        "provenance": comparison.source(),
    }


def measured_rows(comparison: Comparison, entries: Sequence[TableRow]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The rows, and why others cannot be: a search may leave fewer layers than a later step needs."""
    rows, impossible = [], {}
    for entry in entries:
        try:
            made = comparison.made(entry)
        except BadInput as error:
            impossible[entry.name] = str(error)
            continue
        rows.append(comparison.measure(entry, *made))
    return rows, impossible


def named(table: Table) -> dict[str, str]:
    return {"table": table.name, "title": table.title, "question": table.question}
