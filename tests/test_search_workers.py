"""`fasthmr search`: what may be asked of trials, and the workers that run them."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from compress.errors import BadInput
from compress.policy import ModelSize
from experiments.reports import front, front_page
from experiments.search import lab, processes, storage
from experiments.search import workers as search
from experiments.search.machine import machine
from experiments.search.space import Space
from experiments.search.study import parsed
from experiments.search.trials import trials_of
from tests import search_study
from tests.search_study import BASELINES, STUDY, small

place, run = search_study.place, search_study.run  # fixtures


# ---- what is asked of trials


def test_too_wrong_is_complete_and_infeasible(place, monkeypatch):
    monkeypatch.chdir(place)
    job = small("strict", ("space:", "max_error_mm: 1.0\nspace:"))
    trials = search.search(job)
    study = storage.loaded(job.spec, job.storage)
    assert [t.state for t in study.trials[:3]] == [TrialState.COMPLETE] * 3 and study.best_trials == []
    for t in trials:
        assert t.state == "infeasible" and t.record
        assert t.violation == pytest.approx(t.record.mpjpe_mm.mean - 1.0)
    assert front.result(front.study_results("strict.yaml", None))["front"] == []


def test_without_labels_the_original_is_right(place, monkeypatch):
    monkeypatch.chdir(place)
    job = small("free", ("space:", "rivals: [other.safetensors]\nspace:"))
    trials = search.search(search.SearchJob(**{**job.__dict__, "trials": 2, "label_free": True}))
    assert trials[0].record and trials[0].record.mpjpe_mm.mean == 0.0
    assert trials[1].record and trials[1].record.mpjpe_mm.mean > 0.0
    told = front.load_results(["free.yaml"])
    assert "--label-free" in front_page.command(told, trials[1].record, "1")
    assert {*told.rivals["other.safetensors"]} == {"val", "test"}


def test_acceleration_needs_videos(place, monkeypatch):
    monkeypatch.chdir(place)
    with pytest.raises(BadInput, match="accel_mm_per_frame2 needs videos, and synth:val has single ones"):
        search.search(small("calm", ("space:", "objectives: [macs, mpjpe_mm, accel_mm_per_frame2]\nspace:")))


def test_latency_is_measured_alone(place, monkeypatch):
    monkeypatch.chdir(place)
    job = small("fast", ("space:", "objectives: [latency_ms, mpjpe_mm, peak_memory_bytes]\nspace:"))
    with pytest.raises(BadInput, match="--workers 1"):
        search.search(search.SearchJob(**{**job.__dict__, "workers": 2}))
    with machine(alone=False), pytest.raises(BadInput, match="another search runs"):
        search.search(job)
    trials = search.search(search.SearchJob(**{**job.__dict__, "trials": 1}))
    assert trials[0].record and trials[0].record.latency_ms and trials[0].record.peak_memory_bytes


# ---- workers


def test_a_dead_workers_trial_is_run_again(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr(storage, "HEARTBEAT", 1)
    monkeypatch.setattr(storage, "GRACE", 1)
    job = small("dead")
    study = search.opened(job)
    search.record_purpose(study, job, lab.Lab(job.spec))
    search.enqueue_baselines(study, job.spec)
    with_heartbeat, without = study.ask(), study.ask()
    storage.connected(job.storage).record_heartbeat(with_heartbeat._trial_id)
    with_heartbeat.set_user_attr(search.RECIPE_ID, "what it was about to measure")
    time.sleep(3.5)
    trials = search.search(job)
    states = {t.number: t.state for t in study.get_trials()}
    assert states[with_heartbeat.number] == states[without.number] == TrialState.FAIL
    assert TrialState.RUNNING not in states.values()
    again = [t.name for t in trials if t.state != "failed"]
    assert len(again) == 3 and {t.name for t in trials if t.state == "failed"} == {"original", "merge_layers alone"}


def test_workers_that_are_processes_finish_together(place, monkeypatch):
    monkeypatch.chdir(place)
    job = search.SearchJob(**{**small("both").__dict__, "trials": 4, "workers": 2})
    trials = search.search(job)
    study = storage.loaded(job.spec, job.storage)
    assert sum(t.state == TrialState.COMPLETE for t in study.trials) == 4
    assert not any(t.state == TrialState.RUNNING for t in study.trials)
    ids = [t.record.recipe_id for t in trials if t.record and t.same_as is None]
    assert len(ids) == len({*ids})
    assert all(t.test for t in front.study_results("both.yaml", None).front)


def test_a_workers_bad_input_is_the_commands(place, run):
    small("broken", ("frames: {calib: 4, val: 4, test: 4}", "frames: {calib: 4}"))
    Path("gone.safetensors").write_bytes(Path("tiny.safetensors").read_bytes())
    job = small("gone", ("model: tiny", "model: gone"))
    pipe = Pipe()
    Path("gone.safetensors").unlink()
    with pytest.raises(SystemExit) as ended:
        reporting(job, pipe)
    assert ended.value.code == 2 and "no such file" in pipe.said


class Pipe:
    said = ""

    def send(self, sentence: str) -> None:
        self.said = sentence


def reporting(job, pipe):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes.os, "_exit", sys.exit)
        processes.reporting(partial(search.work, job), 0, pipe)


@pytest.mark.parametrize("name", ["tpe", "nsga2", "random"])
def test_samplers_learn_from_what_was_drawn_and_repeat(name):
    spec = parsed(STUDY.replace("space:", f"sampler: {name}\nspace:"), "tiny.yaml")
    space = Space(spec, ModelSize(5, (16, 12)))

    def drawn() -> list[dict[str, float]]:
        storage.quiet()
        study = optuna.create_study(directions=["minimize"] * 2, sampler=search.sampler(space))
        study.enqueue_trial({}, user_attrs={search.RECIPE: spec.recipe.model_dump(mode="json")})

        def objective(trial):
            search.suggested(trial, space)
            keep = trial.params.get("merge_tokens.keep", 0)
            return keep, trial.params.get("merge_layers.layers", 9)

        study.optimize(objective, n_trials=50)
        assert not study.trials[0].params
        if name == "nsga2":
            generations = [t.system_attrs.get("Evolution:generation") for t in study.trials]
            assert generations[0] is None and max(g for g in generations[1:] if g is not None) >= 1
        return [t.params for t in study.trials[1:]]

    first = drawn()
    assert first == drawn()
    late = sum(p["merge_tokens.keep"] for p in first[-15:]) / 15
    assert name == "random" or late < 0.95 * 158  # the mean of what is drawn at random


def test_infeasible_pruned_and_failed_are_three_words(place, run, monkeypatch, tmp_path):
    job = small("words", ("space:", "max_error_mm: 1.0\nspace:"))
    measure = lab.Lab.measure
    broken = {"merge_layers alone": MemoryError("too large"), "prune_width alone": BadInput("does not fit")}
    ids = {job.spec.made_by_hand()[name].id: error for name, error in broken.items()}

    def failing(self, recipe, others):
        if recipe.id in ids:
            raise ids[recipe.id]
        return measure(self, recipe, others)

    monkeypatch.setattr(lab.Lab, "measure", failing)
    code, out, _ = run("search", "words.yaml", "--trials", 3, "--json")
    assert code == 0
    told = {t["name"]: (t["state"], t["reason"]) for t in json.loads(out)["trials"]}
    assert told["original"] == told["merge_tokens alone"] == ("infeasible", "")
    assert told["merge_layers alone"] == ("failed", "MemoryError('too large')")
    assert told["prune_width alone"] == ("pruned", "does not fit")
    assert all(t["recipe"] for t in json.loads(out)["trials"])
    code, out, _ = run("search", "words.yaml", "--trials", 3)
    assert code == 0 and "0 complete, 3 infeasible, 1 pruned, 1 failed" in " ".join(out.split())
    rows = trials_of(storage.loaded(job.spec, job.storage), job.spec)
    assert {front_page.trial_row(t)[1] for t in rows} == {"infeasible", "pruned", "failed"}


def test_a_baseline_that_was_stopped_waits_again(place, monkeypatch):
    monkeypatch.chdir(place)
    job = small("stopped")
    (place / "home" / "searches").mkdir(parents=True, exist_ok=True)
    study = search.opened(job)
    for _ in range(2):  # the second time, nothing is added
        search.enqueue_baselines(study, job.spec)
        assert [t.user_attrs[search.BASELINE] for t in study.trials] == BASELINES
    study.tell(study.ask(), state=TrialState.FAIL)  # as by Ctrl-C
    search.enqueue_baselines(study, job.spec)
    waiting = study.get_trials(states=(TrialState.WAITING,))
    assert [t.user_attrs[search.BASELINE] for t in waiting] == [*BASELINES[1:], "original"]


@pytest.mark.parametrize("name", ["tpe", "nsga2", "random"])
def test_what_is_drawn_behind_a_search_for_an_error_fits_what_it_left(place, monkeypatch, name):
    """Of random blocks any threshold merges nearly all: at most 1 of 5 is left, where few tokens can go."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(search, "enqueue_baselines", lambda *asked: None)
    changes = {
        "strategy: greedy, layers: 4": "threshold_mm: 8.0",
        "space:\n  merge_layers.layers: [2, 5]": f"sampler: {name}\nspace:",
        "per_layer: [48, 48]": "per_layer: [8, 96]",
    }
    job = small(f"left-{name}", *changes.items())
    trials = search.search(replace(job, trials=8))
    assert [t.state for t in trials] == ["complete"] * 8
    assert {t.record.layers for t in trials if t.record} == {1}
    assert {t.params["merge_tokens.start"] for t in trials} == {0}


def test_a_search_in_vain_ends(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr(search, "IN_VAIN", 4)
    monkeypatch.setattr(search, "enqueue_baselines", lambda *asked: None)
    job = small("vain")

    def refused(self, recipe, others):
        raise BadInput(f"no frames for {recipe.name}")

    monkeypatch.setattr(lab.Lab, "measure", refused)
    with pytest.raises(BadInput, match=r"of the last 4 recipes none could be measured: .* \(no frames for vain\)"):
        search.search(job)
    trials = trials_of(storage.loaded(job.spec, job.storage), job.spec)
    assert [(t.state, t.reason) for t in trials] == [("pruned", "no frames for vain")] * 4
    assert all(t.recipe and t.params for t in trials)


def test_a_space_that_the_model_has_no_recipe_in(place, monkeypatch):
    monkeypatch.chdir(place)
    with pytest.raises(BadInput, match=r"merge_tokens\.start: begins at 20, and in this model ends at 4"):
        search.search(small("beyond", ("merge_tokens.start: [0, 3]", "merge_tokens.start: [20, 24]")))
    assert not Path(storage.default_storage("beyond").removeprefix("sqlite:///")).exists()


def test_of_all_workers_one_measures_the_original_and_one_each_item_of_the_rest(place, monkeypatch, tmp_path):
    """In one process, one after the other, as a second machine would find it: what is there is read, and equal."""
    monkeypatch.chdir(place)
    job = small("shares")
    measured = list[str]()
    measure = lab.Frames.measure

    def noted(self, model, name="model", observer=lab.silent):
        measured.append(name)
        return measure(self, model, name, observer)

    monkeypatch.setattr(lab.Frames, "measure", noted)
    first, second = (lab.Lab(job.spec, shared=tmp_path) for _ in range(2))
    one, two = (each.original("val") for each in (first, second))
    assert measured == ["original on val"]
    assert {**one.row(), **one.row(two)} == {**two.row(), **two.row(one)}
    assert two.frames is second.frames("val") and two.frames_per_s == one.frames_per_s
    (place / "home" / "searches").mkdir(parents=True, exist_ok=True)
    study = search.opened(job)
    search.record_purpose(study, job, first)
    search.enqueue_baselines(study, job.spec)
    search.run_trials(study, job, first)
    before = len(measured)
    with search.alone(tmp_path / "item-1"):  # another worker has it in hand
        search.run_rest(study, job, first)
    items = search.rest(trials_of(study, job.spec), job.spec, first)
    missing = [i for i, (kind, name, _) in enumerate(items) if search.later(kind, "test", name) not in study.user_attrs]
    assert missing == [1] and measured[before] == "original on test"
    search.run_rest(study, job, second)
    assert len(measured) == before + len(items)  # and the original on test once


def test_the_command_that_opens_a_study_elsewhere_is_printed(place, run):
    small("shown")
    code, out, _ = run("search", "shown.yaml", "--trials", 1)
    url = storage.default_storage("shown")
    assert code == 0 and f"optuna-dashboard{url}" in "".join(out.split())
    assert "optuna-dashboard" not in run("search", "shown.yaml", "--trials", 1, "--json")[1]
