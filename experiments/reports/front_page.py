"""`fasthmr report`: a front as one page to decide from, with what it shows in files beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import optuna

from compress.atomic import atomic_folder
from compress.card import machine
from compress.context import Observer, silent
from compress.policy import Plan
from compress.recipe import Recipe
from experiments.reports import compression as report
from experiments.reports import decoders, pictures, plots
from experiments.reports.compression import rendered
from experiments.reports.front import COLUMNS, Results, found_on, frames_of, result, rows, split_of, title
from experiments.search.lab import Lab
from experiments.search.storage import quiet
from experiments.search.study import Objective, Study
from experiments.search.trials import Record, Trial, csv, parquet, table

NEAR_MM = 3.0  # a rise on test that the headline allows
UNITS = {
    "macs": ("GMACs", 1e9),
    "latency_ms": ("ms", 1.0),
    "mpjpe_mm": ("MPJPE, mm", 1.0),
    "accel_mm_per_frame2": ("Accel, mm/frame²", 1.0),
    "peak_memory_bytes": ("peak MiB", 2**20),
}


def write(
    results: Results, out: Path, observer: Observer = silent, decoded: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """Write the report folder, whole or not at all; returns the content of front.json.

    decoded: of `experiments.search.decoded`, points with their decoders.
    """
    summary = {**result(results), **({"decoded": list(decoded)} if decoded else {})}
    shown = trials_plot(results, split_of(results.original))
    on_test = trials_plot(results, "test") if results.spec and any(t.test for t in results.front) else None
    tabled = table(results.trials)
    contents = {
        "front.json": json.dumps(summary, indent=1, allow_nan=False).encode(),
        "report.html": page(results, summary, shown, on_test, observer).encode(),
        "front.png": plots.png(on_test or shown),
        "trials.csv": csv(tabled),
        "trials.parquet": parquet(tabled),
        **{f"{name}.yaml": recipe_text(r.recipe, name).encode() for t in results.front for name, r in copied(t)},
    }
    with atomic_folder(out) as folder:
        for name, content in contents.items():
            (folder / name).write_bytes(content)
    return summary


def page(results: Results, summary: dict[str, Any], shown: Any, on_test: Any, observer: Observer) -> str:
    """The HTML."""
    first = results.original
    data, source = first.provenance["data"], first.provenance
    tested = next((t.test for t in results.front if t.test), None)
    lab = Lab(results.spec, results.label_free, results.masks) if results.spec else None
    points = []
    for t in results.front:
        points.append(point(results, t, lab))
        observer("drawing the front", "", len(points), len(results.front))
    split = tested.provenance["data"] if tested else data
    shown_on = f"; shown on {split['split']}, {split['frames']} frames" if results.spec else ""
    reference = zip(results.objectives, summary["reference_point"] or (), strict=False)
    return rendered(
        "front.html",
        title=f"Front of {results.title}",
        subtitle=f"{source['model']['name']}, {data['name']}: {found_on(results)}, {data['frames']} frames"
        f"{shown_on} of {split['clips']} recordings; masks: {data['mask_source']}; "
        f"{machine(source)}" + ("; errors are distances to the original model" if results.label_free else ""),
        headline=headline(results),
        beaten=summary["beaten"],
        searched=results.spec is not None,
        plot=plots.svg(shown),
        on_test=plots.svg(on_test) if on_test else "",
        columns=COLUMNS,
        rows=rows(results),
        growth=plots.svg(plots.growth(summary["hypervolume"])) if summary["hypervolume"] and results.spec else "",
        reference=", ".join(f"{name} {value:.4g}" for name, value in reference),
        importance=importance_plot(results),
        **decoders.section(summary.get("decoded", ())),
        split=plots.svg(cost_plot(results)) if any(parts(t) for t in results.front) else "",
        joints=joints_plot(results),
        points=points,
        trials=[trial_row(t) for t in results.trials],
        provenance=json.dumps(source, indent=1),
    )


def headline(results: Results) -> list[tuple[str, str]]:
    """(figure, what it is)."""
    first = results.original
    tested = [t.test for t in results.front if t.test]
    near = [r for r in tested if r.mpjpe_rise_mm.mean <= NEAR_MM]
    figures = [(str(len(results.front)), "points on the front"), (str(len(results.trials)), "trials")]
    if near:
        cheapest = min(near, key=lambda r: r.macs.true)
        figures.append((f"{cheapest.macs.true / first.macs.true:.0%}", f"of the MACs within {NEAR_MM:g} mm on test"))
        figures.append((f"{cheapest.mpjpe_rise_mm.mean:+.1f} mm", f"{error_of(results)} there, on the same frames"))
    return figures


def trials_plot(results: Results, split: str) -> Any:
    """Error over cost of everything that was measured on a split."""
    cost = next(o for o in results.objectives if o in ("macs", "latency_ms"))
    on_front = results.front

    def record(t: Trial) -> Record | None:
        return t.test if split == "test" else t.record

    def points(some: Iterable[tuple[str, Record | None]]) -> list[plots.Point]:
        return [plots.Point(n, r.value(cost) / UNITS[cost][1], r.mpjpe_mm.mean) for n, r in some if r]

    rest = [t for t in results.trials if t not in on_front and record(t) and t.same_as is None]
    groups = {
        "front": points((str(t.number), record(t)) for t in on_front),
        "dominated": points(("", record(t)) for t in rest if t.state == "complete" and not t.name),
        "infeasible": points(("", record(t)) for t in rest if t.state == "infeasible"),
        "made by hand": points((t.name, record(t)) for t in rest if t.state == "complete" and t.name),
        "other models": points((name, records.get(split)) for name, records in results.rivals.items()),
        "recovered": points((f"{t.number}", t.recovered.get(split)) for t in on_front),
    }
    groups = {kind: found for kind, found in groups.items() if found}
    return plots.trades(groups, f"{UNITS[cost][0]} per frame", f"{error_of(results)} on {split}, mm")


def error_of(results: Results) -> str:
    """What the errors are."""
    return plots.FIDELITY if results.label_free else plots.ERROR


def importance_plot(results: Results) -> str:
    """How much each knob matters for each objective (PED-ANOVA); nothing where too few trials were drawn."""
    drawn = [t for t in results.trials if t.record and t.params]
    if results.spec is None or len(drawn) < 8:
        return ""
    quiet()
    shares = {o: importance(drawn, results.spec, o) for o in results.objectives}
    known: dict[str, dict[str, float]] = {o: share for o, share in shares.items() if share}
    return plots.svg(plots.importances(known)) if known else ""


def importance(drawn: Sequence[Trial], spec: Study, objective: Objective) -> dict[str, float]:
    """Watanabe et al. 2023, "PED-ANOVA" (arXiv:2304.10255), of the drawn trials alone: what is made by hand has no
    knobs."""
    study = optuna.create_study()
    ranges, distributions = spec.ranges(), spec.distributions()
    for t in drawn:
        searched = {k: v for k, v in t.params.items() if k in ranges}
        values = {k: ranges[k].choices.index(v) if ranges[k].choices else v for k, v in searched.items()}
        inside = {k: v for k, v in values.items() if distributions[k]._contains(v)}
        if t.record and len(inside) == len(distributions):
            study.add_trial(
                optuna.create_trial(params=inside, distributions=distributions, value=t.record.value(objective))
            )
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    return optuna.importance.get_param_importances(study, evaluator=evaluator) if len(study.trials) > 3 else {}


def parts(t: Trial) -> dict[str, float]:
    """GMACs of the parts of a model, its blocks together."""
    gmacs: dict[str, float] = {}
    for part in t.record.parts if t.record else ():
        name = "blocks" if ".blocks." in part.name else part.name.removeprefix("backbone.")
        gmacs[name] = gmacs.get(name, 0.0) + part.macs.true / 1e9
    return {name: value for name, value in gmacs.items() if value > 1e-3 * sum(gmacs.values())}


def cost_plot(results: Results) -> Any:
    return plots.split({str(t.number): parts(t) for t in results.front}, "GMACs per frame")


def joints_plot(results: Results) -> str:
    """By how much each joint's error rises over the original's, on test where the front was measured there."""
    records = {str(t.number): t.test or t.record for t in results.front}
    every = [t for t in results.trials if t.record and not t.record.recipe.steps]
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
    over = f"{t.violation:.1f} mm above the study's max_error_mm" if t.violation else ""
    r = t.record
    figures = ("-", "-") if r is None else (f"{r.macs.true / 1e9:.3f}", f"{r.mpjpe_mm.mean:.1f}")
    return (str(t.number), t.state, *figures, t.name or knobs, t.reason or over or same)


def point(results: Results, t: Trial, lab: Lab | None) -> dict[str, Any]:
    """A section of the page for a point of the front: recipe, command, layers and pictures."""
    assert t.record is not None  # a front is of measured trials
    layers = next((plan for plan in report.decisions(t.record.plans) if report.of_encoder(plan)), None)
    return {
        "title": title(t),
        "copies": [(recipe_text(r.recipe, name), command(results, r, name)) for name, r in copied(t)],
        "layers": plots.layer_map(layers["made_for"]["depth"], layers["windows"]) if layers else "",
        "merged": " ".join(plan.describe() for plan in t.record.plans if not plan.empty),
        "strips": strips(lab, t) if lab else [],
        "done": [done(plan) for plan in t.record.plans],
    }


def done(plan: Plan) -> str:
    return f"{plan.label}: changed nothing" if plan.empty else plan.label


def copied(t: Trial) -> list[tuple[str, Record]]:
    """(name of its recipe's file, figures) of a point, and of what it became by recovery."""
    records = {
        str(t.number): t.test or t.record,
        f"{t.number}-recovered": t.recovered.get("test", t.recovered.get("val")),
    }
    return [(name, record) for name, record in records.items() if record]


def command(results: Results, record: Record, name: str) -> str:
    """How to make this model again."""
    source = record.provenance
    data, calib = source["data"], source.get("calib")
    words = [
        f"fasthmr compress {name}.yaml --model {source['model']['name']}",
        f"--data {report.data_arguments(data)} --frames {data['frames']}",
        *([f"--calib-frames {calib['frames']}"] if calib else []),
        *(["--label-free"] if results.label_free else []),
        f"--out {name}",
    ]
    return " ".join(words)


def recipe_text(recipe: Recipe, name: str) -> str:
    """A recipe as YAML, to be copied: what is not the default."""
    return Recipe(schema_version=1, name=f"{recipe.name}-{name}", steps=recipe.steps).text


def strips(lab: Lab, t: Trial) -> list[tuple[str, list[tuple[str, str]]]]:
    """Rows of (picture, words) of the frames that this point harms most: its tokens, and both meshes."""
    record = t.test or t.record
    if record is None or not record.worst:
        return []
    split = record.provenance["data"]["split"]
    frames = lab.opened(split)
    worst = [bad.frame for bad in record.worst]
    model, _ = lab.made(record.plans)
    words = [f"{bad.clip}, frame {bad.frame}: {bad.mpjpe_mm:.0f} mm, {bad.rise_mm:+.0f}" for bad in record.worst]
    pictured = []
    if tokens := report.token_pictures(model, frames, worst):
        pictured.append((report.TOKENS, [picture for picture, _ in tokens]))
    bodies, _ = report.bodies_drawn({"original": lab.model, "compressed": model}, frames, worst)
    pictured += [(f"Body that the {who} model predicts", drawn) for who, drawn in bodies.items()]
    return [
        (name, [(pictures.data_uri(picture, "jpeg"), summary) for picture, summary in zip(row, words, strict=True)])
        for name, row in pictured
    ]
