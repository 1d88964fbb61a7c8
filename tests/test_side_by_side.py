"""`fasthmr bench`: what is run, what the ratios are, and which sentences follow. No test looks at a time."""

from __future__ import annotations

import pytest
import torch

from compress.policies.merge_tokens import MergeTokens
from experiments import side_by_side as module
from experiments.side_by_side import contenders, side_by_side, slower, why
from hmr.models.model import HMRModel, build
from tests import test_decoder
from tests.planning import applied, planned
from tests.sizes import TINY

CPU = torch.device("cpu")


def model(*steps: MergeTokens) -> HMRModel:
    torch.manual_seed(0)
    found = build("hmr2", TINY).eval()
    for step in steps:
        applied(planned(step, found), found)
    found.name = "merged" if steps else "original"
    return found


def test_every_model_is_run_in_every_precision_at_every_batch(monkeypatch):
    monkeypatch.setattr(module, "emulated", lambda capabilities: False)
    result = side_by_side([model(), model(MergeTokens(keep=90, per_layer=60))], [1, 2], 2, False, CPU)
    cases = [(c["name"], c["runtime"], c["precision"], c["batch"]) for c in result["cases"]]
    names, precisions = ("original", "merged"), ("float32", "bfloat16")
    assert cases == [(n, "torch", p, batch) for batch in (1, 2) for n in names for p in precisions]
    for case in result["cases"]:
        first = next(c for c in result["cases"] if c["batch"] == case["batch"])
        assert case["time_ratio"] == pytest.approx(first["median_s"] / case["median_s"])
        assert case["frames_per_s"] == pytest.approx(case["batch"] / case["median_s"])
        assert (case["mac_ratio"] > 1) == (case["name"] == "merged")
        parts = {
            stage["part"]: stage["share"]
            for stage in result["stages"]
            if all(stage[name] == case[name] for name in ("name", "precision", "batch"))
        }
        merging = {"matching and merging"} if case["name"] == "merged" else set()
        assert set(parts) == {"embed", "blocks", "decoder blocks", "head", "body"} | merging
        assert sum(share for part, share in parts.items() if part != "body") == pytest.approx(1)


def test_bfloat16_is_run_where_the_cpu_has_it_and_changes_no_model(monkeypatch):
    monkeypatch.setattr(module, "emulated", lambda capabilities: True)
    given = model()
    assert [one.precision for one in contenders([given], False, CPU)] == ["float32"]
    monkeypatch.setattr(module, "emulated", lambda capabilities: False)
    assert [one.precision for one in contenders([given], False, CPU)] == ["float32", "bfloat16"]
    assert {value.dtype for value in given.parameters()} == {torch.float32}


def test_compiled_ones_stand_beside_their_models(monkeypatch):
    monkeypatch.setattr(module, "emulated", lambda capabilities: True)
    plain, compiled = contenders([model()], True, CPU)
    assert (plain.runtime, compiled.runtime) == ("torch", "torch.compile") and compiled.model is plain.model


def test_a_motion_decoder_is_a_part_of_its_model(monkeypatch):
    monkeypatch.setattr(module, "emulated", lambda capabilities: True)
    bare = test_decoder.encoder()
    result = side_by_side([bare, test_decoder.decoded(bare)], [2], 1, False, CPU)
    first, second = result["cases"]
    assert first["mac_ratio"] == 1 > second["mac_ratio"] and first["time_ratio"] == 1
    (decoder,) = (stage for stage in result["stages"] if stage["part"] == "decoder")
    assert 0 < decoder["share"] < 1 and decoder["median_s"] < second["median_s"]
    assert sum(stage["share"] for stage in result["stages"] if stage["part"] != "body") == pytest.approx(2)


def row(name: str, precision: str, seconds: float, source: str = "a", runtime: str = "torch", merging=0.0) -> dict:
    return {"name": name, "runtime": runtime, "precision": precision, "batch": 1, "source": source, "macs": 1,
            "median_s": seconds, "merging_s": merging}  # fmt: skip


def test_what_became_slower_is_said_and_nothing_else(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": True})
    rows = [
        row("one", "float32", 2.0),
        row("two", "float32", 3.0, "b"),
        row("one", "int8", 5.0),
        row("two", "int8", 1.0, "b"),
        row("one.onnx", "float32", 4.0, runtime="onnxruntime"),  # another runtime is no step that was made
        row("three", "float32", 1.0, "c"),
        row("rounded", "int8", 6.0, "d"),  # an artefact of other weights, beside no float32 of its own
    ]
    assert slower(rows) == [
        "two in float32 takes 1.50 times as long as one in float32 here, in torch at batch 1",
        "one in int8 takes 2.50 times as long as one in float32 here, in torch at batch 1",
        "rounded in int8 takes 1.20 times as long as one in int8 here, in torch at batch 1",
        "rounded in int8 takes 3.00 times as long as one in float32 here, in torch at batch 1",
    ]


def test_a_reason_is_given_where_one_is_known():
    plain, merged, rounded = row("a", "float32", 1.0), row("b", "float32", 2.0, merging=0.5), row("c", "int8", 3.0)
    assert why(merged, plain, {}) == ": 25% of it is matching and merging" and why(plain, merged, {}) == ""
    assert why(rounded, plain, {"avx512_f": True}) == ": this CPU has no VNNI, which multiplies int8"
    assert why(rounded, plain, {"avx512_vnni": True}) == "" and why(rounded, rounded, {}) == ""
