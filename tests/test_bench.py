"""The benchmark at a tiny size: what it runs is one network, and what it writes adds up. No test looks at a time."""

from __future__ import annotations

import json

import pytest
import torch

from compress.policies.merge_layers import MergeLayers
from compress.policies.merge_tokens import MergeTokens
from experiments import bench as module
from experiments import side_by_side
from experiments.bench import WINDOWS, cases, main, steps_of
from hmr.models.model import HMRModel, build
from tests.sizes import TINY

STEPS = {
    "eclm": MergeLayers(strategy="explicit", windows=((2, 4),)),
    "eclm+mask_tome": MergeTokens(keep=90, per_layer=40),
}
NAMES = ["tuned", "upstream", *STEPS]


@pytest.fixture
def model() -> HMRModel:
    torch.manual_seed(0)
    return build("hmr2", {**TINY, "depth": 6}).eval()


@torch.no_grad()
def test_upstream_is_the_same_network(model):
    tuned, upstream = cases(model, {})
    crops = torch.randn(2, 3, 256, 192, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(upstream.encode(crops).x, tuned.encode(crops).x, atol=1e-5, rtol=1e-5)
    assert upstream.cost().macs == tuned.cost().macs == model.cost().macs


@torch.no_grad()
def test_cases_have_the_blocks_and_tokens_that_their_steps_leave(model):
    found = cases(model, STEPS)
    assert [one.name for one in found] == NAMES
    assert [len(one.stack.blocks) for one in found] == [6, 6, 4, 4]
    crop, mask = torch.zeros(1, 3, 256, 192), torch.zeros(1, 256, 192)
    assert [one.encode(crop, mask).x.shape[1] for one in found] == [192, 192, 192, 90]
    assert {id(tensor) for one in found for tensor in one.parameters()} == set(map(id, model.parameters()))
    assert len(model.stack.blocks) == 6 and model.protect is None


def test_weights_that_cases_share_are_rounded_once(model, monkeypatch):
    monkeypatch.setattr(side_by_side, "emulated", lambda capabilities: False)
    halves = [one.model for one in side_by_side.contenders(cases(model, STEPS), False, torch.device("cpu"))][1::2]
    assert {next(half.stack.blocks.parameters()).dtype for half in halves} == {torch.bfloat16}
    assert len({id(tensor) for half in halves for tensor in half.parameters()}) == len(list(model.parameters()))


def test_file_has_every_case_beside_the_tuned_one(model, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "build", lambda architecture: model)
    monkeypatch.setattr(module, "steps_of", lambda architecture: STEPS)
    main(tmp_path / "bench.json", rounds=1, batch=2)
    result = json.loads((tmp_path / "bench.json").read_text())
    assert result["rounds"] == 1 and result["provenance"]["schema"] == "fasthmr.bench/1"
    first = [case for case in result["cases"] if case["precision"] == "float32"]
    assert [(case["name"], case["batch"]) for case in first] == [(name, 2) for name in NAMES]
    assert first[0]["time_ratio"] == first[0]["mac_ratio"] == first[1]["mac_ratio"] == 1
    assert 1 < first[2]["mac_ratio"] < first[3]["mac_ratio"]


@pytest.mark.parametrize("architecture", WINDOWS)
def test_an_eighth_of_the_layers_goes_or_what_is_nearest(architecture):
    with torch.device("meta"):
        full = build(architecture)
    whole, _, eclm, _ = (len(case.stack.blocks) for case in cases(full, steps_of(architecture)))
    assert abs(8 * eclm - 7 * whole) <= 4
