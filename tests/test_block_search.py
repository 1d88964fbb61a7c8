"""A search block by block on a tiny model, whose recipes are measured cheap first."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from compress.artefact import canonical
from experiments.search import lab, storage
from experiments.search import workers as search
from experiments.search.early import NoFurther, Worse, measured_first
from experiments.search.study import parsed
from experiments.search.trials import STOPPED
from tests import search_study

place = search_study.place  # a fixture

STUDY = """schema_version: 1
name: blocks
model: tiny.safetensors
data: synth
frames: {calib: 3, val: 8, test: 8}
steps: []
per_block: [merge_layers, prune_width, merge_tokens]
sampler: budgets
"""
FIRST = 3  # budgets


@pytest.fixture(scope="module")
def bench(place):
    spec = parsed(STUDY, "blocks.yaml")
    return lab.Lab(spec)


def test_measured_by_parts_is_what_is_measured_at_once(bench):
    frames, model = bench.frames("val"), bench.model
    assert len({*frames.recordings}) > 4
    whole, seen = frames.measure(model), []
    found = measured_first(model, frames, "parts", lambda *_: None, lambda errors: seen.append(dict(errors)))
    for one in fields(whole.errors):
        torch.testing.assert_close(getattr(found.errors, one.name), getattr(whole.errors, one.name))
    assert [len(errors) for errors in seen] == [4] and found.row()["per_clip"][:4] == whole.row()["per_clip"][:4]
    with pytest.raises(NoFurther, match="on 4 of 8"):
        measured_first(model, frames, "parts", lambda *_: None, lambda _: Worse(4, 8, 3.0))


def test_budgets_are_measured_first_and_what_is_worse_no_further(bench, monkeypatch):
    monkeypatch.setattr("experiments.search.blocks.FIRST", FIRST)
    stops = lambda errors, macs, others: Worse(4, 8, 5.0) if len(others) > 8 else None  # noqa: E731
    monkeypatch.setattr(lab, "worse", stops)
    spec = bench.study
    trials = search.search(search.SearchJob(spec, storage.default_storage("blocks"), 12))
    drawn = [t for t in trials if not t.name]
    shares = [t.params["budget"] for t in drawn[:FIRST]]
    assert shares == sorted(shares, reverse=True) and len({*shares}) == FIRST
    assert all(value == 0 for t in drawn[:FIRST] for name, value in t.params.items() if name != "budget")
    total = bench.model.cost().macs.true
    assert all(t.record.macs.true <= t.params["budget"] / 100 * total for t in drawn if t.record)
    study = storage.loaded(spec, storage.default_storage("blocks"))
    stopped = [t for t in study.trials if STOPPED in t.user_attrs]
    assert stopped and all("5.0 mm" in trials[t.number].reason for t in stopped)
    assert {trials[t.number].state for t in stopped} == {"pruned"} and canonical(trials[stopped[0].number].params)


def test_every_trial_recovers_and_leaves_nothing_behind(bench, place):
    text = STUDY.replace("name: blocks", "name: healed").replace("sampler: budgets", "sampler: random")
    text = text.replace("steps: []", "steps: [{policy: recover, steps: 25}]\nspace: {recover.steps: [25, 50, 25]}")
    spec = parsed(text, "healed.yaml")
    trials = search.search(search.SearchJob(spec, storage.default_storage("healed"), 4))
    drawn = [t for t in trials if t.record and not t.name]
    assert drawn and {t.params["recover.steps"] for t in drawn} <= {25, 50}
    assert not any(t.name == "recover alone" for t in trials) and not [*place.glob("home/recover/*")]
    record = drawn[0].record
    assert record and record.recipe.steps[-1].model_dump()["steps"] == record.plans[-1].measured["steps"]
    here = lab.Lab(spec)
    bare, _ = here.made(record.recipe.steps[:-1])
    again, context = here.made(record.plans)
    context.forget("recover")
    mm = here.frames("val").measure(again).row()["mpjpe_mm"]["mean"]
    assert mm == record.mpjpe_mm.mean != here.frames("val").measure(bare).row()["mpjpe_mm"]["mean"]
