"""MLPs of low rank: nearest by the results' own singular values, exact at full rank, counted, saved, in every stack."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from compress import artefact
from compress.cost.macs import cost
from compress.errors import BadInput
from compress.layers.low_rank import nearest
from compress.layers.one_by_one import Spread
from compress.pipeline import run_all_steps
from compress.policies.merge_layers import MergeLayers
from compress.policies.merge_tokens import MergeTokens
from compress.policies.precision import Precision
from compress.policies.prune_width import PruneWidth
from compress.policies.reduce_rank import RankPlan, ReduceRank
from compress.recipe import Recipe
from compress.stack import through
from hmr.models.own_model import OwnModel
from tests import late
from tests.networks import FAMILIES
from tests.planning import context, planned, stepped
from tests.test_prune_width import CROPS, MASKS, Frames, blocks, model, tokens

QUARTER = ReduceRank(mlp_rank=0.25)  # 8 of 32 features; hidden units are 40


def results(layer: nn.Linear, x: Tensor) -> Tensor:
    return layer.double()(x.double())


@given(st.integers(0, 2**31), st.sampled_from([(12, 8), (8, 12)]), st.booleans())
@torch.no_grad()
def test_the_pair_is_the_best_there_is_of_its_rank(seed: int, sizes: tuple[int, int], bias: bool) -> None:
    """What it loses is what the results' own smallest singular values hold, by Eckart and Young; the mean stays."""
    torch.manual_seed(seed)
    inputs, outputs = sizes
    x = torch.randn(200, inputs).double() @ torch.randn(inputs, inputs).double() + 3
    layer = nn.Linear(inputs, outputs, bias=bias).double()
    pair, wanted = nearest(layer, Spread.of(x), 3), layer(x)
    assert [tuple(one.weight.shape) for one in pair] == [(3, inputs), (outputs, 3)]  # type: ignore[arg-type]
    left = torch.linalg.svdvals(wanted - wanted.mean(0))[3:].square().sum()
    assert (pair(x) - wanted).square().sum().item() == pytest.approx(left.item(), rel=1e-2)
    torch.testing.assert_close(pair(x).mean(0), wanted.mean(0))
    whole = nearest(layer, Spread.of(x), min(sizes))
    torch.testing.assert_close(whole(x), wanted)


@torch.no_grad()
def test_layers_that_have_no_higher_rank_lose_nothing() -> None:
    dense = model()
    for block in blocks(dense):
        for layer in (block.mlp.fc1, block.mlp.fc2):
            u, s, vh = torch.linalg.svd(layer.weight, full_matrices=False)
            layer.weight.copy_(u[:, :8] * s[:8] @ vh[:8])
    _, thin = stepped(QUARTER, copy.deepcopy(dense), Frames())
    assert [*blocks(thin)[0].mlp.fc1[0].weight.shape] == [8, 32]
    torch.testing.assert_close(tokens(thin), tokens(dense), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_each_layer_is_fitted_to_what_the_changed_model_hands_it() -> None:
    dense = model()
    _, thin = stepped(QUARTER, copy.deepcopy(dense), Frames())
    before = through(thin.stack, blocks(thin)[:1], thin.stack.embed(CROPS))
    seen: list[Tensor] = []
    blocks(thin)[1].mlp.fc2.register_forward_pre_hook(lambda layer, given: seen.append(given[0]))
    through(thin.stack, blocks(thin)[1:2], before)
    wanted = nearest(blocks(dense)[1].mlp.fc2, Spread.of(seen[0]), 8)
    torch.testing.assert_close(blocks(thin)[1].mlp.fc2(seen[0]), wanted(seen[0]), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_activations_make_it_nearer_than_the_weights_alone() -> None:
    dense = model()
    _, thin = stepped(QUARTER, copy.deepcopy(dense), Frames())
    plain = copy.deepcopy(dense)
    for block in blocks(plain):
        for layer in (block.mlp.fc1, block.mlp.fc2):
            u, s, vh = torch.linalg.svd(layer.weight, full_matrices=False)
            layer.weight.copy_(u[:, :8] * s[:8] @ vh[:8])
    wanted = tokens(dense)
    assert (tokens(thin) - wanted).norm() < (tokens(plain) - wanted).norm()


def test_macs_are_those_of_two_layers() -> None:
    thin = model()
    before = cost(thin, CROPS[:1], MASKS[:1])
    plan, thin = stepped(QUARTER, thin, Frames())
    after = cost(thin, CROPS[:1], MASKS[:1])
    assert before.macs.true - after.macs.true == 3 * 192 * 2 * (32 * 40 - 8 * (32 + 40))
    assert before.params - after.params == 3 * 2 * (32 * 40 - 8 * (32 + 40))
    outlined = QUARTER.outline(model()).shape(model())
    assert cost(outlined, CROPS[:1], MASKS[:1]).macs == after.macs
    assert plan.describe() == "The layers of 3 MLPs became pairs of rank 8."


def test_what_would_take_no_less_stays_as_it_is() -> None:
    """At 18 of 32 features two layers take 18 * 72 products, more than 32 * 40."""
    plan = planned(ReduceRank(mlp_rank=18 / 32), model(), Frames())
    assert plan.empty and plan.describe() == "No MLP takes less with layers of rank 18."
    assert not planned(ReduceRank(mlp_rank=17 / 32), model(), Frames()).empty


def own(name: str) -> Any:
    family = FAMILIES[name]
    return OwnModel(family.module(), lambda own, tokens: tokens, family.crop, blocks=family.blocks).eval()


@pytest.mark.parametrize("name", ["timm", "dinov2", "dinov3", "hf5"])  # LayerScale, SwiGLU, RoPE
@torch.no_grad()
def test_an_artefact_comes_back_equal_without_frames(name, tmp_path) -> None:
    family, dense = FAMILIES[name], own(name)
    shared = context(dense, Frames(family.images().split(2), None))
    steps = (
        MergeLayers(strategy="explicit", operator="linear", windows=((1, 1),)),
        PruneWidth(mlp_ratio=0.25, refit=True),
        MergeTokens(keep=24, per_layer=12, protect="none"),
        QUARTER,
        Precision(dtype="int8"),
    )
    smaller = run_all_steps(dense, steps, shared)
    thin = shared.plans[3]
    assert isinstance(thin, RankPlan) and [*map(bool, thin.blocks)] == [True, False, True, True]
    origin = artefact.Origin(base=dense.base, seed=0, commit="", versions={})
    artefact.save(tmp_path / "out", smaller, shared.plans, origin, "", "")
    again: Any = artefact.load(tmp_path / "out", own(name))
    assert torch.equal(again.encode(family.images()).x, smaller.encode(family.images()).x)


def test_a_plan_is_fitted_again_where_its_weights_are_gone_and_refuses_other_frames() -> None:
    dense = model()
    plan, first = stepped(QUARTER, copy.deepcopy(dense), Frames())
    read = RankPlan.model_validate_json(plan.model_dump_json())
    assert torch.equal(tokens(run_all_steps(dense, (read,), context(dense, Frames()))), tokens(first))
    with pytest.raises(BadInput, match="other frames or another machine"):
        run_all_steps(dense, (plan,), context(dense, Frames([CROPS.flip(3)], [MASKS])))
    with pytest.raises(BadInput, match="tokens are not finite"):
        planned(QUARTER, dense, Frames([CROPS * torch.nan], [MASKS]))


def test_a_plan_is_for_its_own_model() -> None:
    plan = planned(QUARTER, model(), Frames())
    _, narrow = stepped(PruneWidth(mlp_ratio=0.25), model(), Frames())
    with pytest.raises(BadInput, match="made for 40 hidden units in block 0, this model has 30 there"):
        plan.shape(narrow)
    with pytest.raises(ValidationError, match="there are 2 blocks in a plan for 3"):
        RankPlan.model_validate_json(plan.model_copy(update={"blocks": plan.blocks[:2]}).model_dump_json())


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_what_it_does_not_know_is_refused_in_a_sentence() -> None:
    strange = model()
    blocks(strange)[1].mlp.fc1 = Doubled(32, 40)
    with pytest.raises(BadInput, match=r"a layer in the MLP of Block blocks is no nn\.Linear but a Doubled"):
        QUARTER.check(strange)
    _, thin = stepped(QUARTER, model(), Frames())
    with pytest.raises(BadInput, match="Block blocks cannot be cut: their layers are not linear"):
        PruneWidth(mlp_ratio=0.5).check(thin)
    lines = "schema_version: 1\nname: mine\nsteps:\n  - {policy: reduce_rank, mlp_rank: 0.25}\n"
    with pytest.raises(BadInput, match="put reduce_rank after prune_width"):
        Recipe.parse(lines + "  - {policy: prune_width, mlp_ratio: 0.5}\n", "mine.yaml")
    Recipe.parse(lines + "  - {policy: recover, steps: 1}\n", "mine.yaml")


@torch.no_grad()
def test_a_decoder_loses_what_the_encoder_would(tmp_path) -> None:
    """Its layers are fitted in the model's own code, in order; there, too, activations make them nearer."""
    step = ReduceRank(stack="decoder", mlp_rank=0.25)
    thin, (plan,) = late.made(step)
    crops = late.Apart(late.own()).crops
    wanted = late.own()(crops[0])
    plain = late.own()
    layers: Any = plain.module.layers
    for layer in (one for block in layers for one in (block.ffn.fc1, block.ffn.fc2)):
        u, s, vh = torch.linalg.svd(layer.weight, full_matrices=False)
        layer.weight.copy_(u[:, :8] * s[:8] @ vh[:8])
    assert (thin(crops[0]) - wanted).norm() < (plain(crops[0]) - wanted).norm()
    assert plan.describe() == "The layers of 4 MLPs of decoder became pairs of rank 8."
    origin = artefact.Origin(base=late.own().base, seed=0, commit="", versions={})
    artefact.save(tmp_path / "out", thin, [plan], origin, "", "")
    assert torch.equal(artefact.load(tmp_path / "out", late.own())(crops[0]), thin(crops[0]))
