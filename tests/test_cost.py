"""Costs: the counter against closed formulas, thop's figures and the printed table; nothing here looks at a clock."""

from __future__ import annotations

import json
import sys
from functools import partial
from itertools import pairwise
from math import ceil

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.cost.macs import Macs, cost, operators
from compress.cost.timing import peak_memory, timed
from compress.policies.merge_layers import MergeLayers
from compress.policies.merge_tokens import MergeTokens
from compress.policy import Policy
from compress.stack import Schedule
from hmr.checkpoints.files import save
from hmr.models.model import HMRModel, build
from tests.planning import planned

ECLM = MergeLayers(strategy="explicit", windows=((24, 28),))
MASK_TOME = MergeTokens(keep=90, per_layer=40)
CPU = torch.device("cpu")


def on_meta(architecture: str, *steps: Policy, **sizes: object) -> HMRModel:
    with torch.device("meta"):
        model = build(architecture, sizes).eval()
    for step in steps:
        planned(step, model).shape(model)
    return model


def inputs(model: HMRModel, device: str = "meta") -> tuple[Tensor, Tensor]:
    return torch.zeros(1, 3, *model.crop_size, device=device), torch.ones(1, *model.crop_size, device=device)


def closed_form(model: HMRModel, tokens: list[int]) -> Macs:
    """MACs of an HMR model from its sizes and its tokens after each block; DINOv2 has a class token."""
    s, patch, prefix = model.sizes, model.family.patch, int(hasattr(model.backbone, "cls_token"))
    inner, last = s.head_heads * s.head_dim_head, tokens[-1]
    queries = s.head_dim * 3 * inner + inner * s.head_dim + s.head_dim * inner + inner * s.head_dim
    layer = queries + last * s.dim * 2 * inner + 2 * s.head_dim * s.head_mlp_dim
    head = s.head_depth * layer + s.token_dim * s.head_dim + s.head_dim * 157
    linear, products, norms = 192 * 3 * patch**2 * s.dim + s.iterations * head, 0, 0
    for before, after in pairwise([192 + prefix, *tokens]):
        linear += before * 4 * s.dim**2 + after * 2 * s.dim * s.mlp_dim
        products += 2 * before**2 * s.dim
        norms += (before + after) * s.dim
        if after < before:  # each even token of a patch is compared with each odd one
            patches = before - prefix
            products += ceil(patches / 2) * (patches // 2) * s.dim // s.heads
    products += s.iterations * s.head_depth * 2 * (1 + last) * inner
    norms += last * s.dim + s.iterations * s.head_depth * 3 * s.head_dim
    return Macs(true=linear + products, linear=linear, thop=linear + 4 * norms)


@pytest.mark.parametrize("merges", [(), (40, 40, 22), (0, 96, 30)])
@pytest.mark.parametrize(
    ("architecture", "sizes"),
    [
        ("reference", {}),
        ("reference-small", {}),
        ("hmr2", {}),
        ("hmr2", {"dim": 48, "depth": 5, "heads": 3, "mlp_dim": 80, "head_depth": 2, "head_heads": 2, "iterations": 2}),
        ("hmr2", {"dim": 40, "depth": 3, "heads": 5, "mlp_dim": 16, "token_dim": 157}),
    ],
)
def test_counter_is_the_closed_formula(architecture, sizes, merges):
    model = on_meta(architecture, **sizes)
    model.schedule, model.protect = Schedule(merges), 0.0
    found = cost(model, *inputs(model))
    assert found.macs == closed_form(model, list(found.tokens))
    assert found.tokens[-1] == 192 + (architecture != "hmr2") - sum(merges)
    assert found.layers == model.sizes.depth == len(found.tokens)


@pytest.mark.parametrize(
    ("steps", "params_m", "thop_g"),
    [((), "670.211", "122.590"), ((ECLM,), "591.5", "107.5"), ((ECLM, MASK_TOME), "591.5", "52.8")],
)
def test_figures_of_the_papers_table(steps, params_m, thop_g):
    """FastHMR Tab. 12; the first row to more digits, which are thop's on the upstream network."""
    model = on_meta("hmr2", *steps)
    found = cost(model, *inputs(model))
    digits = len(params_m.split(".")[1])
    assert f"{found.params_thop / 1e6:.{digits}f}" == params_m
    assert f"{found.macs.thop / 1e9:.{digits}f}" == thop_g


def test_parameters_and_products_of_hmr2():
    model = on_meta("hmr2")
    found = cost(model, *inputs(model))
    assert round(found.params / 1e3) == 670_459
    parts = {part.name: part.macs for part in found.parts}
    backbone = sum(macs.linear for name, macs in parts.items() if name.startswith("backbone."))
    assert (round(backbone / 1e6), round(parts["smpl_head"].linear / 1e6)) == (120_985, 1_542)
    assert round((found.macs.true - found.macs.linear) / 1e7) == 302  # attention, 3.02 G


def test_parts_add_up_and_the_other_part_is_positions_and_matching():
    model = on_meta("reference", MASK_TOME)
    found = cost(model, *inputs(model))
    assert sum(part.params for part in found.parts) == found.params
    for convention in ("true", "linear", "thop"):
        assert sum(getattr(part.macs, convention) for part in found.parts) == getattr(found.macs, convention)
    names = [part.name for part in found.parts]
    assert names == [
        "backbone.patch_embed",
        *(f"backbone.blocks.{i}" for i in range(12)),
        "backbone.norm",
        "smpl_head",
        "other",
    ]
    assert found.parts[-1].params == sum(model.backbone.get_parameter(n).numel() for n in ("pos_embed", "cls_token"))
    assert found.parts[-1].macs.true == (96 * 96 + 76 * 76 + 56 * 56) * 64


@pytest.mark.parametrize("architecture", ["hmr2", "reference"])
def test_counts_on_meta_are_those_on_a_cpu(architecture):
    sizes = {"dim": 32, "depth": 2, "heads": 2, "mlp_dim": 48, "head_depth": 1}
    real = build(architecture, sizes).eval()
    assert cost(real, *inputs(real, "cpu")) == cost(on_meta(architecture, **sizes), *inputs(real))


def test_counting_leaves_the_model_as_it_was():
    model = build("reference", {"dim": 32, "depth": 2, "heads": 2}).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        output = model(*inputs(model, "cpu")).betas
        cost(model, *inputs(model, "cpu"))
        assert torch.equal(model(*inputs(model, "cpu")).betas, output)
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


class Product(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *x: Tensor) -> Tensor:
        return self.function(*x)


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1)).softmax(-1) @ v


@pytest.mark.parametrize("attention", [plain_attention, F.scaled_dot_product_attention])
def test_fused_attention_counts_as_much_as_plain(attention):
    q, k, v = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 4)
    counted = operators(Product(attention), q, k, v)[""]
    assert counted["attention"] + counted["matmul"] == 2 * 3 * 5 * 7 * (8 + 4)


def test_batched_product_with_a_bias_is_counted():
    x = torch.randn(2, 5, 7), torch.randn(2, 5, 3), torch.randn(2, 3, 7)
    assert operators(Product(torch.baddbmm), *x)[""]["baddbmm"] == 2 * 5 * 3 * 7


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_convolution_that_names_its_padding_is_counted(device):
    """As SigLIP's patches: 5 x 4 places of 7 outputs, of 3 x 2 x 2 numbers each."""
    with torch.device(device):
        conv, crop = nn.Conv2d(3, 7, 2, stride=2, padding="valid"), torch.zeros(1, 3, 10, 9)
    assert sum(operators(conv, crop)[""].values()) == 5 * 4 * 7 * 12


def test_a_product_without_a_handle_is_refused():
    x = torch.randn(5, 7), torch.randn(2, 5, 3), torch.randn(2, 3, 7)
    with pytest.raises(NotImplementedError, match="addbmm"):
        operators(Product(torch.addbmm), *x)


def test_resizing_pictures_is_no_product():
    """Though `aten::_upsample_bilinear2d_aa` has the word in its name."""
    resized = partial(F.interpolate, size=(4, 4), mode="bilinear", antialias=True)
    assert not operators(Product(resized), torch.randn(1, 3, 8, 8)).get("", {})


def test_timing_runs_everything_in_turn_and_forgets_the_warm_up():
    ran: list[str] = []
    seconds = timed({name: lambda name=name: ran.append(name) for name in "ab"}, 3, CPU, warmup=2)  # type: ignore[misc]
    assert ran == list("ab" * 5)
    assert [len(seconds[name]) for name in "ab"] == [3, 3]


def test_peak_memory_sees_what_a_call_takes():
    nothing, much = (peak_memory(lambda n=n: torch.ones(n), CPU) for n in (1, 50_000_000))  # type: ignore[misc]
    if sys.platform == "linux":
        assert nothing is not None and much is not None
        assert much - nothing > 150e6  # 200 MB were asked for
    else:
        assert nothing is None and much is None


def test_command_counts_an_architecture_without_weights(fasthmr):
    code, out, _ = fasthmr("cost", "hmr2", "--recipe", "fasthmr-hmr2", "--json")
    found = json.loads(out)
    assert code == 0
    counted = ["params", "params_thop", "macs", "layers", "tokens", "parts", "stacks"]
    assert sorted(found) == sorted([*counted, "latency_ms", "peak_memory_bytes", "provenance"])
    assert found["tokens"] == [152, 112, *[90] * 26]
    assert round(found["macs"]["thop"] / 1e8) == 528
    assert (found["latency_ms"], found["peak_memory_bytes"]) == (None, None)
    assert found["provenance"]["model"] == {"name": "hmr2", "architecture": "hmr2", "sha256": None}


def test_command_measures_a_model_with_weights(fasthmr, tmp_path):
    path = save(build("reference-small", {"depth": 3}), tmp_path / "mine.safetensors")
    code, out, _ = fasthmr("cost", path, "--json")
    latency = json.loads(out)["latency_ms"]
    assert code == 0
    assert (latency["batch"], sorted(latency)) == (1, ["batch", "median", "p95", "runs"])
    code, out, _ = fasthmr("cost", path, "--recipe", "mask-tome")
    assert code == 0
    for word in ("backbone.blocks.2", "whole model", "153 → 113 → 91", "95th percentile"):
        assert word in out


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["hmr3"], "did you mean 'hmr2'"),
        (["hmr2", "--recipe", "eclm"], "needs frames"),
        (["hmr2", "--recipe", "fasthmr-reference-video"], "recover is trained"),
        (["reference-smal"], "did you mean 'reference-small'"),
    ],
)
def test_what_cannot_be_counted_is_one_sentence(fasthmr, words, hint):
    code, out, err = fasthmr("cost", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert hint in err
