"""What was measured, as typed records that are written once and never changed, and tables of them.

Records lie in the storage of the optuna study, so that they are as safe and as shared as the study itself: a trial's is
one of its user attributes, and what is measured after the trials (test figures, recovery) is one of the study's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, get_args

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState
from pydantic import Field, ValidationError

from compress.artefact import checked
from compress.cost.macs import Macs, Part
from compress.errors import BadInput
from compress.policy import FrozenModel, Plan
from compress.recipe import Recipe
from compress.registry import AnyPlan
from experiments.search.pareto import front
from experiments.search.study import Objective, Study, words
from hmr.body.conventions import NAMES
from hmr.evaluation.intervals import Interval

# User attributes of a trial.
RECIPE, RECIPE_ID, BASELINE, RECORD, SAME_AS, REASON = "recipe", "recipe_id", "baseline", "record", "same_as", "reason"
DRAWN, BROKEN = "drawn", "broken"  # the recipe of a trial that is no baseline; whether its reason is an error of ours
STOPPED = "stopped"  # whether it was measured on some recordings only: it was worse there
CONSTRAINT, IMPOSSIBLE = "max_error_mm", "impossible"
# infeasible: measured, and worse than max_error_mm allows. pruned: the model or the frames make the recipe impossible,
# so nothing was measured; or it was worse than another one on few recordings (`experiments.search.early`). failed: an
# error, or a worker that was stopped.
State = Literal["complete", "infeasible", "pruned", "failed"]
STATES: tuple[State, ...] = get_args(State)
Later = Literal["front", "recovered", "rival"]


class Worst(FrozenModel):
    """The frame of a recording that compression harmed most."""

    clip: str
    frame: int  # of the split, from 0
    mpjpe_mm: float
    rise_mm: float


class Record(FrozenModel):
    """A recipe measured on one split: what became of the model, how wrong it is, and where the figures come from."""

    record: Literal["fasthmr.trial/1"] = "fasthmr.trial/1"
    recipe: Recipe
    recipe_id: str
    plans: tuple[AnyPlan, ...]
    layers: int
    tokens: tuple[int, ...]  # after each block
    params: int
    macs: Macs
    parts: tuple[Part, ...]
    latency_ms: float | None  # median of a frame; None where it is no objective
    peak_memory_bytes: int | None
    frames_per_s: float
    mpjpe_mm: Interval
    pa_mpjpe_mm: Interval
    pve_mm: Interval | None  # None where a model gives joints alone
    accel_mm_per_frame2: Interval | None
    mpjpe_rise_mm: Interval  # over the original model, on the same frames
    per_joint_mm: dict[str, float]
    per_clip: tuple[dict[str, Any], ...]
    worst: tuple[Worst, ...]
    protected_merged_share: float | None
    provenance: dict[str, Any] = Field(description="commit, seed, device, threads, versions, body, model, data, calib")

    def value(self, objective: Objective) -> float:
        """What a search makes small; raises BadInput where that could not be measured."""
        found = self.macs.true if objective == "macs" else getattr(self, objective)
        if found is None:
            raise BadInput(f"objectives: {objective} could not be measured with these frames on this machine")
        return float(found.mean if isinstance(found, Interval) else found)

    def values(self, objectives: Sequence[Objective]) -> tuple[float, ...]:
        return tuple(map(self.value, objectives))


def written(record: Record) -> dict[str, Any]:
    """A record as JSON values."""
    return record.model_dump(mode="json")


def read(trial: Any) -> Record | None:
    """The record of JSON values; None where they are none, as when half of them were written."""
    try:
        return Record.model_validate_json(json.dumps(trial))
    except (ValidationError, ValueError, TypeError):
        return None


@dataclass(frozen=True)
class Trial:
    """A trial that is over, and what was measured of it since."""

    number: int
    state: State
    name: str  # of a baseline; empty for what the sampler drew
    params: dict[str, Any]
    record: Record | None = None  # on val
    violation: float = 0.0  # mm above max_error_mm
    reason: str = ""  # why nothing was measured
    same_as: int | None = None  # the trial that measured the same recipe before
    test: Record | None = None
    recovered: dict[str, Record] = field(default_factory=dict)  # by split
    recipe: Recipe | None = None  # what it was to measure; None where its worker was stopped before it drew


def trials_of(study: optuna.Study, spec: Study) -> list[Trial]:
    """All trials of a study that are over, in order."""
    over = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
    return [trial_of(t, study.user_attrs, spec) for t in over]


def trial_of(trial: FrozenTrial, stored: dict[str, Any], spec: Study) -> Trial:
    """A finished trial of optuna's as one of ours; `said` are the study's attributes."""
    attrs = trial.user_attrs
    number, name, knobs = trial.number, attrs.get(BASELINE, ""), spec.knobs()
    params, recipe = words({k: v for k, v in trial.params.items() if k in knobs}, knobs), asked(attrs)
    params |= {k: v for k, v in trial.params.items() if spec.per_block and k not in knobs}
    if trial.state != TrialState.COMPLETE:
        state: State = "failed" if REASON not in attrs or BROKEN in attrs else "pruned"
        reason = attrs.get(REASON, "its worker was stopped before it was measured")
        return Trial(number, state, name, params, reason=reason, recipe=recipe)
    record = read(attrs.get(RECORD))
    if record is None:
        return Trial(number, "failed", name, params, reason="its record in the storage is damaged", recipe=recipe)
    violation = trial.constraints.get(CONSTRAINT, 0.0)
    recovered = {split: read(stored.get(later("recovered", split, record.recipe_id))) for split in ("val", "test")}
    return Trial(
        number,
        "infeasible" if violation > 0 else "complete",
        name,
        params,
        record,
        max(0.0, violation),
        same_as=attrs.get(SAME_AS),
        test=read(stored.get(later("front", "test", record.recipe_id))),
        recovered={split: found for split, found in recovered.items() if found},
        recipe=record.recipe,
    )


def asked(attrs: dict[str, Any]) -> Recipe | None:
    """The recipe that a trial was to measure, from the attributes that name it; None where they name none."""
    found = attrs.get(RECIPE, attrs.get(DRAWN))
    return None if found is None else Recipe.model_validate_json(json.dumps(found))


def later(kind: Later, split: str, name: str) -> str:
    """The study's attribute that holds what was measured after the trials: of a recipe by its id, or of a model."""
    return f"{kind}-{split}:{name}"


def front_of(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[Trial]:
    """The feasible trials that no feasible one dominates on val; of equals the earliest."""
    possible = [t for t in trials if t.state == "complete"]
    return [possible[i] for i in front([t.record.values(objectives) for t in possible if t.record])]


def table(trials: Sequence[Trial]) -> pd.DataFrame:
    """A row for each trial: what it was, what it cost, how wrong it is on val and on test, and from where."""
    return pd.DataFrame([line(trial) for trial in trials])


def line(trial: Trial) -> dict[str, Any]:
    """A row of the table."""
    record = trial.record
    found: dict[str, Any] = {
        "number": trial.number,
        "state": trial.state,
        "name": trial.name,
        "reason": trial.reason,
        "same_as": trial.same_as,
        "violation": trial.violation,
        **trial.params,
    }
    if trial.recipe is not None:
        found |= {"recipe_id": trial.recipe.id, "recipe": trial.recipe.model_dump_json()}
    if record is None:
        return found
    source = record.provenance
    found |= {
        "layers": record.layers,
        "tokens": record.tokens[-1] if record.tokens else None,
        "params": record.params,
        **{f"macs_{name}": count for name, count in asdict(record.macs).items()},
        "latency_ms": record.latency_ms,
        "peak_memory_bytes": record.peak_memory_bytes,
        "frames_per_s": record.frames_per_s,
        **{key: source[key] for key in ("commit", "seed", "device", "threads")},
        "model": source["model"]["name"],
        "model_sha256": source["model"]["sha256"],
        "body": source["body"]["name"],
        "data": source["data"]["name"],
        "mask_source": source["data"]["mask_source"],
    }
    measured = {
        source["data"]["split"]: record,
        "test": trial.test,
        **{f"recovered_{k}": v for k, v in trial.recovered.items()},
    }
    for split, stored in measured.items():
        if stored:
            found[f"{split}_frames"] = stored.provenance["data"]["frames"]
            found |= {f"{split}_{name}": value for name, value in flat(stored).items()}
    return found


def flat(record: Record) -> dict[str, float | None]:
    """Errors and the ends of their intervals, None where there is one recording."""
    found: dict[str, float | None] = {}
    for name in ("mpjpe_mm", "pa_mpjpe_mm", "pve_mm", "accel_mm_per_frame2", "mpjpe_rise_mm"):
        value: Interval | None = getattr(record, name)
        ends = (None, None, None) if value is None else (value.mean, value.lo, value.hi)
        found |= dict(zip((name, f"{name}_lo", f"{name}_hi"), ends, strict=True))
    return found


def of_artefact(folder: Path) -> tuple[Record, Record]:
    """The original and the last row of what `fasthmr compress` wrote; raises BadInput for anything else."""
    _, plans, contents = checked(folder)
    try:
        stored = json.loads(contents["result.json"])
        first, last = stored["rows"][0], stored["rows"][-1]
        recipe = Recipe.parse(contents["recipe.yaml"].decode(), "recipe.yaml")
        none = Recipe(schema_version=1, name=recipe.name, steps=())
        return of_row(first, none, (), stored["provenance"]), of_row(last, recipe, plans, stored["provenance"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{folder}: not a folder with measurements of `fasthmr compress`: {error}") from error


def of_row(row: dict[str, Any], recipe: Recipe, plans: Sequence[Plan], source: dict[str, Any]) -> Record:
    """A row of result.json as a record; what it does not say stays empty."""
    same = ("layers", "params", "macs", "frames_per_s", "mpjpe_mm", "pa_mpjpe_mm", "pve_mm", "accel_mm_per_frame2",
            "tokens", "protected_merged_share")  # fmt: skip
    end = None if row["mpjpe_mm"]["lo"] is None else 0.0
    nothing, errors = {"mean": 0.0, "lo": end, "hi": end}, row.get("per_joint_mm", {})
    stored = {
        **{key: row[key] for key in same},
        "recipe": recipe.model_dump(mode="json"),
        "recipe_id": recipe.id,
        "plans": [plan.model_dump(mode="json") for plan in plans],
        "mpjpe_rise_mm": row["mpjpe_rise_mm"] or nothing,
        "provenance": source,
        **{key: row.get(key, ()) for key in ("parts", "per_clip")},  # not in artefacts of before there were such
        "per_joint_mm": in_order(errors),
        "worst": (),
        **dict.fromkeys(("latency_ms", "peak_memory_bytes")),
    }
    return Record.model_validate_json(json.dumps(stored))


def in_order(errors: dict[str, float]) -> dict[str, float]:
    """The errors of joints, which a file has sorted by name, in the order of the body; joints without names in that of
    their numbers."""
    names = NAMES.get(len(errors), ())
    return {name: errors[name] for name in (names if {*names} == {*errors} else sorted(errors))}


def csv(table: pd.DataFrame) -> bytes:
    return table.to_csv(index=False).encode()


def parquet(table: pd.DataFrame) -> bytes:
    stream = BytesIO()
    table.to_parquet(stream, index=False)
    return stream.getvalue()
