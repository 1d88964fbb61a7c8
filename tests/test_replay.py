"""Replaying samplers over a table of what was measured, and the space with knobs for each block that it is of."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from compress.policy import ModelSize
from compress.ranking.layout import LEVERS
from experiments.reports import plots
from experiments.search.blocks import BUDGET, BlockSpace
from experiments.search.early import looks, worse
from experiments.search.replay import live
from experiments.search.replay.recovered import RecoveredRecipe, ranks, spread
from experiments.search.replay.searches import SHARES, Replay, correlation, rises, summarised
from experiments.search.replay.table import KINDS, MeasuredRecipe, drawn_rows, read
from experiments.search.sampling import drawn, sampler
from experiments.search.study import Sampler, Study, parsed
from experiments.search.trials import BASELINE, RECORD
from tests.test_measures import macs_of, made_up

STUDY = """schema_version: 1
name: blocks
model: reference
data: synth
steps: [{policy: precision, dtype: float32}]
per_block: [merge_layers, prune_width, merge_tokens]
space: {precision.dtype: [float32, bfloat16]}
"""


def space(name: str = "random", levers: tuple[str, ...] = LEVERS) -> BlockSpace:
    spec = parsed(STUDY.replace("steps:", f"sampler: {name}\nsteps:"), "blocks.yaml")
    measures = made_up(0)
    spec = spec.model_copy(update={"per_block": levers})
    return BlockSpace(spec, ModelSize(2, (4, 2)), measures.encoder, lambda: measures)


class Bench:
    """In the place of a lab."""

    def __init__(self) -> None:
        self.space = space()
        self.study: Study = self.space.spec


def test_knobs_of_each_block_and_of_what_comes_behind():
    found = space()
    assert len(found.ranges) == 1 + 4 * 2 + 1 and found.ranges["prune_width.heads.1"].high == 2
    assert {*space(levers=("prune_width",)).parts()} == {
        f"prune_width.{k}.{i}" for k in ("heads", "hidden") for i in (0, 1)
    }
    values = {name: knob.high for name, knob in found.parts().items()} | {"merge_layers.map.1": 0}
    whole = found.layout(values | {"merge_layers.map.0": 0})
    assert whole.merges == [4, 2] and not whole.mapped and found.layout(values).mapped == {0}
    assert found.layout(values | {"merge_layers.map.1": 1}).mapped == {1}  # not all
    recipe = found.recipe({**values, "merge_layers.map.1": 1, "merge_tokens.merges.0": 0, "precision.dtype": 1})
    assert [step.policy for step in recipe.steps] == ["merge_layers", "precision"]


@pytest.mark.parametrize("name", get_args(Sampler))
def test_every_draw_is_a_recipe_that_its_knobs_give_again(name):
    found = space(name)
    study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler(found))
    for values in found.first:
        study.enqueue_trial(dict(values))
    assert bool(found.first) == (name == "budgets")
    for i in range(12):
        trial = study.ask()
        values = drawn(trial, found)
        layout = found.layout(values)
        again = found.given(found.places(layout))
        assert (again.keep, again.merges, again.mapped) == (layout.keep, layout.merges, layout.mapped)
        assert [step.policy for step in found.recipe(values).steps][-1] == "precision"
        if name == "budgets":
            assert macs_of(found.measures, layout) <= max(
                values[BUDGET] / 100 * found.measures.total, found.paths({}).least
            )
        study.tell(trial, (1.0, float(i)))


def rows(count: int) -> list[MeasuredRecipe]:
    """Errors as the measures say, and each recording's are a little apart."""
    found, made = [], space()
    for i, (kind, places) in enumerate(list(drawn_rows(made))[:count]):
        layout = made.given(places)
        mm = 100 + made.measures.moved(layout)
        each = {f"r{j}": mm + (j - 4.5) + 0.01 * ((i + j) % 3) for j in range(10)}
        found.append(
            MeasuredRecipe(kind, str(i), made.places(layout), macs_of(made.measures, layout), mm, each, 2.0, 2.0)
        )
    return found


def test_a_table_has_some_of_each_kind_from_its_beginning(tmp_path):
    found = rows(120)
    assert {row.kind for row in found[:40]} == {*KINDS} and sum(KINDS.values()) >= 400
    assert [asdict(row) for row in rows(20)] == [asdict(row) for row in found[:20]]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(asdict(row)) + "\n" for row in found) + '{"kind": "ran')
    assert read(file) == found and read(tmp_path / "none") == []


def test_searches_of_a_table_repeat_and_only_get_better(tmp_path, monkeypatch):
    bench, found = Bench(), rows(120)
    journal = tmp_path / "searches.jsonl"
    replay = Replay(bench, found, (bench.space.measures.total, 100.0), 7.0, journal)  # type: ignore[arg-type]
    times, curves = np.linspace(0, 160, 41), {}
    for name in ("random", "tpe", "nsga2", "budgets"):
        seen = replay.searched(name, 0, 160)
        again = [one[1:] for one in replay.searched(name, 0, 160)]
        assert [one[1:] for one in seen][:10] == again[:10] and 10 < len(seen) <= 60
        assert seen[0][0] >= 4 + 7 * (name == "budgets") and {one[1:] for one in seen} <= {
            (r.macs, r.mpjpe_mm) for r in found
        }
        curves[name] = replay.rises(name, 0, times)[None]
        assert curves[name].shape == (1, 41, len(SHARES)) and (np.diff(curves[name], axis=1) <= 0).all()
    monkeypatch.setattr(replay, "searched", None)  # what is in the journal is not searched again
    assert (replay.rises("budgets", 0, times) == curves["budgets"][0]).all()
    told = {row["sampler"]: row for row in summarised(curves, times)}
    assert (
        told["random"]["as_random_s"] <= 160 and told["budgets"]["rise_mm"]["mean"] <= told["random"]["rise_mm"]["mean"]
    )
    assert correlation(replay)["all"] == pytest.approx(1.0)
    assert plots.svg(plots.bands({name: rises.mean(2) for name, rises in curves.items()}, times)).startswith("<svg")


def test_a_rise_is_of_the_least_error_so_far_within_a_share_of_the_macs():
    seen = [(1.0, 60.0, 130.0), (2.0, 30.0, 150.0), (3.0, 20.0, 140.0), (9.0, 20.0, 100.0)]
    found = rises(seen, np.array([0.5, 1.0, 2.0, 3.0]), (100, 120.0), 500.0)
    assert SHARES == (0.7, 0.5, 0.4, 0.3)
    assert found.tolist() == [[380.0] * 4, [10.0] + [380.0] * 3, [10.0] + [30.0] * 3, [10.0] + [20.0] * 3]


def test_trials_are_seen_when_they_are_over_and_baselines_never(monkeypatch):
    record = SimpleNamespace(macs=SimpleNamespace(true=7), mpjpe_mm=SimpleNamespace(mean=90.0))
    monkeypatch.setattr(live, "record_of", lambda stored: record if stored else None)
    start = datetime(2026, 1, 1)

    def trial(number: int, seconds: int, **more: Any) -> optuna.trial.FrozenTrial:
        facts = {"state": TrialState.COMPLETE, "value": 1.0, "user_attrs": {RECORD: "x"}, **more}
        return optuna.trial.FrozenTrial(
            number, facts["state"], facts["value"], start, start + timedelta(seconds=seconds), {}, {},
            facts["user_attrs"], {}, {}, number,
        )  # fmt: skip

    trials = [
        trial(0, 50, user_attrs={RECORD: "x", BASELINE: "original"}),
        trial(1, 2),
        trial(2, 3, state=TrialState.PRUNED, value=None),
        trial(3, 5),
    ]
    assert live.seen_of(trials, 10.0) == [(12.0, 7.0, 90.0), (20.0, 7.0, 90.0)]


def test_recipes_to_recover_lie_evenly_and_their_ranks_are_spearmans():
    table = rows(60)
    some = spread(table, 5)
    errors = sorted(row.mpjpe_mm for row in table)
    assert [row.mpjpe_mm for row in some] == [errors[i] for i in (0, 15, 30, 44, 59)] and len(spread(table[:2], 5)) == 2
    found = [RecoveredRecipe(str(i), "near", 0.4, float(i), float(i**2), after) for i, after in enumerate((3, 2, 1, 0))]
    assert ranks(found) == pytest.approx({"moved_before": 1.0, "moved_after": -1.0, "before_after": -1.0})


def test_a_recipe_is_stopped_where_it_is_worse_beyond_chance_than_one_that_takes_no_more():
    best = {f"r{i:02}": 100.0 + i for i in range(16)}
    worst = {name: mm + 20 + i % 2 for i, (name, mm) in enumerate(best.items())}
    noisy = {name: mm + (30 if i % 2 else -29) for i, (name, mm) in enumerate(best.items())}
    assert looks(16) == [4, 8] and looks(3) == []
    found = worse(worst, 10, [(10, best), (5, noisy)])
    assert found and (found.recordings, found.of) == (4, 16) and 15 < found.least_mm < 20 and "4 of 16" in str(found)
    assert worse(dict(list(worst.items())[:4]), 10, [(10, best)]) == found  # no more of it is needed
    assert (
        worse(worst, 10, [(11, best)]) is None
        and worse(noisy, 10, [(10, best)]) is None
        and worse(best, 10, []) is None
    )
