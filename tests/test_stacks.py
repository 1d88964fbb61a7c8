"""The laws of anybody's stack, over small copies of public layouts here and over real packages in `test_zoo.py`."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

from compress import artefact
from compress.cost.macs import cost
from compress.errors import BadInput
from compress.policies.merge_layers import MergeLayers
from compress.policies.merge_tokens import MergeTokens
from compress.policies.precision import Precision
from compress.policies.prune_width import PruneWidth
from compress.policy import Policy
from compress.stack import encode
from compress.tokens import Tokens
from hmr.models.own_proof import prove
from tests.known_network import Network
from tests.networks import DEPTH, DIM, FAMILIES
from tests.planning import applied, planned

LAYERS = MergeLayers(strategy="explicit", operator="drop", windows=((1, 2),))
HALF = PruneWidth(mlp_ratio=0.5, head_ratio=0.5)


@pytest.fixture(params=FAMILIES)
def family(request) -> Network:
    return FAMILIES[request.param]


@pytest.fixture(params=["dinov3", "dinov3-max"])
def rotary(request) -> Network:
    return FAMILIES[request.param]


class Frames:
    """Crops to rank units on: nobody may ask for errors."""

    masks = None

    def __init__(self, family: Network) -> None:
        self.crops = [family.images()]

    def errors(self, index: int, tokens: Tokens, model: Any = None) -> torch.Tensor:
        raise AssertionError("width is pruned without labels")


def merging(family: Network, **asked) -> MergeTokens:
    """28 patches go, twelve in a block at most."""
    return MergeTokens(keep=family.patches - 28, per_layer=12, **asked)


@torch.no_grad()
def test_without_steps_it_is_the_users_own_network(family):
    """Identity, against the network's own forward."""
    found = family.own().encode(family.images())
    assert (found.prefix, found.grid) == (family.prefix, family.grid)
    torch.testing.assert_close(found.x, family.tokens(family.module(), family.images()), rtol=1e-5, atol=5e-5)


@torch.no_grad()
def test_steps_that_change_nothing_leave_it_as_it_is_to_the_bit(family):
    """Identity."""
    model = family.own()
    said = model(family.images(), family.masks()).x
    for step in (MergeLayers(strategy="explicit", windows=()), MergeTokens(keep=family.patches), PruneWidth()):
        applied(planned(step, model), model)
    assert torch.equal(model(family.images(), family.masks()).x, said)
    assert torch.equal(family.own()(family.images()).x, said)


@torch.no_grad()
def test_mask_tome_spares_the_person_and_the_prefix(family):
    """Laws 2 and 3: the person's 12 patches and the prefix keep tokens of their own."""
    model, images, masks = family.own(), family.images(), family.masks()
    applied(planned(merging(family), model), model)
    tokens = model(images, masks)
    assert tokens.x.shape[1] == family.prefix + family.patches - 28
    assert tokens.size[:, family.prefix :].sum(1).tolist() == [family.patches] * 3
    assert (tokens.size[:, : family.prefix] == 1).all()
    place, person = tokens.source, masks[:, :: family.patch, :: family.patch].flatten(1)
    assert (place >= family.prefix).all() and person.sum(1).tolist() == [12] * 3
    assert (tokens.size.gather(1, place)[person] == 1).all()
    assert tokens.to_grid().shape == (3, DIM, *family.grid)
    alone = torch.cat([model(images[i : i + 1], masks[i : i + 1]).x for i in range(3)])
    torch.testing.assert_close(tokens.x, alone, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_grid_has_each_patch_the_features_of_its_token(family):
    model = family.own(head_needs="grid")
    applied(planned(merging(family, protect="none"), model), model)
    tokens = model(family.images())
    grid, columns = tokens.to_grid(), family.grid[1]
    for frame in range(3):
        for patch in range(family.patches):
            wanted = tokens.x[frame, tokens.source[frame, patch]]
            assert torch.equal(grid[frame, :, patch // columns, patch % columns], wanted)
    with pytest.raises(BadInput, match="full grid"):
        planned(MergeTokens(keep=20, mode="drop"), family.own(head_needs="grid"))


@torch.no_grad()
def test_layers_merge_in_the_users_module_under_the_same_keys(family):
    """Also in the user's own forward, which finds its blocks where they were."""
    model = family.own()
    before = set(model.state_dict())
    applied(planned(LAYERS, model), model)
    assert len(model.stack.blocks) == DEPTH - 1 and set(model.state_dict()) < before
    by_hand = family.module()
    del by_hand.get_submodule(family.blocks)[2]
    # in float64: the last bit of a float32 product differs between CPUs, and can tip a rounding of bfloat16 rotations
    images = family.images().double()
    wanted = family.tokens(by_hand.double(), images)
    torch.testing.assert_close(model.double()(images).x, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(family.tokens(model.module, images), wanted, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_narrow_blocks_are_the_wide_ones_with_units_at_zero(family):
    """And a narrow block still runs alone."""
    wide, narrow = family.own(), family.own()
    plan = planned(HALF, narrow, Frames(family))
    applied(plan, narrow)
    for block, cut, width in zip(wide.stack.blocks, narrow.stack.blocks, plan.blocks, strict=True):
        units, heads = wide.stack.units(block), width.heads
        assert narrow.stack.units(cut).widths == (len(heads.units), len(width.hidden.units))
        assert units.widths == (heads.of, width.hidden.of) and heads.removed and width.hidden.removed
        units.heads[0].out.weight.unflatten(1, (heads.of, -1))[:, heads.removed] = 0
        units.down.weight[:, width.hidden.removed] = 0
        if family.runs_narrow:
            prove(narrow.stack, cut)
    found, wanted = (model(family.images()).x for model in (narrow, wide))
    assert found.shape == wanted.shape and found.isfinite().all()
    if family.sums_units:
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
@torch.no_grad()
def test_fewer_bits_say_nearly_the_same(family, dtype):
    model = family.own()
    before = model(family.images()).x
    applied(planned(Precision(dtype=dtype), model), model)
    after = model(family.images()).x
    assert after.dtype == before.dtype and not torch.equal(after, before)
    assert (after - before).norm() < 0.1 * before.norm()


def test_cost_counts_each_part_once(family):
    model = family.own()
    model.reader = lambda own, tokens: tokens.x
    counted = cost(model, family.images(1))
    assert counted.params == sum(p.numel() for p in model.parameters()) == sum(p.params for p in counted.parts)
    assert counted.layers == DEPTH and counted.macs.true == sum(p.macs.true for p in counted.parts)


@torch.no_grad()
def test_artefact_of_a_users_model_comes_back_into_their_own_module(family, tmp_path):
    """It comes back with no data, no search and no builder of ours."""
    model, plans = family.own(), []
    steps: tuple[Policy, ...] = (LAYERS, HALF, merging(family))
    for step in steps:
        plans.append(planned(step, model, Frames(family)))
        applied(plans[-1], model)
    origin = artefact.Origin(base=model.base, seed=0, commit="", versions={})
    artefact.save(tmp_path / "out", model, plans, origin, "", "")
    fresh = family.own()
    for value in fresh.parameters():
        value.zero_()
    found = artefact.load(tmp_path / "out", fresh)
    said = (each(family.images(), family.masks()).x for each in (found, model))
    assert torch.equal(*said)


@torch.no_grad()
def test_a_copy_is_whole_and_so_is_one_from_another_process(family):
    """No patched classes: what makes the first tokens is the copy's own, and a model can be pickled."""
    model = family.own()
    said, copied = model(family.images(), family.masks()).x, copy.deepcopy(model)
    for value in model.parameters():
        value.zero_()
    assert torch.equal(copied(family.images(), family.masks()).x, said)
    stack = copied.stack
    if family.pickles:
        again = pickle.loads(pickle.dumps(stack))
        assert torch.equal(encode(again, family.images()).x, encode(stack, family.images()).x)


def test_a_merged_token_is_turned_half_way_between_its_patches(rotary):
    """Against the module's own sines and cosines of whole patches, which a kept token has to the bit."""
    model = rotary.own()
    rope, (rows, columns), prefix = model.stack.rope, model.grid, rotary.prefix
    sin, cos = rope.whole(model.grid)
    whole = Tokens.of(torch.zeros(1, prefix + rows * columns, DIM), model.grid, prefix)
    kept = whole.kept(torch.arange(prefix + rows * columns)[None, : prefix + 9])
    assert all(torch.equal(a[0, 0], b[:9]) for a, b in zip(rope.at(kept), (sin, cos), strict=True))
    for one, other in ((0, 1), (0, columns)):  # a neighbour in the row, and one in the column
        place = torch.arange(prefix + rows * columns)
        place[prefix + other] = prefix + one
        place[prefix + other + 1 :] -= 1
        found = (of[0, 0, one] for of in rope.at(whole.reduced(place[None], len(place) - 1)))
        between = torch.complex(cos[one] + cos[other], sin[one] + sin[other])
        between = between / between.abs()  # angles less than half a turn apart
        for mine, wanted in zip(found, (between.imag, between.real), strict=True):
            torch.testing.assert_close(mine, wanted, rtol=0, atol=1e-4)
