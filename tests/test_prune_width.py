"""Width pruning: a narrower model is the wide one with units zeroed, and the units that go are the least missed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.utils import prune

from compress import artefact
from compress.cost.macs import cost
from compress.errors import BadInput
from compress.layers.energies import energy, importances, second_moment
from compress.policies.merge_layers import MergeLayers
from compress.policies.merge_tokens import MergeTokens
from compress.policies.prune_width import BlockWidth, Kept, PruneWidth, WidthPlan, count, strongest
from compress.policy import MadeFor
from compress.tokens import Tokens
from hmr.models.model import HMRModel, build
from tests import sizes
from tests.planning import applied, planned

TINY = {**sizes.TINY, "heads": 4, "mlp_dim": 40}
FEATURES = 8  # of a head
CROPS = torch.randn(3, 3, 256, 192, generator=torch.Generator().manual_seed(1))
MASKS = torch.zeros(3, 256, 192)
MASKS[:, 60:200, 50:140] = 1
HALF = PruneWidth(mlp_ratio=0.5, head_ratio=0.5)


class Frames:
    """A judge whose errors nobody may ask for: importance takes no labels."""

    def __init__(self, crops: Sequence[Tensor] = CROPS.split(2), masks: Sequence[Tensor] | None = MASKS.split(2)):
        self.crops, self.masks = crops, masks

    def errors(self, index: int, tokens: Tokens, model: Any = None) -> Tensor:
        raise AssertionError("width is pruned without labels")


def model(seed: int = 0) -> HMRModel:
    """With weights large enough for every unit to count."""
    torch.manual_seed(seed)
    made = build("hmr2", TINY).eval()
    for name, value in made.backbone.blocks.named_parameters():
        if not name.endswith(("norm1.weight", "norm2.weight")):
            nn.init.normal_(value, std=0.2)
    return made


def blocks(of: HMRModel) -> Any:
    """Its blocks, whose layers nn.Module hides from types."""
    return of.backbone.blocks


def zeroed(dense: HMRModel, plan: WidthPlan) -> HMRModel:
    """The dense model with the removed units' weights and biases at zero."""
    made = copy.deepcopy(dense)
    with torch.no_grad():
        for block, width in zip(blocks(made), plan.blocks, strict=True):
            assert width is not None
            gone = torch.tensor(width.hidden.removed, dtype=torch.long)
            block.mlp.fc1.weight[gone], block.mlp.fc1.bias[gone], block.mlp.fc2.weight[:, gone] = 0, 0, 0
            heads = torch.zeros(width.heads.of, dtype=torch.bool)
            heads[width.heads.removed] = True
            columns = heads.repeat_interleave(FEATURES)
            block.attn.qkv.weight[columns.repeat(3)] = 0
            block.attn.qkv.bias[columns.repeat(3)] = 0
            block.attn.proj.weight[:, columns] = 0
    return made


def tokens(of: HMRModel) -> Tensor:
    with torch.no_grad():
        return of.encode(CROPS.to(of.backbone.pos_embed.dtype), MASKS).x


@pytest.mark.parametrize("dtype, limit", [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("mlp, heads", [(0.5, 0.0), (0.0, 0.5), (0.35, 0.25), (0.97, 0.9)])
@pytest.mark.parametrize("merge", [(), (MergeTokens(keep=120, per_layer=40),)])
def test_the_output_is_the_dense_models_with_the_units_zeroed(mlp, heads, dtype, limit, merge):
    dense = model()
    narrow = copy.deepcopy(dense)
    plan = planned(PruneWidth(mlp_ratio=mlp, head_ratio=heads), narrow, Frames())
    applied(plan, narrow)
    wide, whole, narrow = (m.to(dtype) for m in (zeroed(dense, plan), dense, narrow))
    for step in merge:
        for each in (wide, whole, narrow):
            applied(planned(step, each), each)
    assert (tokens(narrow) - tokens(wide)).abs().max() < limit
    assert (tokens(narrow) - tokens(whole)).abs().max() > 100 * limit


def test_layers_are_as_narrow_as_asked_and_cost_what_they_should():
    pruned = model()
    before = cost(pruned, CROPS[:1], MASKS[:1])
    applied(planned(HALF, pruned, Frames()), pruned)
    for block in blocks(pruned):
        assert block.attn.heads == 2
        assert block.attn.qkv.weight.shape == (3 * 16, 32) and block.attn.proj.weight.shape == (32, 16)
        assert block.mlp.fc1.weight.shape == (20, 32) and block.mlp.fc2.weight.shape == (32, 20)
    after = cost(pruned, CROPS[:1], MASKS[:1])
    saved = 3 * 192 * (4 * 32 * 16 + 2 * 32 * 20)  # half of qkv and proj, half of fc1 and fc2
    assert before.macs.linear - after.macs.linear == saved
    assert before.macs.true - after.macs.true == saved + 3 * 2 * 192 * 192 * 16
    assert pruned.state_dict().keys() == model().state_dict().keys()


def test_the_least_energy_goes_first():
    """Against removing each unit by itself and looking at how far the block's update moves."""
    made = model()
    heads, hidden = importances(made, Frames())[0]
    block = blocks(made)[0]
    with torch.no_grad():
        x = made.backbone.embed(CROPS).x
        rows = x.shape[0] * x.shape[1]
        after = x + block.attend(x)[0]
        for unit in (0, 7, 39):
            without = copy.deepcopy(block)
            without.mlp.fc2.weight[:, unit] = 0
            assert hidden[unit].item() == pytest.approx((block.feed(after) - without.feed(after)).square().sum() / rows)
        for head in range(4):
            without = copy.deepcopy(block)
            without.attn.proj.weight[:, head * FEATURES : (head + 1) * FEATURES] = 0
            change = (block.attend(x)[0] - without.attend(x)[0]).square().sum() / rows
            assert heads[head].item() == pytest.approx(change.item(), rel=1e-4)
    plan = planned(HALF, made, Frames())
    assert hidden[plan.blocks[0].hidden.removed].max() < hidden[list(plan.blocks[0].hidden.units)].min()
    share = heads[plan.blocks[0].heads.removed].sum() / heads.sum()
    assert plan.measured["energy_removed"][0]["heads"] == pytest.approx(share.item())


def test_energy_is_the_sum_over_rows_written_out():
    x, weight = torch.randn(5, 6), torch.randn(4, 6)
    for units in (1, 2, 6):
        parts = [(x.unflatten(1, (units, -1))[:, u] @ weight.unflatten(1, (units, -1))[:, u].T) for u in range(units)]
        expected = torch.stack([part.double().square().sum() for part in parts])
        assert torch.allclose(energy(weight, second_moment(x, units)), expected, rtol=1e-5)


def test_batches_do_not_matter_and_planning_changes_nothing():
    made = model().train()
    before = copy.deepcopy(made.state_dict())
    whole, apart = (planned(HALF, made, Frames(CROPS.split(size), None)) for size in (3, 1))
    assert whole.decided() == apart.decided()
    assert made.training and all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    assert not any(module._forward_pre_hooks for module in made.modules())


@pytest.mark.parametrize("units, ratio, left", [(3, 0.33, 2), (3, 0.1, 3), (3, 0.9, 1), (100, 0.29, 71), (1, 0.99, 1)])
def test_counts_are_the_nearest_and_one_is_left(units, ratio, left):
    assert count(units, ratio) == left


def test_of_equal_units_the_first_stay():
    assert strongest(torch.tensor([1.0, 2.0, 1.0, 1.0]), 2).units == (0, 1)


def test_works_after_merge_layers_and_not_before():
    made = model()
    layers = MergeLayers(strategy="explicit", windows=((0, 1),))
    narrow = copy.deepcopy(made)
    applied(planned(layers, made), made)
    plan = planned(HALF, made, Frames())
    assert len(plan.blocks) == 2
    wide = zeroed(made, plan)
    applied(plan, made)
    assert (tokens(made) - tokens(wide)).abs().max() < 1e-5
    half = planned(HALF, narrow, Frames())
    half = half.model_copy(update={"blocks": (half.blocks[0], *map(whole, half.blocks[1:]))})
    applied(half, narrow)
    with pytest.raises(BadInput, match="put merge_layers before prune_width"):
        applied(planned(MergeLayers(strategy="explicit", windows=((0, 1),), operator="mean"), narrow), narrow)
    with pytest.raises(BadInput, match="3 blocks, this model has 2: put prune_width after merge_layers"):
        planned(HALF, model(), Frames()).shape(made)


def whole(width: BlockWidth) -> BlockWidth:
    return BlockWidth(heads=all_of(width.heads.of), hidden=all_of(width.hidden.of))


def all_of(units: int) -> Kept:
    return Kept(of=units, units=tuple(range(units)))


def test_importance_is_of_the_tokens_that_are_left():
    made = model()
    applied(planned(MergeTokens(keep=100, per_layer=50), made), made)
    assert planned(HALF, made, Frames()).made_for.depth == 3
    with pytest.raises(BadInput, match="frames with masks"):
        planned(HALF, made, Frames(masks=None))


def test_frozen_parameters_stay_frozen_and_a_model_in_training_in_training():
    made = model().train()
    made.backbone.blocks[0].requires_grad_(False)
    applied(planned(HALF, made, Frames()), made)
    assert made.training and not any(p.requires_grad for p in made.backbone.blocks[0].parameters())
    assert all(p.requires_grad for p in made.backbone.blocks[1].parameters())


def test_one_model_leaves_nothing_in_the_next():
    first, second = model(0), model(0)
    applied(planned(HALF, first, Frames()), first)
    with torch.no_grad():
        for p in second.backbone.blocks.parameters():
            p.mul_(0.9)
    alone = copy.deepcopy(second)
    plan = planned(PruneWidth(mlp_ratio=0.25, head_ratio=0.25), second, Frames())
    applied(plan, second)
    assert (tokens(second) - tokens(zeroed(alone, plan))).abs().max() < 1e-5


def test_an_artefact_comes_back_equal(tmp_path):
    made = model()
    plan = planned(HALF, made, Frames())
    applied(plan, made)
    base = artefact.Base(name="tiny", architecture="hmr2", sizes=TINY, sha256="0" * 64)
    origin = artefact.Origin(base=base, seed=0, commit="0" * 40, versions={})
    artefact.save(tmp_path / "out", made, [plan], origin, "", "# tiny")
    again = artefact.load(tmp_path / "out", build)
    assert isinstance(again, HMRModel) and torch.equal(tokens(again), tokens(made))
    assert (tmp_path / "out" / "model.safetensors").stat().st_size < sum(p.nbytes for p in model().parameters())


def test_nothing_to_remove_is_an_empty_plan_that_needs_no_frames():
    made = model()
    before = tokens(made)
    plan = planned(PruneWidth(mlp_ratio=0.01, head_ratio=0.1), made)
    assert plan.empty and plan.measured == {}
    applied(plan, made)
    assert torch.equal(tokens(made), before)
    assert not planned(HALF, made, Frames()).empty


def test_what_cannot_be_done_is_said():
    with pytest.raises(BadInput, match="needs frames"):
        planned(HALF, model())
    pruned = model()
    plan = planned(HALF, pruned, Frames())
    applied(plan, pruned)
    with pytest.raises(BadInput, match="4 heads and 40 hidden units in block 0, this model has 2 and 20"):
        applied(plan, pruned)
    other = model()
    other.backbone.blocks[1] = nn.Sequential(nn.Linear(32, 32))
    with pytest.raises(BadInput, match="layers of Sequential blocks are not known"):
        HALF.check(other)


@pytest.mark.parametrize("ratio", [1.0, -0.1, "0.5"])
def test_ratios_are_shares(ratio):
    with pytest.raises(ValidationError):
        PruneWidth(mlp_ratio=ratio)


@pytest.mark.parametrize("units", [(), (1, 0), (0, 0), (4,), (-1, 2)])
def test_plans_hold_possible_units_only(units):
    with pytest.raises(ValidationError):
        Kept(of=4, units=units)
    assert Kept(of=10**12, units=(10**12 - 1,)).of == 10**12  # no list of all of them is made to look
    with pytest.raises(ValidationError, match="0 blocks in a plan for 2"):
        WidthPlan(made_for=MadeFor(depth=2, dim=8, grid=(16, 12)), blocks=())


def test_masked_weights_are_made_plain_first():
    masked = model()
    prune.l1_unstructured(blocks(masked)[1].mlp.fc1, "weight", 0.5)
    with pytest.raises(BadInput, match=r"as by a mask: make it plain first, as torch\.nn\.utils\.prune\.remove"):
        HALF.check(masked)
    prune.remove(blocks(masked)[1].mlp.fc1, "weight")
    HALF.check(masked)
