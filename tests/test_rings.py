"""The person's surroundings: rings of tokens around a mask go after all that lies further out."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compress.policies.merge_tokens import MergeTokens, TokenPlan
from compress.recipe import Recipe
from compress.stack import Schedule, most_covered
from compress.tokens import Tokens, nearness
from hmr.evaluation.predict import person_merged
from tests.planning import planned
from tests.test_merge_tokens import CROPS, masks, model, patches, person


def ring(mask: Tensor, b: int, patch: int) -> float:
    """How many steps, corners included, a patch of frame `b` lies from the person's nearest: by trying all of them."""
    here = mask[b, ::16, ::16].nonzero().tolist()
    row, column = divmod(patch, 12)
    return min((max(abs(row - r), abs(column - c)) for r, c in here), default=math.inf)


@settings(max_examples=15)
@given(mask=masks, dilate=st.integers(0, 3))
def test_rings_are_told_by_the_distance_to_the_nearest_patch_of_the_person(mask, dilate):
    near = nearness(mask[:, ::16, ::16].flatten(1), (16, 12), dilate)
    for b in range(3):
        assert near[b].tolist() == [max(0, dilate + 1 - ring(mask, b, patch)) for patch in range(192)]


@settings(max_examples=15)
@given(mask=masks, keep=st.integers(1, 191), dilate=st.integers(0, 3), seed=st.integers(0, 2**31))
def test_drop_keeps_the_person_then_the_nearest_rings(mask, keep, dilate, seed):
    """Patches sorted by hand: by ring, then by how much person is in them, then from the first on."""
    shares = torch.rand(3, 16, 12, generator=torch.Generator().manual_seed(seed)).mul(4).floor() / 4  # many are equal
    cover = (shares * mask[:, ::16, ::16]).flatten(1)
    person = patches((cover > 0).unflatten(1, (16, 12)))
    tokens = Tokens.of(torch.zeros(3, 192, 1), (16, 12))
    kept = most_covered(tokens, cover, 192 - keep, dilate)
    for b in range(3):
        far = {i: min(dilate + 1, ring(person, b, i)) for i in range(192)}
        wanted = sorted(range(192), key=lambda i: (far[i], -cover[b, i].item(), i))[:keep]
        assert kept[b].tolist() == sorted(wanted)


@settings(max_examples=15)
@given(mask=masks, mode=st.sampled_from(["merge", "drop"]), order=st.permutations(range(3)))
def test_laws_hold_around_a_dilated_person(mask, mode, order):
    """Mass or the count of what is left, the person and the ring spared where there is room, no look at the batch."""
    reducing = model(keep=150, mode=mode, dilate=1)
    with torch.no_grad():
        tokens, mixed = reducing.encode(CROPS, mask), reducing.encode(CROPS[order], mask[order])
        alone = reducing.encode(CROPS[1:2], mask[1:2])
    assert tokens.x.shape == (3, 150, 32)
    torch.testing.assert_close(tokens.size.sum(1), torch.full((3,), 150.0 if mode == "drop" else 192.0))
    near = nearness(mask[:, ::16, ::16].flatten(1), (16, 12), 1) > 0
    small = near.sum(1) <= (150 if mode == "drop" else 24)
    assert (person_merged(tokens, near)[small] == 0).all()
    assert torch.equal(tokens.source[order], mixed.source) and torch.equal(tokens.source[1:2], alone.source)
    torch.testing.assert_close(tokens.x[1:2], alone.x, atol=1e-5, rtol=0)


def test_a_dilated_mask_protects_as_the_larger_mask_does():
    body = person("body")
    grown = patches(nearness(body[:, ::16, ::16].flatten(1), (16, 12), 2).unflatten(1, (16, 12)) > 0)
    with torch.no_grad():
        rings, larger = model(keep=120, dilate=2).encode(CROPS, body), model(keep=120).encode(CROPS, grown)
    assert torch.equal(rings.x, larger.x) and not torch.equal(rings.x, model(keep=120).encode(CROPS, body).x)


def test_without_rings_no_id_knows_of_them():
    """A hash of what is written is the id of recipes and artefacts, one of `repr` that of encoders."""
    for dilate in (0, 2):
        step = MergeTokens(keep=90, dilate=dilate)
        plan = planned(step, model())
        for written in (step.model_dump(mode="json"), plan.decided()["schedule"], plan.schedule.__repr__()):
            assert ("dilate" in written) == (dilate > 0)
        assert (
            Recipe(schema_version=1, name="a", steps=(step,)).model_dump(mode="json")["steps"][0].get("dilate", 0)
            == dilate
        )
        assert TokenPlan.model_validate_json(plan.model_dump_json()) == plan
    shown = "Schedule(merges=(40,), drop=0, partition='parity', proportional_attention=False)"
    assert repr(Schedule((40,))) == shown and repr(Schedule((40,), dilate=1)) == shown[:-1] + ", dilate=1)"


@pytest.mark.parametrize("mode", ["merge", "drop"])
def test_a_plan_names_its_rings(mode):
    assert (
        ", with 2 rings of tokens around it" in planned(MergeTokens(keep=90, mode=mode, dilate=2), model()).describe()
    )
    assert "rings" not in planned(MergeTokens(keep=90, mode=mode), model()).describe()
