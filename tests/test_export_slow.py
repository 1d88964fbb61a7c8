"""Every family, way to reduce tokens, precision and format through the gate of an export, at a small size."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
import torch

import hmr
from compress.policies.merge_layers import MergeLayers
from compress.policies.merge_tokens import MergeTokens
from compress.policy import Policy
from hmr.data.sample import batch
from hmr.deploy.export import export
from hmr.models.model import HMRModel, build
from tests.exported import samples
from tests.planning import applied, planned
from tests.sizes import TINY
from tests.test_hand import imported

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
MERGE = MergeTokens(keep=90, per_layer=60)
TOKENS = {"places": 24, "hidden": 8, "codes": 16, "code_dim": 8, "decoder_dim": 8, "decoder_steps": 2, "mixers": 1}
SIZES: dict[str, dict[str, Any]] = {
    "hmr2": {"token_dim": 157, "iterations": 2},
    "camerahmr": {"fov_width": 0},
    "tokenhmr": TOKENS,
    "hamer": {},
    "dinov2": {},
}


def made(family: str, *steps: Policy) -> HMRModel:
    torch.manual_seed(0)
    model = build(family, {**TINY, "depth": 2, **SIZES[family]}).eval()
    for step in steps:
        applied(planned(step, model), model)
    return model


def size(model: HMRModel) -> tuple[int, int]:
    return model.crop_size


@pytest.mark.parametrize("family", SIZES)
def test_every_family_passes(family, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTHMR_HOME", str(tmp_path / "home"))
    if family == "hamer":
        imported(tmp_path / "MANO_RIGHT.pkl")
    model = made(family, MERGE)
    result = export(model, tmp_path / "out", samples(6, size(model)), vertices=True)
    assert [row["worst_mm"] <= 0.1 for row in result["parity"]["batches"]] == [True] * 3
    loaded, seen = hmr.load(tmp_path / "out" / "model.onnx"), batch(samples(2, size(model)))
    mine, theirs = model(*seen.inputs), loaded(*seen.inputs)
    torch.testing.assert_close(loaded.vertices(theirs), model.vertices(mine), atol=1e-4, rtol=1e-4)
    vertices = next(port for port in loaded.interface.outputs if port.name == "vertices")
    assert vertices.shape[1:] == model.vertices(mine).shape[1:]


@pytest.mark.parametrize("form", ["onnx", "openvino"])
@pytest.mark.parametrize(
    "steps",
    [
        (MergeTokens(keep=90, per_layer=60, protect="none"),),
        (MergeTokens(keep=90, per_layer=60, partition="unprotected", proportional_attention=True, dilate=1),),
        (MergeTokens(keep=90, mode="drop", dilate=2),),  # most patches are covered alike: ties everywhere
        (MergeLayers(strategy="explicit", windows=((0, 1),), operator="drop"),),
    ],
    ids=["tome", "unprotected", "drop", "layers"],
)
def test_every_way_to_have_fewer_tokens_or_blocks_passes(steps, form, tmp_path):
    result = export(made("hmr2", *steps), tmp_path / "out", samples(6), form=form)
    assert [row["flipped"] for row in result["parity"]["batches"]] == [()] * 3 or steps[0].policy == "merge_tokens"


def test_float16_halves_what_does_not_decide_what_merges_and_stays_within_its_bound(tmp_path):
    torch.manual_seed(0)
    model: Any = build("hmr2", {**TINY, "dim": 96, "mlp_dim": 96}).eval()  # small matrices are folded into float32
    applied(planned(MergeTokens(keep=132, per_layer=60), model), model)
    first, *others = model.stack.blocks
    first.attn.proj.weight.data = first.attn.proj.weight.half().float()
    result = export(model, tmp_path / "half", samples(6), precision="float16")
    assert all(row["worst_mm"] <= 1 for row in result["parity"]["batches"])
    graph = onnx.load(tmp_path / "half" / "model.onnx").graph
    halves = [torch.Size(t.dims).numel() for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT16]
    matrices = [value.numel() for block in others for value in block.parameters() if value.ndim > 1]
    assert sorted(halves) == sorted([first.attn.proj.weight.numel(), *matrices])


def test_int8_takes_its_ranges_at_a_fixed_batch_too(tmp_path):
    result = export(made("hmr2", MERGE), tmp_path / "out", samples(5), batch=3, precision="int8", calib=samples(4))
    assert result["parity"]["bound_mm"] is None and hmr.load(tmp_path / "out" / "model.onnx").precision == "int8"


def test_a_fixed_batch_and_a_program_of_torch_pass(tmp_path):
    model = made("hmr2", MERGE)
    result = export(model, tmp_path / "three", samples(7), form="torch", batch=3)
    assert [row["batch"] for row in result["parity"]["batches"]] == [3]
    export(model, tmp_path / "four", samples(7), batch=4)
    loaded, seen = hmr.load(tmp_path / "four" / "model.onnx"), batch(samples(7))
    torch.testing.assert_close(loaded(*seen.inputs).betas, model(*seen.inputs).betas, atol=1e-5, rtol=1e-5)
