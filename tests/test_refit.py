"""Layers fitted anew to the units that are left: least squares against numpy, exact where nothing is lost, saved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compress import artefact
from compress.context import Context
from compress.errors import BadInput
from compress.layers.least_squares import RIDGE
from compress.layers.one_by_one import Spread
from compress.layers.refit import correction
from compress.pipeline import run_all_steps
from compress.policies.merge_layers import MergeLayers
from compress.policies.merge_tokens import MergeTokens
from compress.policies.prune_width import PruneWidth, WidthPlan
from compress.stack import through
from hmr.models.model import HMRModel
from hmr.models.own_model import OwnModel
from tests.networks import FAMILIES
from tests.planning import planned
from tests.test_prune_width import CROPS, MASKS, Frames, blocks, model, tokens

HALF = PruneWidth(mlp_ratio=0.5, head_ratio=0.5)
REFIT = PruneWidth(mlp_ratio=0.5, head_ratio=0.5, refit=True)


def context_of(dense: HMRModel) -> Context:
    context = Context(dense)
    context.memory["judge"] = Frames()
    return context


def made(steps: tuple[Any, ...], dense: HMRModel) -> tuple[HMRModel, Context]:
    context = context_of(dense)
    return run_all_steps(dense, steps, context), context


@given(st.integers(0, 2**31), st.sampled_from([1e-9, RIDGE]))
def test_it_is_numpys_least_squares_of_what_goes(seed: int, ridge: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(80, 6, generator=generator) @ torch.randn(6, 6, generator=generator) + 2
    weight, left = torch.randn(4, 6, generator=generator), torch.tensor([0, 3, 4])
    change, bias = correction(Spread.of(x), weight, left, ridge)
    kept, wanted = x[:, left].double().numpy(), (x[:, [1, 2, 5]] @ weight[:, [1, 2, 5]].T).double().numpy()
    a, b = kept - kept.mean(0), wanted - wanted.mean(0)
    strength = ridge * (a**2).sum(0).mean()
    rows = np.vstack((a, np.sqrt(strength) * np.eye(3)))
    solution, *_ = np.linalg.lstsq(rows, np.vstack((b, np.zeros((3, 4)))), rcond=None)
    np.testing.assert_allclose(change, solution.T, atol=1e-3, rtol=1e-3)
    np.testing.assert_allclose(bias, wanted.mean(0) - solution.T @ kept.mean(0), atol=1e-2, rtol=1e-3)


def test_what_others_repeat_goes_without_a_trace() -> None:
    """Units that are doubles of others carry nothing of their own."""
    dense = model()
    with torch.no_grad():
        for block in blocks(dense):
            up, down = block.mlp.fc1, block.mlp.fc2
            up.weight[20:], up.bias[20:] = up.weight[:20], up.bias[:20]
            down.weight[:, 20:] *= 0.1  # of less energy, so that they go
    narrow, _ = made((PruneWidth(mlp_ratio=0.5, refit=True),), dense)
    plain, _ = made((PruneWidth(mlp_ratio=0.5),), dense)
    wanted = tokens(dense)
    assert blocks(narrow)[0].mlp.fc2.in_features == 20
    assert (tokens(narrow) - wanted).norm() < 0.02 * wanted.norm() < (tokens(plain) - wanted).norm()


@torch.no_grad()
def test_the_tokens_of_each_block_are_nearer_and_fitted_behind_the_blocks_below() -> None:
    dense = model()
    plain, fitted = (made((step,), dense)[0] for step in (HALF, REFIT))
    x = [dense.stack.embed(crop) for crop in CROPS.split(2)]
    for i in range(len(blocks(dense))):
        wanted = [through(dense.stack, [blocks(dense)[i]], one).x for one in x]
        lost = {
            name: sum(
                (through(of.stack, [blocks(of)[i]], a).x - b).square().sum() for a, b in zip(x, wanted, strict=True)
            )
            for name, of in (("plain", plain), ("fitted", fitted))
        }
        assert lost["fitted"] < lost["plain"]
        x = [through(fitted.stack, [blocks(fitted)[i]], one) for one in x]


def test_nothing_that_goes_changes_nothing() -> None:
    dense = model()
    assert planned(PruneWidth(refit=True), dense, Frames()).empty
    one = planned(PruneWidth(hidden=(40, 30, 40), heads=(4, 4, 4), refit=True), dense, Frames())
    assert isinstance(one, WidthPlan) and [*map(bool, one.readers)] == [False, True, False]
    narrow, _ = made((PruneWidth(hidden=(40, 30, 40), heads=(4, 4, 4), refit=True),), dense)
    for place in (0, 2):
        for key, value in blocks(dense)[place].state_dict().items():
            assert torch.equal(value, blocks(narrow)[place].state_dict()[key])


@pytest.mark.parametrize("bias", [True, False])
def test_an_artefact_comes_back_equal_without_frames(tmp_path, bias) -> None:
    family = FAMILIES["dinov3"]

    def own() -> Any:
        module: Any = family.module()
        if not bias:
            for block in module.blocks:
                block.mlp.w3.bias = None
        return OwnModel(module, lambda own, tokens: tokens, family.crop, blocks=family.blocks).eval()

    dense = own()
    context = Context(dense)
    context.memory["judge"] = Frames(family.images().split(2), None)
    steps = (
        MergeLayers(strategy="explicit", operator="linear", windows=((1, 1),)),
        REFIT,
        MergeTokens(keep=24, per_layer=12, protect="none"),
    )
    smaller = run_all_steps(dense, steps, context)
    origin = artefact.Origin(base=dense.base, seed=0, commit="", versions={})
    artefact.save(tmp_path / "out", smaller, context.plans, origin, "", "")
    again: Any = artefact.load(tmp_path / "out", own())
    with torch.no_grad():
        assert torch.equal(again.encode(family.images()).x, smaller.encode(family.images()).x)


def test_a_plan_is_fitted_again_where_its_weights_are_gone_and_refuses_other_frames() -> None:
    dense = model()
    first, context = made((REFIT,), dense)
    (plan,) = context.plans
    again = run_all_steps(dense, (WidthPlan.model_validate_json(plan.model_dump_json()),), context_of(dense))
    assert torch.equal(tokens(again), tokens(first))
    others = Context(dense)
    others.memory["judge"] = Frames([CROPS.flip(3)], [MASKS])
    with pytest.raises(BadInput, match="other frames or another machine"):
        run_all_steps(dense, (plan,), others)


def test_tokens_that_are_not_finite_fit_nothing() -> None:
    dense = model()
    with pytest.raises(BadInput, match="tokens are not finite on these frames"):
        planned(REFIT, dense, Frames([CROPS * torch.nan], [MASKS]))


def test_it_stays_out_of_ids_where_it_is_not_asked_for() -> None:
    assert "refit" not in HALF.model_dump(mode="json") and REFIT.model_dump(mode="json")["refit"] is True
    assert "readers" not in planned(HALF, model(), Frames()).model_dump(mode="json")
