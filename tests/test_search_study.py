"""`fasthmr search`: one study on a tiny model, looked at from all sides; and what goes wrong."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import optuna
import pandas as pd
import pytest
import torch
from optuna.trial import TrialState

from compress.recipe import Recipe
from experiments.reports import front, front_page
from experiments.search import lab, storage
from experiments.search import workers as search
from experiments.search.study import read_study
from experiments.search.trials import Record, read, written
from tests import search_study
from tests.planning import planned
from tests.search_study import BASELINES, STUDY, TRIALS, small

place, run = search_study.place, search_study.run  # fixtures


@pytest.fixture(scope="module")
def done(place):
    """(the study in optuna, trials, recipes that were measured) after TRIALS trials."""
    measured: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lab.Lab, "measure", counted(lab.Lab.measure, measured))
        spec = read_study("tiny.yaml")
        trials = search.search(search.SearchJob(spec, storage.default_storage("tiny"), TRIALS))
    return storage.loaded(spec, storage.default_storage("tiny")), trials, measured


def counted(measure, seen):
    def both(self, recipe, others):
        record = measure(self, recipe, others)
        seen.append(recipe.id)
        return record

    return both


def test_as_many_trials_as_asked_are_complete_and_none_is_left(done):
    study, trials, _ = done
    states = [t.state for t in study.trials]
    assert states.count(TrialState.COMPLETE) == TRIALS
    assert not {TrialState.RUNNING, TrialState.WAITING, TrialState.FAIL} & {*states}
    assert [t.number for t in trials] == list(range(len(study.trials)))


def test_what_is_made_by_hand_goes_first(done):
    assert [t.name for t in done[1][: len(BASELINES)]] == BASELINES
    assert not any(t.name for t in done[1][len(BASELINES) :])
    assert all(t.params for t in done[1][len(BASELINES) :])


def test_a_recipe_is_measured_once(done):
    _, trials, measured = done
    assert len(measured) == len({*measured}) == sum(t.record is not None and t.same_as is None for t in trials)
    for t in trials:
        if t.same_as is not None:
            first = trials[t.same_as]
            assert first.record and t.record and first.record.recipe_id == t.record.recipe_id
            assert first.record.values(("macs", "mpjpe_mm")) == t.record.values(("macs", "mpjpe_mm"))


def test_every_draw_is_a_recipe(done):
    """Ranges come from the model: `start` goes up to 24 in a recipe, and this model has 5 blocks."""
    assert {t.state for t in done[1] if not t.name} == {"complete"}
    assert {t.params["merge_tokens.start"] for t in done[1] if not t.name} <= {0, 1, 2, 3}


def test_a_record_can_be_traced(done):
    for t in done[1]:
        if t.record is None:
            continue
        source = t.record.provenance
        assert t.record.recipe.id == t.record.recipe_id
        assert {"commit", "seed", "device", "threads", "versions", "body", "model"} <= {*source}
        assert (source["data"]["split"], source["calib"]["split"]) == ("val", "calib")
        assert (source["data"]["frames"], source["calib"]["frames"], source["threads"]) == (4, 4, 1)
        assert len(t.record.plans) == len(t.record.recipe.steps)
        assert read(written(t.record)) == t.record


def test_the_front_and_what_is_made_by_hand_are_measured_on_test_too(done):
    told = front.study_results("tiny.yaml", None)
    for t in told.trials:
        if t.record and (t in told.front or t.name):
            assert t.test and t.test.provenance["data"]["split"] == "test"
            assert t.test.macs == t.record.macs and t.test.plans == t.record.plans
    assert {*told.rivals["other.safetensors"]} == {"val", "test"}
    recovered = [t for t in told.front if t.recovered]
    assert len(recovered) == 1 and {*recovered[0].recovered} == {"val", "test"}
    assert recovered[0].test and recovered[0].recovered["test"].macs == recovered[0].test.macs


def test_nothing_is_measured_again(done, run, monkeypatch):
    def never(self, *given):
        raise AssertionError("measured again")

    monkeypatch.setattr(lab.Lab, "measure", never)
    monkeypatch.setattr(lab.Lab, "record", never)
    code, out, _ = run("search", "tiny.yaml", "--trials", TRIALS, "--json")
    assert code == 0
    said = json.loads(out)
    assert {"objectives", "reference_point", "trials", "front", "hypervolume", "provenance"} <= {*said}
    assert said["objectives"] == ["macs", "mpjpe_mm"]
    assert len(said["trials"]) == len(said["hypervolume"]) == len(done[1])
    assert said["hypervolume"] == sorted(said["hypervolume"]) and said["hypervolume"][-1] > 0
    assert said["provenance"]["schema"] == "fasthmr.search/1"
    values = {t["number"]: t["values"] for t in said["trials"] if t["state"] == "complete"}
    best = [n for n in values if not any(better(values[m], values[n]) for m in values)]
    assert {tuple(values[n]) for n in said["front"]} == {tuple(values[n]) for n in best}


def better(one, two):
    return one != two and all(a <= b for a, b in zip(one, two, strict=True))


def test_a_point_of_the_front_is_built_again_by_its_command(done, run, place, monkeypatch, tmp_path):
    told = front.study_results("tiny.yaml", None)
    point = next(t for t in told.front if not t.name and t.record and len(t.record.recipe.steps) == 3)
    assert point.record and point.test
    (name, shown), *_ = front_page.copied(point)
    Path(f"{name}.yaml").write_text(front_page.recipe_text(shown.recipe, name))
    words = front_page.command(told, shown, name).split()
    words[words.index("--out") + 1] = str(tmp_path / "made")
    code, out, _ = run(*words[1:], "--json")
    assert code == 0
    result = json.loads(out)
    assert result["recipe_id"] == point.record.recipe_id
    assert result["rows"][-1]["macs"]["true"] == point.test.macs.true
    assert result["rows"][-1]["mpjpe_mm"]["mean"] == pytest.approx(point.test.mpjpe_mm.mean, abs=1e-3)


def test_every_trials_recipe_can_be_run_again(done, run, tmp_path):
    said = front.result(front.study_results("tiny.yaml", None))
    assert all(t["recipe"] for t in said["trials"])
    wanted = ("--model", "tiny.safetensors", "--data", "synth:val", "--frames", 4, "--calib-frames", 4)
    for trial in [t for t in said["trials"] if t["same_as"] is None][::4]:
        path = tmp_path / f"{trial['number']}.yaml"
        path.write_text(json.dumps(trial["recipe"]))
        code, out, told = run("compress", path, *wanted, "--out", tmp_path / path.stem, "--json")
        assert code == 0, told
        result = json.loads(out)
        last = result["rows"][-1]
        assert result["recipe_id"] == trial["recipe_id"]
        assert [last["macs"]["true"], last["mpjpe_mm"]["mean"]] == trial["values"]  # to the bit, on one thread


def test_what_compress_wrote_stands_in_a_report_alone_and_beside_a_study(done, run, tmp_path):
    words = ("--model", "tiny.safetensors", "--data", "synth", "--out")
    for name, frames in (("same", 4), ("fewer", 3)):
        assert run("compress", "mask-tome", *words, tmp_path / name, "--frames", frames)[0] == 0
    code, out, _ = run("report", tmp_path / "same", "--out", tmp_path / "alone", "--json")
    said = json.loads(out)
    assert code == 0 and [t["name"] for t in said["trials"]] == ["tiny.safetensors", str(tmp_path / "same")]
    html = (tmp_path / "alone/report.html").read_text()
    assert "Multiply-accumulates of each point" in html and "Where the error is" in html
    rows = json.loads((tmp_path / "same/result.json").read_text())["rows"]
    assert [t["values"] for t in said["trials"]] == [[r["macs"]["true"], r["mpjpe_mm"]["mean"]] for r in rows]
    code, out, _ = run("report", "tiny.yaml", tmp_path / "same", "--out", tmp_path / "both", "--json")
    assert code == 0 and json.loads(out)["rivals"][-1]["test_values"] == said["trials"][1]["values"]
    code, _, err = run("report", "tiny.yaml", tmp_path / "fewer", "--out", tmp_path / "mixed")
    assert code == 2 and "cannot be compared in one front" in err and not (tmp_path / "mixed").exists()


def test_the_layer_search_is_walked_once(done, place):
    journals = list((place / "home" / "shared-searches").glob("*.jsonl"))
    lines = [line for journal in journals for line in journal.read_text().splitlines()]
    assert len(lines) == len({json.dumps(json.loads(line)["windows"]) for line in lines}) > 5


def test_workers_walk_the_same_path_in_any_order(place, monkeypatch, tmp_path):
    spec = small("walked").spec
    step = spec.steps[0].model_copy(update={"layers": 2})
    found = []
    for worker in range(3):
        monkeypatch.setenv("FASTHMR_HOME", str(tmp_path / str(worker)))
        monkeypatch.setattr("compress.layers.search.os.getpid", lambda: worker)  # noqa: B023  # called in this turn
        mine = lab.Lab(spec)
        found.append(step.plan(mine.model, mine.context).decided())
    alone = lab.Lab(spec)
    assert found == [planned(step, alone.model, alone.context.judge).decided()] * 3


def test_all_trials_are_rows_of_a_table(done, run, tmp_path):
    code, _, _ = run("report", "tiny.yaml", "--out", tmp_path / "out")
    assert code == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"report.html", "front.json", "front.png", "trials.csv", "trials.parquet"}
    as_text, exact = pd.read_csv(tmp_path / "out/trials.csv"), pd.read_parquet(tmp_path / "out/trials.parquet")
    assert list(as_text.columns) == list(exact.columns) and len(exact) == len(done[1])
    for t, row in zip(done[1], exact.to_dict("records"), strict=True):
        assert (row["number"], row["state"]) == (t.number, t.state)
        if t.record:
            assert row["macs_true"] == t.record.macs.true and row["val_mpjpe_mm"] == t.record.mpjpe_mm.mean
            assert row["commit"] == t.record.provenance["commit"]
    recovered = [Recipe.load(str(path)) for path in (tmp_path / "out").glob("*-recovered.yaml")]
    assert [recipe.steps[-1].policy for recipe in recovered] == ["recover"]
    for t in front.study_results("tiny.yaml", None).front:
        assert t.record
        steps = Recipe.load(str(tmp_path / f"out/{t.number}.yaml")).steps
        assert [step.policy for step in steps] == [step.policy for step in t.record.recipe.steps]


def test_a_recipe_that_another_worker_measures_now_is_waited_for(done, monkeypatch):
    monkeypatch.setattr(search, "POLL", 0.01)
    study = optuna.create_study(directions=["minimize"] * 2)
    record = done[1][0].record
    one, two = study.ask(), study.ask()
    found: list[tuple[int, Record] | None] = []
    two.set_user_attr(search.RECIPE_ID, record.recipe_id)
    waiting = threading.Thread(target=lambda: found.append(search.known(study, two.number, record.recipe_id)))
    waiting.start()
    time.sleep(0.1)
    assert waiting.is_alive()  # the earlier one has not said yet what it measures
    one.set_user_attr(search.RECIPE_ID, record.recipe_id)
    assert search.known(study, one.number, record.recipe_id) is None  # so the earlier one does the work
    one.set_user_attr(search.RECORD, written(record))
    study.tell(one, [1.0, 1.0])
    waiting.join(10)
    assert found == [(one.number, record)]


@pytest.mark.parametrize(
    "change, named",
    [
        (("mlp_ratio: 0.5}", "mlp_ratio: 0.25}"), "steps"),
        (("model: tiny", "model: other"), "model"),
        (("val: 4", "val: 5"), "frames"),
        (("space:", "max_error_mm: 50\nspace:"), "max_error_mm"),
    ],
)
def test_a_study_that_was_made_for_something_else(done, run, change, named):
    Path("changed.yaml").write_text(STUDY.replace(*change))
    code, _, err = run("search", "changed.yaml", "--trials", 20, "--storage", storage.default_storage("tiny"))
    assert code == 2 and f"made for other {named}" in err and err.count("\n") == 1


def test_another_space_goes_on_with_the_same_study(done, run):
    text = STUDY.replace("merge_layers.layers: [2, 5]", "merge_layers.layers: [3, 5]")
    Path("narrower.yaml").write_text(text.replace("seed: 0", "seed: 1"))
    code, _, _ = run("search", "narrower.yaml", "--trials", TRIALS)
    assert code == 0


def test_worst_frames_are_those_of_the_worst_recordings():
    from hmr.evaluation.evaluate import Errors

    joints = torch.zeros(6, 24, 3)
    zeros = torch.zeros(6)
    rise = torch.tensor([1.0, 3.0, 9.0, 0.0, 5.0, 6.0])
    now = Errors(rise[:, None].expand(6, 24) + 10, zeros, zeros, joints, joints, zeros, zeros)
    original = Errors(torch.full((6, 24), 10.0), zeros, zeros, joints, joints, zeros, zeros)
    clips = ["a", "a", "b", "b", "c", "c"]
    found = lab.worst(now, original, clips)
    assert [(w.clip, w.frame, w.rise_mm) for w in found] == [("c", 5, 6.0), ("b", 2, 9.0), ("a", 1, 3.0)]
