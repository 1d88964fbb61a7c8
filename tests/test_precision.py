"""Precision: what each type is held against, and that models of fewer bits come back equal."""

from __future__ import annotations

import copy
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from compress import artefact
from compress.cost.bfloat16 import emulated, warn_if_slow
from compress.cost.macs import cost
from compress.errors import BadInput
from compress.policies import precision
from compress.policies.merge_tokens import MergeTokens
from compress.policies.precision import Dtype, Int8Linear, Precision
from compress.policies.recover import Recover
from hmr.models.model import HMRModel, build
from tests import sizes
from tests.planning import applied, planned

TINY = {**sizes.TINY, "heads": 4}
CROPS = torch.randn(2, 3, 256, 192, generator=torch.Generator().manual_seed(1))
MASKS = torch.zeros(2, 256, 192)
MASKS[:, 60:200, 50:140] = 1
LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
both = pytest.mark.parametrize("dtype", ["bfloat16", "int8"])


def model(dtype: Dtype = "float32") -> HMRModel:
    torch.manual_seed(0)
    made = build("hmr2", TINY).eval()
    for value in made.backbone.blocks.parameters():
        if value.ndim == 2:
            nn.init.normal_(value, std=0.2)
    applied(planned(Precision(dtype=dtype), made), made)
    return made


def tokens(of: HMRModel) -> Tensor:
    with torch.no_grad():
        return of.encode(CROPS, MASKS).x


@both
def test_the_error_is_small_and_not_nothing(dtype):
    plain, fewer = tokens(model()), tokens(model(dtype))
    assert fewer.dtype == torch.float32
    error = (fewer - plain).norm() / plain.norm()
    assert 1e-5 < error < {"bfloat16": 0.01, "int8": 0.03}[dtype]


def test_bfloat16_is_of_the_blocks_alone():
    made = model("bfloat16")
    assert {p.dtype for p in made.backbone.blocks.parameters()} == {torch.bfloat16}
    rest = {value.dtype for name, value in made.state_dict().items() if ".blocks." not in name}
    assert rest == {torch.float32}


def test_bfloat16_blocks_are_the_rounded_blocks_added_up_in_float32():
    made = model("bfloat16")
    blocks: Any = made.backbone.blocks
    with torch.no_grad():
        x = made.backbone.embed(CROPS).x
        for block in blocks:
            x = x + block.attend(x.bfloat16())[0].float()
            x = x + block.feed(x.bfloat16()).float()
        assert torch.equal(tokens(made), made.get_submodule("backbone.last_norm")(x))


def test_int8_layers_are_torchaos():
    """Against its own way, `quantize_` on the same layers."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    theirs = model()
    quantize_(theirs.backbone.blocks, Int8DynamicActivationInt8WeightConfig())
    assert torch.equal(tokens(model("int8")), tokens(theirs))


def test_int8_layers_round_as_written_out():
    """Round each row of the input and of the weight to 127.5ths of its largest number; multiply; scale back."""
    linear, x = nn.Linear(24, 16), torch.randn(2, 5, 24)
    with torch.no_grad():
        made = Int8Linear.of(linear)
        (w, w_scale), (y, y_scale) = rounded(linear.weight), rounded(x)
        assert torch.allclose(made.scale, w_scale)
        assert (made.weight - w).abs().max() <= 1 and (made.weight - w).abs().mean() < 0.01  # ties, in the last bit
        expected = (y @ made.weight.float().T) * y_scale * made.scale[:, 0] + linear.bias
        assert (made(x) - expected).abs().max() < 2 * (y_scale.max() * linear.weight.abs().max())  # ties here too
    bare = Int8Linear.of(nn.Linear(24, 16, bias=False))
    assert bare.bias is None and bare(x).shape == (2, 5, 16)


def rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    scale = x.abs().amax(-1, keepdim=True) / 127.5
    return (x / scale).round().clamp(-128, 127), scale


def test_int8_is_of_the_blocks_linear_layers(tmp_path):
    made = model("int8")
    found = {name for name, layer in made.named_modules() if isinstance(layer, Int8Linear)}
    assert found == {f"backbone.blocks.{i}.{layer}" for i in range(3) for layer in LAYERS}
    plain = model()
    for name, one in (("plain", plain), ("made", made)):
        artefact.write_weights(one.backbone.blocks, tmp_path / name)
    sizes = [(tmp_path / name).stat().st_size for name in ("made", "plain")]
    assert sizes[0] < 0.45 * sizes[1]  # norms, biases and scales stay


@both
def test_the_count_is_what_it_was(dtype):
    plain, fewer = model(), model(dtype)
    want, got = (cost(m, CROPS[:1], MASKS[:1]) for m in (plain, fewer))
    assert (got.macs, got.params, got.params_thop) == (want.macs, want.params, want.params_thop)
    with torch.device("meta"):
        shaped = build("hmr2", TINY).eval()
        planned(Precision(dtype=dtype), shaped).shape(shaped)
    assert cost(shaped, CROPS[:1].to("meta"), MASKS[:1].to("meta")).macs == want.macs


@both
def test_an_artefact_comes_back_equal_after_token_merging_too(dtype, tmp_path):
    made = model()
    plans = []
    for step in (MergeTokens(keep=100, per_layer=50), Precision(dtype=dtype)):
        plans.append(planned(step, made))
        applied(plans[-1], made)
    base = artefact.Base(name="tiny", architecture="hmr2", sizes=TINY, sha256="0" * 64)
    origin = artefact.Origin(base=base, seed=0, commit="0" * 40, versions={})
    artefact.save(tmp_path / "out", made, plans, origin, "", "# tiny")
    again = artefact.load(tmp_path / "out", build)
    assert isinstance(again, HMRModel) and torch.equal(tokens(again), tokens(made))
    kinds = {name: value.dtype for name, value in made.state_dict().items()}
    assert {name: value.dtype for name, value in again.state_dict().items()} == kinds


@both
def test_weights_of_another_type_are_refused(dtype, tmp_path):
    with pytest.raises(BadInput, match="do not fit"):
        artefact.require_state(tmp_path, model(dtype), dict(model().state_dict()))


def test_float32_is_an_empty_plan():
    made = model()
    before = copy.deepcopy(made.state_dict())
    plan = planned(Precision(dtype="float32"), made)
    assert plan.empty
    applied(plan, made)
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    assert not planned(Precision(dtype="bfloat16"), made).empty


def test_int8_without_torchao_is_refused_before_anything_is_done(monkeypatch):
    plan = planned(Precision(dtype="int8"), model())
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torchao" else found(name))
    made = model()
    for act in (Precision(dtype="int8").check, plan.shape, lambda other: applied(plan, other)):
        with pytest.raises(BadInput, match="needs torchao, which is not installed"):
            act(made)
    assert not any(isinstance(layer, Int8Linear) for layer in made.modules())


def test_int8_where_torchao_does_not_run_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)  # as an import that fails
    monkeypatch.setattr(precision, "torchao", precision.torchao.__wrapped__)  # what was imported before is forgotten
    with pytest.raises(BadInput, match="does not run with torchao"):
        Precision(dtype="int8").check(model())


def test_torchao_is_imported_without_a_word():
    """It warns of each kernel that was built for another machine: nothing that a user could act on."""
    code = "from compress.policies.precision import refuse_int8; refuse_int8()"
    root = Path(__file__).parents[1]
    ran = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("", "")


def test_a_type_that_is_not_there():
    with pytest.raises(ValidationError):
        Precision(dtype="int4")  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        Precision()  # type: ignore[call-arg]


def test_slow_bfloat16_is_said_once_when_it_is_asked_for(monkeypatch, caplog):
    bare = model()
    x86 = {"architecture": "x86_64", "amx_bf16": False, "avx512_bf16": False}
    assert emulated(x86)
    assert not any(emulated({**x86, name: True}) for name in ("amx_bf16", "avx512_bf16"))
    assert not emulated({"architecture": "aarch64"})  # torch does not say what it has
    for capabilities, said in ((x86, 1), ({**x86, "avx512_bf16": True}, 0)):
        caplog.clear()
        warn_if_slow.cache_clear()
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        for _ in range(2):
            for policy in (Precision(dtype="bfloat16"), Recover(steps=1, precision="bfloat16")):
                policy.check(bare)
        Precision(dtype="float32").check(bare)
        assert caplog.text.count("neither AMX nor AVX512-BF16") == said
