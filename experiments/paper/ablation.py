"""Tables that compare ways to compress one model on the same frames, as the paper's tables do.

A table is data: rows with the steps of a recipe each. What rows share (frames, activations of a search's trials, the
original's errors, rows of other tables) is made once.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

import torch

from compress.errors import BadInput
from compress.macs import Cost
from compress.policies.merge_layers import MergeLayers
from compress.policies.prune_width import PruneWidth
from compress.policies.recover import Recover
from compress.policy import Plan, Policy
from compress.recipe import Recipe, Step
from compress.timing import timed
from experiments.cost import frame_cost, shaped
from experiments.paper.finding import Finding, sentence
from experiments.paper.record import Figures, Trained, figures, read_record
from experiments.recover import Recovery
from experiments.run import ERRORS, Measured, Tell, applied, journal_of, measured, planned, refuse
from hmr.body.model import BodyModel
from hmr.data.dataset import DataSpec, Frames
from hmr.data.datasets import body_of, open_data
from hmr.data.mask_errors import with_masks
from hmr.data.sample import batch
from hmr.evaluation.evaluate import paired_rise
from hmr.evaluation.evaluate import row as errors_row
from hmr.evaluation.judge import JointJudge
from hmr.evaluation.provenance import commit, dataset, provenance
from hmr.load import Resolved, resolve_model
from hmr.models.model import HMRModel

TIMED, ROUNDS = 8, 5  # frames, and how often both models run them
USUAL = (
    *("layers", "tokens", "macs_true", "macs_share", "frames_per_s", "times_faster"),
    *("mpjpe_mm", "mpjpe_rise_mm", "protected_merged_share"),
)


@dataclass(frozen=True)
class Row:
    """One way to compress: steps as in a recipe, on masks of a kind of `hmr.data.mask_errors.MASKS`.

    `as_deep_as` names an earlier row whose number of layers a search of this row has to come down to. `model` is
    another model in the place of the table's own; an architecture without weights is counted and not measured. `paper`
    holds the paper's figures of this row.
    """

    name: str
    steps: tuple[Step, ...] = ()
    masks: str = "exact"
    as_deep_as: str | None = None
    model: str | None = None
    paper: Figures = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A question, the rows that answer it, and what is claimed of them.

    `trained` names rows that are read from a record; `look` measures something of the original model in the place of
    rows, for `columns` and for a figure. `paper_model` is whose figures the rows hold.
    """

    name: str
    title: str
    question: str
    finding: Finding
    rows: tuple[Row, ...] = ()
    columns: tuple[str, ...] = USUAL
    trained: Trained | None = None
    original: Row = Row("original")
    look: Callable[[Bench], dict[str, Any]] | None = None
    paper_model: str = "CameraHMR"


class Bench:
    """A model, the frames that decide and those that report, drawn once for all rows of all tables."""

    def __init__(
        self,
        model: Resolved,
        spec: DataSpec,
        frames: int | None = None,
        calib_frames: int | None = None,
        tell: Tell = lambda what, word, done, total: None,
        decide: DataSpec | None = None,
    ) -> None:
        refuse(Recipe(schema_version=1, name="original", steps=()), model, spec)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.resolved, self.model, self.spec, self.tell = model, model.model.to(self.device), spec, tell
        self.opened = open_data(spec, frames, model=self.model)
        self.body: BodyModel = body_of(self.opened, self.model).to(self.device)
        self.decide, self.calib_frames = decide or replace(spec, split="calib"), calib_frames
        self.depths: dict[str, int] = {}
        self.latest: tuple[tuple[Step, ...], HMRModel, list[Plan]] = ((), self.model, [])

    @cached_property
    def test(self) -> Frames:
        return self.opened.drawn(self.tell)

    @cached_property
    def calib(self) -> Frames:
        """Raises BadInput where there is nothing to decide on."""
        if self.decide.test_only:
            raise BadInput(
                f"{self.decide.name}@{self.decide.root} is a test set alone, and this table decides on other frames: "
                "name them, as --calib synth or --calib 3dpw@FOLDER"
            )
        return open_data(self.decide, self.calib_frames, model=self.model).drawn(self.tell)

    @cached_property
    def judge(self) -> JointJudge:
        return JointJudge(self.model, self.calib, body_of(self.calib, self.model).to(self.device))

    @cached_property
    def original(self) -> Measured:
        return measured(self.model, self.test, self.body, "original", self.tell)

    @cached_property
    def cost(self) -> Cost:
        """What the original costs."""
        return frame_cost(self.model, self.device)

    @cached_property
    def recovery(self) -> Recovery:
        return Recovery(self.model, self.body)

    @cached_property
    def known(self) -> Known:
        """Rows by what was done, of this code, these frames and this model."""
        return Known(journal_of(self.resolved, f"rows of {commit()}", self.body, self.test))

    def refuse(self, rows: Sequence[Row]) -> None:
        """Raise BadInput, before anything is measured, where a row cannot be done."""
        for way in rows:
            if way.model is None:
                refuse(Recipe(schema_version=1, name="row", steps=way.steps), self.resolved, self.spec)
            else:
                resolve_model(way.model, weightless=True)
        if any(decides(step) for way in rows for step in way.steps):
            _ = self.judge

    def measure(self, way: Row, model: HMRModel, plans: Sequence[Plan]) -> dict[str, Any]:
        """The figures of a row's model, taken from an earlier row where that came to the same one."""
        self.depths.setdefault(way.name, len(model.stack.blocks))
        recipe = Recipe(schema_version=1, name="row", steps=self.steps(way))
        done = [plan.decided() for plan in plans if not plan.empty]
        key = json.dumps([done, way.masks, way.model and [way.model, recipe.id]])
        if key not in self.known:
            self.known[key] = self.counted(model) | self.errors(way, model)
        return {
            "name": way.name,
            "masks": way.masks,
            "model": way.model or self.resolved.name,
            "recipe_id": recipe.id,
            "plans": [plan.decided() for plan in plans],
            **self.known[key],
            "paper": figures(way.paper, self.spec.name),
        }

    def made(self, way: Row) -> tuple[HMRModel, list[Plan]]:
        """A row's model; that of the row before, where the two differ in masks alone."""
        if way.model is not None:
            other = resolve_model(way.model, weightless=True).model
            shaped(other, way.steps)
            return other if meta(other) else other.to(self.device), []
        steps = self.steps(way)
        if steps != self.latest[0]:
            model, plans = copy.deepcopy(self.model), []
            for step in steps:
                chosen = planned(step, model, self.judge if decides(step) else None, self.journal(step), self.tell)
                plans.append(applied(chosen, model, self.recovery if isinstance(step, Recover) else None, self.tell))
            self.latest = steps, model, plans
        return self.latest[1:]

    def journal(self, step: Policy) -> Path | None:
        """Where a search finds the trials of the rows before it."""
        if isinstance(step, MergeLayers) and decides(step):
            return journal_of(self.resolved, step.operator, self.judge.body, self.calib)
        return None

    def steps(self, way: Row) -> tuple[Step, ...]:
        """A row's steps, its search told how deep to go."""
        if way.as_deep_as is None:
            return way.steps
        layers = self.depths[way.as_deep_as]
        return tuple(s.model_copy(update={"layers": layers}) if isinstance(s, MergeLayers) else s for s in way.steps)

    def counted(self, model: HMRModel) -> dict[str, Any]:
        """What a model costs a frame."""
        found = frame_cost(model, next(model.parameters()).device)
        return {
            "layers": found.layers,
            "tokens": list(found.tokens),
            "params": found.params,
            "params_thop": found.params_thop,
            "macs": asdict(found.macs),
            "macs_share": None if meta(model) else found.macs.true / self.cost.macs.true,
        }

    def errors(self, way: Row, model: HMRModel) -> dict[str, Any]:
        """How wrong and how fast a model is; of one without weights nobody knows."""
        if meta(model):
            return dict.fromkeys(("frames_per_s", "times_faster", *ERRORS, "mpjpe_rise_mm", "protected_merged_share"))
        seen = with_masks(self.test, way.masks)
        now = self.original if model is self.model else measured(model, seen, self.body, way.name, self.tell)
        found = errors_row(way.name, now.errors, self.test.recordings, self.test.fps is not None)
        person = now.person_merged
        return {
            "frames_per_s": now.frames_per_s,
            "times_faster": self.times_faster(model),
            **{key: found[key] for key in (*ERRORS, "per_clip")},
            "protected_merged_share": None if person is None else person.mean().item(),
            "protected_merged_frames": None if person is None else (person > 0).double().mean().item(),
            "mpjpe_rise_mm": paired_rise(now.errors, self.original.errors, self.test.recordings)["mpjpe_mm"],
        }

    def times_faster(self, model: HMRModel) -> float:
        """Time of the original over that of a model, side by side: frames/s of rows are minutes apart, and a machine
        does not stay as fast as it was."""
        given = batch([self.test[i] for i in range(min(TIMED, len(self.test)))], self.device).inputs
        calls = {name: partial(each, *given) for name, each in (("old", self.model), ("new", model))}
        seconds = timed(calls, ROUNDS, self.device)
        return median(seconds["old"]) / median(seconds["new"])

    def source(self) -> dict[str, Any]:
        """Where the figures of all rows come from."""
        drawn = {key: self.__dict__.get(key) for key in ("test", "calib", "recovery")}  # what rows had to make
        found = provenance("paper", self.resolved, self.body, drawn["test"], self.device)
        found["calib"] = drawn["calib"] and dataset(drawn["calib"])
        found["recover"] = drawn["recovery"] and dataset(drawn["recovery"].frames)
        return found

    def forget(self) -> None:
        """Remove what a run that is killed would have gone on from; searches stay, for other tables."""
        if "recovery" in self.__dict__:
            self.recovery.forget()
        if "known" in self.__dict__:
            self.known.path.unlink(missing_ok=True)


class Known(dict[str, dict[str, Any]]):
    """Rows that were measured, kept in a file of JSON lines; a line that a crash tore is not there."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        for line in path.read_text().splitlines() if path.is_file() else ():
            try:
                super().__setitem__(*json.loads(line))
            except ValueError:
                continue

    def __setitem__(self, key: str, row: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write("\n" + json.dumps([key, row]))  # begun on a new line, for the one before may be torn
        super().__setitem__(key, row)


def meta(model: HMRModel) -> bool:
    """Whether a model has no weights."""
    return next(model.parameters()).is_meta


def decides(step: Policy) -> bool:
    """Whether a step looks at frames before it says what to do."""
    return isinstance(step, PruneWidth) or (isinstance(step, MergeLayers) and step.strategy != "explicit")


def with_recovery(rows: Sequence[Row], minutes: float) -> list[Row]:
    """`rows` and, after those of the same steps, the same once more with label-free recovery at the end."""
    step = Recover(minutes=minutes, precision="bfloat16")
    found: list[Row] = []
    for _, group in groupby(rows, key=lambda way: (way.steps, way.as_deep_as)):
        alike = list(group)
        found += alike
        found += [
            replace(w, name=f"{w.name}, recovered", steps=(*w.steps, step), paper={})
            for w in alike
            if w.steps and w.model is None
        ]
    return found


def ablate(table: Table, bench: Bench, recover_minutes: float | None = None) -> dict[str, Any]:
    """Measure every row of `table`, and say what the table shows.

    With `recover_minutes`, every row is there with recovery too. A run that was killed goes on where it stopped:
    searches, recoveries and rows stand in $FASTHMR_HOME until `bench.forget()`. Raises BadInput, before anything is
    measured, where a row cannot be done with this model or on these frames, and where all rows had to be trained and
    nobody has.
    """
    trained = read_record(table.trained, bench.resolved.name) if table.trained else None
    if trained and trained["missing"] and not table.rows:
        raise BadInput(trained["missing"])
    ways = list(table.rows) if recover_minutes is None else with_recovery(table.rows, recover_minutes)
    bench.refuse(ways)
    looked = table.look(bench) if table.look else {}
    rows, impossible = measured_rows(bench, [table.original, *ways]) if ways else (looked.pop("rows", []), {})
    same = trained and trained["rows"] and trained["provenance"]["model"]["sha256"] == bench.resolved.sha256
    by_name = {row["name"]: row for row in reversed([*rows, *(trained["rows"] if trained and same else ())])}
    return {
        **named(table),
        "columns": list(table.columns),
        "paper_model": table.paper_model,
        "rows": rows,
        "impossible": impossible,
        **looked,
        "trained": trained,
        "holds": table.finding.holds(by_name),
        "sentence": sentence(table.finding, by_name),
        "provenance": bench.source(),
    }


def measured_rows(bench: Bench, ways: Sequence[Row]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The rows, and why others cannot be: a search may leave fewer layers than a later step needs."""
    rows, impossible = [], {}
    for way in ways:
        try:
            made = bench.made(way)
        except BadInput as error:
            impossible[way.name] = str(error)
            continue
        rows.append(bench.measure(way, *made))
    return rows, impossible


def named(table: Table) -> dict[str, str]:
    return {"table": table.name, "title": table.title, "question": table.question}
