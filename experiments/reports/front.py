"""The results of a study, or of compressed models: trials, other models beside them, and those that nothing beats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import optuna

from compress.card import formatted
from compress.errors import BadInput
from experiments.search.pareto import dominates, front, grown, reference_point
from experiments.search.storage import ASKED, default_storage, loaded
from experiments.search.study import Objective, Study, read_study
from experiments.search.trials import Record, Trial, front_of, later, of_artefact, read, trials_of


@dataclass(frozen=True)
class Results:
    """Everything that a report shows: trials, other models on the same frames, and the study that they come from."""

    title: str
    trials: list[Trial]
    rivals: dict[str, dict[str, Record]]  # name -> split -> record
    objectives: tuple[Objective, ...]
    spec: Study | None = None
    label_free: bool = False
    masks: str | None = None

    @property
    def front(self) -> list[Trial]:
        return front_of(self.trials, self.objectives)

    @property
    def original(self) -> Record:
        """The uncompressed model where it was measured, else the dearest."""
        every = [t.record for t in self.trials if t.record]
        return next((r for r in every if not r.recipe.steps), max(every, key=lambda r: r.macs.true))


def load_results(names: Sequence[str], storage: str | None = None) -> Results:
    """The results in STUDY_OR_FOLDERS. Raises BadInput where there are none, and where their figures cannot stand
    in one front, because they are of different data, splits, bodies or mask sources."""
    studies = [name for name in names if name.endswith(".yaml")]
    if len(studies) > 1:
        raise BadInput(f"{', '.join(studies)}: a front belongs to one study: report each study to a folder of its own")
    artefacts = {name: of_artefact(Path(name)) for name in names if name not in studies}
    results = study_results(studies[0], storage) if studies else folder_results(artefacts)
    if studies:
        here = {name: {last.provenance["data"]["split"]: last} for name, (_, last) in artefacts.items()}
        results = replace(results, rivals={**results.rivals, **here})
    refuse_mixture(results)
    return results


def study_results(path: str, storage: str | None) -> Results:
    """A study as its storage has it; raises BadInput where no trial of it is over."""
    spec = read_study(path)
    study = loaded(spec, storage or default_storage(spec.name))
    trials = trials_of(study, spec)
    if not any(t.record for t in trials):
        raise BadInput(f"the study '{spec.name}' has no measured trial: run `fasthmr search {path}` first")
    stored: dict[str, Any] = study.user_attrs.get(ASKED, {})
    return Results(spec.name, trials, rivals_of(study, spec), spec.objectives, spec, **stored)


def rivals_of(study: optuna.Study, spec: Study) -> dict[str, dict[str, Record]]:
    """Other models, as far as they were measured."""
    measured: dict[str, dict[str, Record]] = {}
    for name in spec.rivals:
        for split in ("val", "test"):
            record = read(study.user_attrs.get(later("rival", split, name)))
            if record:
                measured.setdefault(name, {})[split] = record
    return measured


def folder_results(artefacts: dict[str, tuple[Record, Record]]) -> Results:
    """Compressed models, each with its original, as trials that were drawn by hand."""
    originals = {first.provenance["model"]["sha256"]: first for first, _ in artefacts.values()}
    named = [(first.provenance["model"]["name"], first) for first in originals.values()]
    named += [(name, last) for name, (_, last) in artefacts.items()]
    trials = [
        Trial(i, "complete", name, {}, record, test=record if split_of(record) == "test" else None)
        for i, (name, record) in enumerate(named)
    ]
    return Results(
        "compressed models", trials, {}, ("macs", "mpjpe_mm"), label_free=named[0][1].provenance["label_free"]
    )


def refuse_mixture(results: Results) -> None:
    """Raise BadInput where figures that would stand side by side are not of the same frames and body."""
    side_by_side = [
        [("a trial", t.record) for t in results.trials if t.record] + labelled(results.rivals, "val"),
        [("the study", t.test) for t in results.trials if t.test] + labelled(results.rivals, "test"),
    ]
    for group in side_by_side:
        for name, record in group[1:]:
            first, mine = frames_of(group[0][1]), frames_of(record)
            unlike = [f"{key} {mine[key]} and {first[key]}" for key in first if first[key] != mine[key]]
            if unlike:
                raise BadInput(f"{name} cannot be compared in one front with {group[0][0]}: {', '.join(unlike)}")
    for name, records in results.rivals.items():
        if not {"val", "test"} & {*records}:
            raise BadInput(f"{name} was measured on {', '.join(records)}: a study reports val and test")


def labelled(rivals: dict[str, dict[str, Record]], split: str) -> list[tuple[str, Record]]:
    return [(name, records[split]) for name, records in rivals.items() if split in records]


def frames_of(record: Record) -> dict[str, Any]:
    """What two figures must share to be compared."""
    source, data = record.provenance, record.provenance["data"]
    parts = {key: data[key] for key in ("name", "split", "frames", "clips", "mask_source")}
    parts |= {key: data.get(key) for key in ("path", "masks", "boxes", "convention")}  # of a user's own data
    original = source.get("labels_of", source["model"]["sha256"]) if source["label_free"] else None
    return {**parts, "body": source["body"]["sha256"][:12], "labels of": original or "the data"}


def split_of(record: Record) -> str:
    return record.provenance["data"]["split"]


# ---- front.json


def result(results: Results) -> dict[str, Any]:
    """The JSON object of `search --json` and front.json."""
    feasible = [t.record.values(results.objectives) for t in results.trials if t.state == "complete" and t.record]
    reference = reference_point(feasible) if feasible else None
    rows = [t.record.values(results.objectives) if t.record and t.state == "complete" else None for t in results.trials]
    first = results.original
    return {
        "objectives": list(results.objectives),
        "reference_point": reference and list(reference),
        "trials": [entry(t, results.objectives) for t in results.trials],
        "front": [t.number for t in results.front],
        "hypervolume": grown(rows, reference) if reference else [],
        "rivals": [
            {"name": name, **{f"{split}_values": r.values(results.objectives) for split, r in records.items()}}
            for name, records in results.rivals.items()
        ],
        "beaten": beaten(results),
        "provenance": {**first.provenance, "schema": "fasthmr.search/1"},
    }


def entry(t: Trial, objectives: Sequence[Objective]) -> dict[str, Any]:
    return {
        "number": t.number,
        "state": t.state,
        "name": t.name,
        "reason": t.reason,
        "recipe_id": t.recipe and t.recipe.id,
        "recipe": t.recipe and t.recipe.model_dump(mode="json"),
        "params": t.params,
        "values": t.record and list(t.record.values(objectives)),
        "test_values": t.test and list(t.test.values(objectives)),
        "recovered": {split: list(record.values(objectives)) for split, record in t.recovered.items()},
        "violation": t.violation,
        "same_as": t.same_as,
    }


def beaten(results: Results) -> list[str]:
    """Where on test another model is better in every objective than points of the front, or a recipe made by hand is
    better than those that were drawn."""
    points = [t for t in results.front if t.test]
    drawn = [t for t in points if not t.name]
    by_hand = [(t.name, t.test, drawn) for t in results.trials if t.name and t.test and t.test.recipe.steps]
    others = [(name, records["test"], points) for name, records in results.rivals.items() if "test" in records]
    sentences = []
    for name, record, against in [*by_hand, *others]:
        mine = record.values(results.objectives)
        worse = [t.number for t in against if t.test and dominates(mine, t.test.values(results.objectives))]
        if worse:
            noun = "points" if len(worse) > 1 else "point"
            sentences.append(f"{name} beats {noun} {', '.join(map(str, worse))} of the front on test")
    return sentences


COLUMNS = ("point", "layers", "tokens", "M params", "GMACs", "val mm", "test mm", "rise on test", "note")


def rows(results: Results) -> list[tuple[str, ...]]:
    """A row for each point of the front, for its recovery, and for other models."""
    first, points = results.original, results.front
    on_test = front([t.test.values(results.objectives) for t in points if t.test])
    still = [t for i, t in enumerate([t for t in points if t.test]) if i in on_test]
    found = []
    for t in points:
        note = "" if t.test is None or t in still else "dominated on test"
        found.append(row(title(t), t.record, t.test, first, note))
        if t.recovered:
            found.append(row(f"{title(t)}, recovered", t.recovered.get("val"), t.recovered.get("test"), first, ""))
    for name, records in results.rivals.items():
        found.append(row(name, records.get("val"), records.get("test"), first, "another model"))
    return found


def found_on(results: Results) -> str:
    """Which split chose the points."""
    return "found on val" if results.spec else f"measured on {split_of(results.original)}"


def title(t: Trial) -> str:
    return f"{t.number} {t.name}".strip()


def row(name: str, val: Record | None, test: Record | None, first: Record, note: str) -> tuple[str, ...]:
    some = val or test
    if some is None:
        return (name, *("-" for _ in COLUMNS[1:-1]), note)
    return (
        name,
        str(some.layers),
        str(some.tokens[-1] if some.tokens else "-"),
        f"{some.params / 1e6:.2f}",
        f"{some.macs.true / 1e9:.3f} ({some.macs.true / first.macs.true:.0%})",
        "-" if val is None or split_of(val) != "val" else f"{val.mpjpe_mm.mean:.1f}",
        "-" if test is None else formatted(asdict(test.mpjpe_mm)),
        "-" if test is None else formatted(asdict(test.mpjpe_rise_mm), "+.1f"),
        note,
    )
