"""A map folded into the lowest block of a run: least squares against numpy, exact where nothing is lost, saved."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from compress import artefact
from compress.context import Context
from compress.errors import BadInput
from compress.layers.folded import folded
from compress.layers.least_squares import RIDGE
from compress.pipeline import run_all_steps
from compress.policies.merge_layers import LayerPlan, MergeLayers
from compress.policies.merge_tokens import MergeTokens
from compress.stack import through
from compress.tokens import Tokens
from hmr.models.own_model import OwnModel
from tests.networks import FAMILIES
from tests.test_prune_width import CROPS, MASKS, Frames, blocks, model, tokens

FOLD = MergeLayers(strategy="explicit", operator="fold", windows=((0, 1),))


def context_of(dense: Any, crops: Any = None, masks: Any = None) -> Context:
    context = Context(dense)
    context.memory["judge"] = Frames() if crops is None else Frames(crops, masks)
    return context


def embedded(dense: Any) -> list[Tokens]:
    return [dense.stack.embed(crop) for crop in CROPS.split(2)]


@torch.no_grad()
def test_it_is_numpys_least_squares() -> None:
    dense = model()
    low, high = blocks(dense)[:2]
    before = embedded(dense)
    pairs = [(one, through(dense.stack, [low, high], one).x) for one in before]
    made: Any = folded(dense.stack, low, pairs)
    hidden: list[Tensor] = []
    lacking = []
    watch = low.mlp.fc2.register_forward_pre_hook(lambda layer, given: hidden.append(given[0].flatten(0, 1)))
    for one, wanted in pairs:
        lacking.append((wanted - through(dense.stack, [low], one).x).flatten(0, 1))
    watch.remove()
    a, d = (torch.cat(parts).double().numpy() for parts in (hidden, lacking))
    centred = a - a.mean(0)
    strength = RIDGE * (centred**2).sum(0).mean()
    rows = np.vstack((centred, np.sqrt(strength) * np.eye(a.shape[1])))
    solution, *_ = np.linalg.lstsq(rows, np.vstack((d - d.mean(0), np.zeros((a.shape[1], d.shape[1])))), rcond=None)
    np.testing.assert_allclose(made.mlp.fc2.weight - low.mlp.fc2.weight, solution.T, atol=1e-3, rtol=1e-3)
    np.testing.assert_allclose(
        made.mlp.fc2.bias - low.mlp.fc2.bias, d.mean(0) - solution.T @ a.mean(0), atol=1e-2, rtol=1e-2
    )


@torch.no_grad()
@pytest.mark.parametrize("name", ["vitpose", "dinov3"])
def test_a_block_that_adds_a_constant_is_folded_without_a_trace(name) -> None:
    """With LayerScale and without; the bias takes it."""
    family = FAMILIES[name]
    dense = family.own()
    upper: Any = dense.stack.blocks[1]
    for last in (upper.attn.proj, upper.mlp.fc2 if name == "vitpose" else upper.mlp.w3):
        nn.init.zeros_(last.weight)
    before = [dense.stack.embed(family.images())]
    run = list(dense.stack.blocks[:2])
    wanted = [through(dense.stack, run, one).x for one in before]
    made = folded(dense.stack, run[0], list(zip(before, wanted, strict=True)))
    torch.testing.assert_close(through(dense.stack, [made], before[0]).x, wanted[0], rtol=1e-3, atol=1e-3)


def test_it_is_nearer_than_leaving_the_upper_block_out_and_costs_a_block_less() -> None:
    dense = model()
    made = run_all_steps(dense, (FOLD,), context_of(dense))
    dropped = run_all_steps(dense, (FOLD.model_copy(update={"operator": "drop"}),), context_of(dense))

    @torch.no_grad()
    def lost(of: Any) -> float:
        run = list(blocks(dense))[:2]
        pairs = ((through(of.stack, [blocks(of)[0]], a).x, through(dense.stack, run, a).x) for a in embedded(dense))
        return sum((one - other).square().sum().item() for one, other in pairs)

    assert lost(made) < lost(dropped)
    assert made.cost().macs == dropped.cost().macs and made.cost().layers == dense.cost().layers - 1


def test_a_fold_of_all_blocks_merges_tokens_and_leaves_the_model_alone() -> None:
    dense = model()
    before = copy.deepcopy(dense.state_dict())
    context = context_of(dense)
    step = MergeLayers(strategy="explicit", operator="fold", windows=((0, 2),))
    made = run_all_steps(dense, (step, MergeTokens(keep=100, per_layer=92)), context)
    assert tokens(made).isfinite().all() and len(blocks(made)) == 1
    for name, value in dense.state_dict().items():
        assert torch.equal(value, before[name])
    assert "one block, by operator fold" in context.plans[0].describe()


def test_an_artefact_comes_back_equal_without_frames(tmp_path) -> None:
    """Of two folds, and of layers that had no bias."""
    family = FAMILIES["dinov3"]

    def own() -> OwnModel:
        module: Any = family.module()
        for block in module.blocks:
            block.mlp.w3.bias = None
        return OwnModel(module, lambda own, tokens: tokens, family.crop, blocks=family.blocks).eval()

    dense = own()
    context = context_of(dense, family.images().split(2))
    step = MergeLayers(strategy="explicit", operator="fold", windows=((0, 1), (2, 3)))
    smaller = run_all_steps(dense, (step, MergeTokens(keep=24, per_layer=24, protect="none")), context)
    origin = artefact.Origin(base=dense.base, seed=0, commit="", versions={})
    artefact.save(tmp_path / "out", smaller, context.plans, origin, "", "")
    again: Any = artefact.load(tmp_path / "out", own())
    with torch.no_grad():
        assert torch.equal(again.encode(family.images()).x, smaller.encode(family.images()).x)


def test_a_plan_is_fitted_again_where_its_weights_are_gone_and_refuses_other_frames() -> None:
    dense = model()
    context = context_of(dense)
    first = run_all_steps(dense, (FOLD,), context)
    plan = LayerPlan.model_validate_json(context.plans[0].model_dump_json())
    assert torch.equal(tokens(run_all_steps(dense, (plan,), context_of(dense))), tokens(first))
    with pytest.raises(BadInput, match="other frames or another machine"):
        run_all_steps(dense, (plan,), context_of(dense, [CROPS.flip(3)], [MASKS]))


def test_it_takes_two_blocks_at_least() -> None:
    with pytest.raises(ValidationError, match="first < last"):
        MergeLayers(strategy="explicit", operator="fold", windows=((1, 1),))
