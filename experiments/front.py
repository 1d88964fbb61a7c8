"""`fasthmr report`: a study, or compressed models, as one page to decide from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import yaml
from rich.table import Table

from compress.atomic import atomic_folder
from compress.errors import BadInput
from compress.merge_layers import LayerPlan
from compress.policy import Plan
from compress.stack import Schedule
from experiments import pictures, plots, report
from experiments.datasets import open_data
from experiments.lab import Lab
from experiments.pareto import dominates, front, grown, reference_point
from experiments.recipe import Recipe
from experiments.report import rendered, seen
from experiments.run import Tell
from experiments.search import ASKED, default_storage, loaded, quiet
from experiments.study import Objective, Study, read_study
from experiments.trials import Record, Trial, csv, front_of, later, of_artefact, parquet, read, table, trials_of

NEAR_MM = 3.0  # a rise on test that the headline allows
UNITS = {
    "macs": ("GMACs", 1e9),
    "latency_ms": ("ms", 1.0),
    "mpjpe_mm": ("MPJPE, mm", 1.0),
    "accel_mm_per_frame2": ("Accel, mm/frame²", 1.0),
    "peak_memory_bytes": ("peak MiB", 2**20),
}


@dataclass(frozen=True)
class Story:
    """Everything that a report tells: trials, other models on the same frames, and the study that they come from."""

    title: str
    trials: list[Trial]
    rivals: dict[str, dict[str, Record]]  # name -> split -> record
    objectives: tuple[Objective, ...]
    asked: Study | None = None
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


def story(names: Sequence[str], storage: str | None = None) -> Story:
    """What STUDY_OR_FOLDERS tell. Raises BadInput for none that tell anything, and where their figures cannot stand
    in one front, because they are of different data, splits, bodies or mask sources."""
    studies = [name for name in names if name.endswith(".yaml")]
    if len(studies) > 1:
        raise BadInput(f"{', '.join(studies)}: a front is of one study: report each in a folder of its own")
    artefacts = {name: of_artefact(Path(name)) for name in names if name not in studies}
    told = of_study(studies[0], storage) if studies else of_folders(artefacts)
    if studies:
        here = {name: {last.provenance["data"]["split"]: last} for name, (_, last) in artefacts.items()}
        told = replace(told, rivals={**told.rivals, **here})
    refuse_mixture(told)
    return told


def of_study(path: str, storage: str | None) -> Story:
    """A study as its storage has it; raises BadInput where no trial of it is over."""
    asked = read_study(path)
    study = loaded(asked, storage or default_storage(asked.name))
    trials = trials_of(study, asked)
    if not any(t.record for t in trials):
        raise BadInput(f"the study '{asked.name}' has no trial that was measured: run `fasthmr search {path}` first")
    said: dict[str, Any] = study.user_attrs.get(ASKED, {})
    return Story(asked.name, trials, rivals_of(study, asked), asked.objectives, asked, **said)


def rivals_of(study: optuna.Study, asked: Study) -> dict[str, dict[str, Record]]:
    """Other models, as far as they were measured."""
    found: dict[str, dict[str, Record]] = {}
    for name in asked.rivals:
        for split in ("val", "test"):
            record = read(study.user_attrs.get(later("rival", split, name)))
            if record:
                found.setdefault(name, {})[split] = record
    return found


def of_folders(artefacts: dict[str, tuple[Record, Record]]) -> Story:
    """Compressed models, each with its original, as trials that were drawn by hand."""
    originals = {first.provenance["model"]["sha256"]: first for first, _ in artefacts.values()}
    named = [(first.provenance["model"]["name"], first) for first in originals.values()]
    named += [(name, last) for name, (_, last) in artefacts.items()]
    trials = [Trial(i, "complete", name, {}, record, test=record) for i, (name, record) in enumerate(named)]
    return Story("compressed models", trials, {}, ("macs", "mpjpe_mm"), label_free=named[0][1].provenance["label_free"])


def refuse_mixture(told: Story) -> None:
    """Raise BadInput where figures that would stand side by side are not of the same frames and body."""
    side_by_side = [
        [("a trial", t.record) for t in told.trials if t.record] + labelled(told.rivals, "val"),
        [("the study", t.test) for t in told.trials if t.test] + labelled(told.rivals, "test"),
    ]
    for group in side_by_side:
        for name, record in group[1:]:
            first, mine = frames_of(group[0][1]), frames_of(record)
            unlike = [f"{key} {mine[key]} and {first[key]}" for key in first if first[key] != mine[key]]
            if unlike:
                raise BadInput(f"{name} cannot stand in one front with {group[0][0]}: {', '.join(unlike)}")
    for name, records in told.rivals.items():
        if not {"val", "test"} & {*records}:
            raise BadInput(f"{name} was measured on {', '.join(records)}: a study shows val and test")


def labelled(rivals: dict[str, dict[str, Record]], split: str) -> list[tuple[str, Record]]:
    return [(name, records[split]) for name, records in rivals.items() if split in records]


def frames_of(record: Record) -> dict[str, Any]:
    """What two figures must share to be compared."""
    source, data = record.provenance, record.provenance["data"]
    parts = {key: data[key] for key in ("name", "split", "frames", "clips", "mask_source")}
    original = source["model"]["sha256"] if source["label_free"] else None
    return {**parts, "body": source["body"]["sha256"][:12], "labels of": original or "the data"}


# ---- front.json


def result(told: Story) -> dict[str, Any]:
    """What `search --json` and front.json say, see contracts.md."""
    feasible = [t.record.values(told.objectives) for t in told.trials if t.state == "complete" and t.record]
    reference = reference_point(feasible) if feasible else None
    rows = [t.record.values(told.objectives) if t.record and t.state == "complete" else None for t in told.trials]
    first = told.original
    return {
        "objectives": list(told.objectives),
        "reference_point": reference and list(reference),
        "trials": [entry(t, told.objectives) for t in told.trials],
        "front": [t.number for t in told.front],
        "hypervolume": grown(rows, reference) if reference else [],
        "rivals": [
            {"name": name, **{f"{split}_values": r.values(told.objectives) for split, r in records.items()}}
            for name, records in told.rivals.items()
        ],
        "beaten": beaten(told),
        "provenance": {**first.provenance, "schema": "fasthmr.search/1"},
    }


def entry(t: Trial, objectives: Sequence[Objective]) -> dict[str, Any]:
    return {
        "number": t.number,
        "state": t.state,
        "name": t.name,
        "reason": t.reason,
        "recipe_id": t.record and t.record.recipe_id,
        "recipe": t.record and t.record.recipe.model_dump(mode="json"),
        "params": t.params,
        "values": t.record and list(t.record.values(objectives)),
        "test_values": t.test and list(t.test.values(objectives)),
        "recovered": {split: list(record.values(objectives)) for split, record in t.recovered.items()},
        "violation": t.violation,
        "same_as": t.same_as,
    }


def beaten(told: Story) -> list[str]:
    """Where on test another model is better in every objective than points of the front, or a recipe made by hand is
    better than those that were drawn."""
    points = [t for t in told.front if t.test]
    drawn = [t for t in points if not t.name]
    by_hand = [(t.name, t.test, drawn) for t in told.trials if t.name and t.test and t.test.recipe.steps]
    others = [(name, records["test"], points) for name, records in told.rivals.items() if "test" in records]
    found = []
    for name, record, against in [*by_hand, *others]:
        mine = record.values(told.objectives)
        worse = [t.number for t in against if t.test and dominates(mine, t.test.values(told.objectives))]
        if worse:
            noun = "points" if len(worse) > 1 else "point"
            found.append(f"{name} beats {noun} {', '.join(map(str, worse))} of the front on test")
    return found


def front_table(told: Story) -> Table:
    """The points of the front, for people."""
    first = told.original
    data = first.provenance["data"]
    states = {state: sum(t.state == state for t in told.trials) for state in ("complete", "infeasible", "failed")}
    shown = Table(
        title=f"front of {told.title}: {first.provenance['model']['name']} on {data['name']}",
        caption=f"{', '.join(f'{n} {state}' for state, n in states.items())}; found on val, {data['frames']} frames; "
        f"commit {first.provenance['commit'][:12]}" + "".join(f"\n{line}" for line in beaten(told)),
    )
    for heading in COLUMNS:
        shown.add_column(heading, justify="left" if heading == "point" else "right")
    for row in rows(told):
        shown.add_row(*(cell.replace("[", "\\[") for cell in row))
    return shown


COLUMNS = ("point", "layers", "tokens", "M params", "GMACs", "val mm", "test mm", "rise on test", "note")


def rows(told: Story) -> list[tuple[str, ...]]:
    """A row for each point of the front, for its recovery, and for other models."""
    first, points = told.original, told.front
    on_test = front([t.test.values(told.objectives) for t in points if t.test])
    still = [t for i, t in enumerate([t for t in points if t.test]) if i in on_test]
    found = []
    for t in points:
        note = "" if t.test is None or t in still else "dominated on test"
        found.append(row(title(t), t.record, t.test, first, note))
        if t.recovered:
            found.append(row(f"{title(t)}, recovered", t.recovered.get("val"), t.recovered.get("test"), first, ""))
    for name, records in told.rivals.items():
        found.append(row(name, records.get("val"), records.get("test"), first, "another model"))
    return found


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
        "-" if val is None else f"{val.mpjpe_mm.mean:.1f}",
        "-" if test is None else f"{test.mpjpe_mm.mean:.1f} [{test.mpjpe_mm.lo:.1f}, {test.mpjpe_mm.hi:.1f}]",
        "-" if test is None else report.interval(test.mpjpe_rise_mm.model_dump(), "+.1f"),
        note,
    )


# ---- the page


def write(told: Story, out: Path, tell: Tell = lambda what, word, done, total: None) -> dict[str, Any]:
    """Write the report folder, whole or not at all; returns what front.json says."""
    said = result(told)
    shown = trials_plot(told, "val" if told.asked else "test")
    on_test = trials_plot(told, "test") if told.asked and any(t.test for t in told.front) else None
    tabled = table(told.trials)
    contents = {
        "front.json": json.dumps(said, indent=1, allow_nan=False).encode(),
        "report.html": page(told, said, shown, on_test, tell).encode(),
        "front.png": plots.png(on_test or shown),
        "trials.csv": csv(tabled),
        "trials.parquet": parquet(tabled),
        **{f"{t.number}.yaml": recipe_text(t.record.recipe, t.number).encode() for t in told.front if t.record},
    }
    try:
        with atomic_folder(out) as folder:
            for name, content in contents.items():
                (folder / name).write_bytes(content)
    except OSError as error:
        raise BadInput(f"--out {out}: cannot be written ({error.strerror or error})") from error
    return said


def page(told: Story, said: dict[str, Any], shown: Any, on_test: Any, tell: Tell) -> str:
    """The HTML."""
    first = told.original
    data, source = first.provenance["data"], first.provenance
    tested = next((t.test for t in told.front if t.test), None)
    lab = Lab(told.asked, told.label_free, told.masks) if told.asked else None
    points = []
    for t in told.front:
        points.append(point(told, t, lab))
        tell("drawing the front", "", len(points), len(told.front))
    split = tested.provenance["data"] if tested else data
    reference = zip(told.objectives, said["reference_point"] or (), strict=False)
    return rendered(
        "front.html",
        title=f"Front of {told.title}",
        subtitle=f"{source['model']['name']}, {data['name']}: found on {data['split']}, {data['frames']} frames; shown "
        f"on {split['split']}, {split['frames']} frames of {split['clips']} recordings; masks: {data['mask_source']}; "
        f"{source['device']}, {source['threads']} threads"
        + ("; errors are distances to the original model" if told.label_free else ""),
        headline=headline(told),
        beaten=said["beaten"],
        searched=told.asked is not None,
        plot=plots.svg(shown),
        on_test=plots.svg(on_test) if on_test else "",
        columns=COLUMNS,
        rows=rows(told),
        growth=plots.svg(plots.growth(said["hypervolume"])) if said["hypervolume"] and told.asked else "",
        reference=", ".join(f"{name} {value:.4g}" for name, value in reference),
        importance=importance_plot(told),
        split=plots.svg(cost_plot(told)) if any(parts(t) for t in told.front) else "",
        joints=joints_plot(told),
        points=points,
        trials=[trial_row(t) for t in told.trials],
        provenance=json.dumps(source, indent=1),
    )


def headline(told: Story) -> list[tuple[str, str]]:
    """(figure, what it is)."""
    first = told.original
    tested = [t.test for t in told.front if t.test]
    near = [r for r in tested if r.mpjpe_rise_mm.mean <= NEAR_MM]
    found = [(str(len(told.front)), "points on the front"), (str(len(told.trials)), "trials")]
    if near:
        cheapest = min(near, key=lambda r: r.macs.true)
        found.append((f"{cheapest.macs.true / first.macs.true:.0%}", f"of the MACs within {NEAR_MM:g} mm on test"))
        found.append((f"{cheapest.mpjpe_rise_mm.mean:+.1f} mm", "MPJPE there, on the same frames"))
    return found


def trials_plot(told: Story, split: str) -> Any:
    """Error over cost of everything that was measured on a split."""
    cost = next(o for o in told.objectives if o in ("macs", "latency_ms"))
    on_front = told.front

    def record(t: Trial) -> Record | None:
        return t.record if split == "val" else t.test

    def points(some: Iterable[tuple[str, Record | None]]) -> list[plots.Point]:
        found = [(n, r, r.mpjpe_mm) for n, r in some if r]
        return [plots.Point(n, r.value(cost) / UNITS[cost][1], mm.mean, mm.lo, mm.hi) for n, r, mm in found]

    rest = [t for t in told.trials if t not in on_front and record(t) and t.same_as is None]
    groups = {
        "front": points((str(t.number), record(t)) for t in on_front),
        "dominated": points(("", record(t)) for t in rest if t.state == "complete" and not t.name),
        "infeasible": points(("", record(t)) for t in rest if t.state == "infeasible"),
        "made by hand": points((t.name, record(t)) for t in rest if t.state == "complete" and t.name),
        "other models": points((name, records.get(split)) for name, records in told.rivals.items()),
        "recovered": points((f"{t.number}", t.recovered.get(split)) for t in on_front),
    }
    groups = {kind: found for kind, found in groups.items() if found}
    return plots.trades(groups, f"{UNITS[cost][0]} per frame", f"MPJPE on {split}, mm")


def importance_plot(told: Story) -> str:
    """How much each knob decides about each objective (PED-ANOVA); nothing where too few trials were drawn."""
    drawn = [t for t in told.trials if t.record and t.params and t.state != "failed"]
    if told.asked is None or len(drawn) < 8:
        return ""
    quiet()
    shares = {o: importance(drawn, told.asked, o) for o in told.objectives}
    return plots.svg(plots.importances({o: share for o, share in shares.items() if share}))


def importance(drawn: Sequence[Trial], asked: Study, objective: Objective) -> dict[str, float]:
    """Watanabe et al. 2023, "PED-ANOVA" (arXiv:2304.10255), of the drawn trials alone: what is made by hand has no
    knobs."""
    study = optuna.create_study()
    ranges, distributions = asked.ranges(), asked.distributions()
    for t in drawn:
        values = {k: ranges[k].choices.index(v) if ranges[k].choices else v for k, v in t.params.items()}
        inside = {k: v for k, v in values.items() if distributions[k]._contains(v)}
        if t.record and len(inside) == len(distributions):
            study.add_trial(
                optuna.create_trial(params=inside, distributions=distributions, value=t.record.value(objective))
            )
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    return optuna.importance.get_param_importances(study, evaluator=evaluator) if len(study.trials) > 3 else {}


def parts(t: Trial) -> dict[str, float]:
    """GMACs of the parts of a model, its blocks together."""
    found: dict[str, float] = {}
    for part in t.record.parts if t.record else ():
        name = "blocks" if ".blocks." in part.name else part.name.removeprefix("backbone.")
        found[name] = found.get(name, 0.0) + part.macs.true / 1e9
    return {name: value for name, value in found.items() if value > 1e-3 * sum(found.values())}


def cost_plot(told: Story) -> Any:
    return plots.split({str(t.number): parts(t) for t in told.front}, "GMACs per frame")


def joints_plot(told: Story) -> str:
    """By how much each joint's error rises over the original's, on test where the front was measured there."""
    records = {str(t.number): t.test or t.record for t in told.front}
    every = [t for t in told.trials if t.record and not t.record.recipe.steps]
    first = every[0].test or every[0].record if every else None
    rises = {
        name: {joint: value - first.per_joint_mm[joint] for joint, value in record.per_joint_mm.items()}
        for name, record in records.items()
        if record and record.per_joint_mm and first and frames_of(record) == frames_of(first)
    }
    return plots.svg(plots.joints(rises, "rise over the original, mm")) if rises else ""


def trial_row(t: Trial) -> tuple[str, ...]:
    knobs = ", ".join(f"{name.partition('.')[2]} {value}" for name, value in t.params.items())
    same = f"the same recipe as {t.same_as}" if t.same_as is not None else ""
    over = f"{t.violation:.1f} mm too much" if t.violation else ""
    r = t.record
    figures = ("-", "-") if r is None else (f"{r.macs.true / 1e9:.3f}", f"{r.mpjpe_mm.mean:.1f}")
    return (str(t.number), t.state, *figures, t.name or knobs, t.reason or over or same)


def point(told: Story, t: Trial, lab: Lab | None) -> dict[str, Any]:
    """A section of the page for a point of the front: recipe, command, layers and pictures."""
    assert t.record is not None  # a front is of measured trials
    layers = next((plan for plan in t.record.plans if isinstance(plan, LayerPlan) and not plan.empty), None)
    return {
        "title": title(t),
        "recipe": recipe_text(t.record.recipe, t.number),
        "command": command(told, t),
        "layers": plots.layer_map(layers.made_for.depth, layers.windows) if layers else "",
        "merged": report.told(layers) if layers else "",
        "strips": strips(lab, t) if lab else [],
        "done": [done(plan) for plan in t.record.plans],
    }


def done(plan: Plan) -> str:
    return f"{plan.policy}: changed nothing" if plan.empty else plan.policy


def command(told: Story, t: Trial) -> str:
    """How to make this model again."""
    record = t.test or t.record
    assert record is not None
    source = record.provenance
    data, calib = source["data"], source.get("calib")
    root = told.asked.data.partition("@")[2] if told.asked else ""
    words = [
        f"fasthmr compress {t.number}.yaml --model {source['model']['name']}",
        f"--data {data['name']}:{data['split']}{'@' + root if root else ''} --frames {data['frames']}",
        *([f"--calib-frames {calib['frames']}"] if calib else []),
        *(["--label-free"] if told.label_free else []),
        *([f"--masks {told.masks}"] if told.masks else []),
        f"--out {t.number}",
    ]
    return " ".join(words)


def recipe_text(recipe: Recipe, number: int) -> str:
    """A recipe as YAML, to be copied: what is not the default."""
    steps = [{"policy": step.policy, **step.model_dump(mode="json", exclude_defaults=True)} for step in recipe.steps]
    content = {"schema_version": 1, "name": f"{recipe.name}-{number}", "steps": steps}
    return yaml.safe_dump(content, sort_keys=False)


def strips(lab: Lab, t: Trial) -> list[tuple[str, list[tuple[str, str]]]]:
    """Rows of (picture, words) of the frames that this point harms most: its tokens, and both meshes."""
    record = t.test or t.record
    if record is None or not record.worst:
        return []
    split = record.provenance["data"]["split"]
    data = open_data(lab.spec(split), getattr(lab.asked.frames, split), model=lab.model)
    samples = [data[bad.frame] for bad in record.worst]
    model = lab.rebuilt(record)
    words = [f"{bad.clip}, frame {bad.frame}: {bad.mpjpe_mm:.0f} mm, {bad.rise_mm:+.0f}" for bad in record.worst]
    found = []
    if model.schedule != Schedule():
        found.append((report.TOKENS, [picture for picture, _ in report.token_pictures(model, samples)]))
    for who, which in (("original", lab.model), ("compressed", model)):
        output = seen(which, samples)
        meshes = [pictures.body_drawn(sample, lab.body, output, i, who) for i, sample in enumerate(samples)]
        found.append((f"Body that the {who} model sees", meshes))
    return [
        (name, [(pictures.data_uri(picture, "jpeg"), said) for picture, said in zip(row, words, strict=True)])
        for name, row in found
    ]
