"""Token reduction as a policy: schedules, masks and what a model makes of them (laws 1 to 4)."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from compress.errors import BadInput
from compress.policies.merge_tokens import MergeTokens, TokenPlan, merges_to
from compress.stack import Schedule
from compress.tokens import DROPPED
from hmr.evaluation.predict import person_merged
from hmr.models.model import HMRModel, build
from tests import sizes
from tests.planning import applied, planned

TINY = {**sizes.TINY, "depth": 4, "head_depth": 2, "head_mlp_dim": 40}
CROPS = torch.randn(3, 3, 256, 192, generator=torch.Generator().manual_seed(1))


def model(**asked) -> HMRModel:
    torch.manual_seed(0)
    made = build("hmr2", TINY).eval()
    if asked:
        applied(planned(MergeTokens(**asked), made), made)
    return made


def patches(mask: Tensor) -> Tensor:
    """A mask of whole patches (B, 16, 12) in pixels."""
    return mask.repeat_interleave(16, 1).repeat_interleave(16, 2)


def person(kind: str, seed: int = 0) -> Tensor:
    """A mask (3, 256, 192) of whole patches."""
    rows, columns = torch.meshgrid(torch.arange(16), torch.arange(12), indexing="ij")
    random = torch.rand(3, 16, 12, generator=torch.Generator().manual_seed(seed)) < 0.3
    one = (rows == 5) & (columns == 7)
    body = (rows > 2) & (rows < 14) & (columns > 3) & (columns < 8)
    kinds = {"all": one | ~one, "none": one & ~one, "one": one, "body": body}
    return patches(random if kind == "random" else kinds[kind].expand(3, -1, -1))


masks = st.builds(person, st.sampled_from(["all", "none", "one", "body", "random"]), st.integers(0, 2**31))


def test_the_papers_schedule():
    plan = planned(MergeTokens(keep=90, per_layer=40), model())
    assert plan.schedule == Schedule((40, 40, 22))
    assert plan.schedule.counts(192, 4) == [152, 112, 90, 90]


@given(st.integers(1, 192), st.integers(1, 400))
def test_exactly_keep_remain_or_the_reason_is_told(keep, per_layer):
    try:
        merges = merges_to(keep, 192, per_layer)
    except BadInput as error:
        assert "one matching takes half" in str(error)
        left = 192
        while left - keep > 0 and 2 * min(per_layer, left - keep) <= left:
            left -= min(per_layer, left - keep)
        assert left > keep  # there is a layer that cannot
        return
    assert 192 - sum(merges) == keep
    assert all(r == per_layer for r in merges[:-1]) and all(0 < r <= per_layer for r in merges[-1:])
    assert all(2 * r <= 192 - sum(merges[:i]) for i, r in enumerate(merges))


@torch.no_grad()
def test_merges_of_each_block_behind_what_is_dropped():
    made = model(mode="drop", keep=120, dilate=1, merges=(20, 0, 30, 0))
    assert made.schedule == Schedule((20, 0, 30), drop=72, dilate=1)
    tokens = made.encode(CROPS, person("body"))
    assert tokens.x.shape[1] == 70 and tokens.size.sum(1).eq(120).all() and made.cost().tokens == (100, 100, 70, 70)
    asked = MergeTokens(keep=142, merges=(20, 0, 30, 0))
    assert planned(asked, model()).schedule == Schedule((20, 0, 30))
    assert "→ 100 → 70" in planned(MergeTokens(mode="drop", keep=120, merges=(20, 0, 30, 0)), model()).describe()
    assert "merges" not in MergeTokens(keep=90).model_dump(mode="json") and {*asked.knobs()} == set()
    assert {*MergeTokens(mode="drop", keep=90, merges=(1,)).knobs()} == {"keep"}


@pytest.mark.parametrize(
    "asked, words",
    [
        ({"keep": 150, "merges": (42,)}, "1 numbers, and there are 4 blocks"),
        ({"keep": 150, "merges": (20, 0, 20, 0)}, "keep has to be 152"),
        ({"keep": 60, "mode": "drop", "merges": (20, 21, 0, 0)}, "block 1 has 40 tokens"),
    ],
)
def test_merges_that_cannot_be(asked, words):
    with pytest.raises(BadInput, match=words):
        planned(MergeTokens(**asked), model())


def test_merges_take_the_place_of_a_schedule():
    with pytest.raises(ValidationError, match="beside merges"):
        MergeTokens(keep=90, merges=(102,), per_layer=8)
    with pytest.raises(ValidationError, match="beside merges"):
        MergeTokens(keep=90, merges=(102,), start=1)


def test_merging_starts_where_it_is_told_to():
    assert planned(MergeTokens(keep=150, per_layer=40, start=2), model()).schedule.merges == (0, 0, 40, 2)


@pytest.mark.parametrize(
    "asked, words",
    [
        ({"keep": 193}, "keep: 193 is more than the 192 tokens"),
        ({"keep": 193, "mode": "drop"}, "keep: 193 is more than the 192 tokens"),
        ({"keep": 20, "per_layer": 97}, "layer 1 of those that merge would take 97 of 192"),
        ({"keep": 90, "per_layer": 10}, "in block 10 with per_layer: 10 .* last block is 3"),
        ({"keep": 90, "start": 2}, "in block 4 .* last block is 3"),
        ({"keep": 90, "start": 10**12}, "last block is 3"),
        ({"keep": 90, "dilate": 16}, "16 rings around any token cover the whole 16 x 12 grid: at most 15"),
    ],
)
def test_impossible_schedules_are_refused_with_a_reason(asked, words):
    fresh = model()
    for act in (MergeTokens(**asked).check, lambda made: planned(MergeTokens(**asked), made)):
        with pytest.raises(BadInput, match=words):
            act(fresh)
    assert fresh.schedule == Schedule()


@pytest.mark.parametrize(
    "asked, field",
    [
        ({"mode": "drop", "per_layer": 20}, "per_layer"),
        ({"mode": "drop", "proportional_attention": True}, "proportional_attention"),
        ({"mode": "drop", "protect": "none"}, "protect"),
        ({"protect": "none", "coverage": 0.5}, "coverage"),
        ({"protect": "none", "dilate": 1}, "dilate"),
        ({"dilate": -1}, "dilate"),
        ({"keep": 0}, "keep"),
        ({"coverage": 1.0}, "coverage"),
        ({"partition": "half"}, "partition"),
    ],
)
def test_wishes_that_contradict_each_other_are_refused(asked, field):
    with pytest.raises(ValidationError, match=field):
        MergeTokens(**{"keep": 90, **asked})


@pytest.mark.parametrize(
    "schedule",
    [
        {"merges": [97]},
        {"merges": [-1]},
        {"merges": [1] * 5},
        {"drop": 192},
        {"drop": -1},
        {"dilate": 16},
        {"dilate": -1},
    ],
)
def test_a_plan_that_no_forward_pass_could_follow_is_none(schedule):
    said = planned(MergeTokens(keep=90), model()).model_dump(mode="json")
    said["schedule"] = {**said["schedule"], "merges": [], **schedule}
    with pytest.raises(ValidationError, match=r"192 tokens, 4 blocks|16 rings cover|dilate"):
        TokenPlan.model_validate_json(json.dumps(said))


@pytest.mark.parametrize(
    "asked", [{"mode": "drop"}, {"protect": "none"}, {"per_layer": 20, "start": 1}, {"mode": "drop", "dilate": 2}]
)
def test_a_step_comes_back_from_json(asked):
    step = MergeTokens(keep=90, **asked)
    assert MergeTokens.model_validate_json(step.model_dump_json()) == step


def test_keeping_everything_is_an_empty_plan_and_changes_nothing():
    for mode in ("merge", "drop"):
        plain, same = model(), model()
        plan = planned(MergeTokens(keep=192, mode=mode), same)
        applied(plan, same)
        assert plan.empty
        with torch.no_grad():
            assert torch.equal(plain(CROPS).features, same(CROPS).features)


def test_a_model_without_steps_is_its_own_backbone_and_head():
    plain = model()
    with torch.no_grad():
        alone = plain.smpl_head(plain.backbone(CROPS))
        for mask in (None, person("body")):
            assert torch.equal(plain(CROPS, mask).features, alone.features)


def test_a_second_schedule_is_refused():
    with pytest.raises(BadInput, match="reduced already"):
        planned(MergeTokens(keep=60), model(keep=90))


def test_a_missing_or_misshapen_mask_is_told():
    masked = model(keep=90)
    with pytest.raises(BadInput, match="needs a person mask"):
        masked(CROPS)
    for wrong in (person("body")[:2], person("body")[:, None]):
        with pytest.raises(BadInput, match=r"a person mask is \(B, H, W\) with B = 3"):
            masked(CROPS, wrong)


def test_a_crop_of_another_size_than_the_schedules_is_refused():
    with pytest.raises(BadInput, match=r"grid of 16 x 12, this crop gives 8 x 6"):
        model(keep=90)(CROPS[:, :, :128, :96], person("body"))


def test_without_protection_no_mask_is_looked_at():
    free = model(keep=90, protect="none")
    with torch.no_grad():
        assert torch.equal(free(CROPS).features, free(CROPS, person("body")).features)


@pytest.mark.parametrize("partition", ["parity", "unprotected"])
@settings(max_examples=20)
@given(mask=masks)
def test_mass_is_kept_and_the_person_is_spared(partition, mask):
    merging = model(keep=150, per_layer=30, partition=partition)
    with torch.no_grad():
        tokens = merging.encode(CROPS, mask)
    assert tokens.x.shape == (3, 150, 32)
    torch.testing.assert_close(tokens.size.sum(1), torch.full((3,), 192.0))
    assert tokens.source.min() >= 0 and tokens.source.max() < 150
    here = merging.person(CROPS, mask)
    assert here is not None
    # 30 pairs of the background in the first layer, 12 in the second: a small person leaves that many on either side
    small = (here > 0).sum(1) <= 24
    assert (person_merged(tokens, here > 0)[small] == 0).all()


@settings(max_examples=20)
@given(mask=masks, order=st.permutations(range(3)))
def test_a_frame_does_not_see_its_batch(mask, order):
    merging = model(keep=90)
    with torch.no_grad():
        together, mixed = merging.encode(CROPS, mask), merging.encode(CROPS[order], mask[order])
        alone = merging.encode(CROPS[1:2], mask[1:2])
    assert torch.equal(together.source[order], mixed.source) and torch.equal(together.source[1:2], alone.source)
    torch.testing.assert_close(together.x[1:2], alone.x, atol=1e-5, rtol=0)


@settings(max_examples=20)
@given(mask=masks, keep=st.integers(1, 191))
def test_drop_keeps_the_most_covered_patches(mask, keep):
    dropping = model(keep=keep, mode="drop")
    with torch.no_grad():
        tokens = dropping.encode(CROPS, mask)
    assert tokens.x.shape[1] == keep
    kept = tokens.source != DROPPED
    assert (kept.sum(1) == keep).all()
    share = mask.float().unfold(1, 16, 16).unfold(2, 16, 16).mean((-2, -1)).flatten(1)  # (3, 192)
    for b in range(3):
        assert share[b][kept[b]].min() >= share[b][~kept[b]].max()


def test_drop_is_refused_where_the_head_needs_a_grid():
    grid_model, plan = model(), planned(MergeTokens(keep=90, mode="drop"), model())
    grid_model.head_needs = "grid"
    for act in (MergeTokens(keep=90, mode="drop").check, plan.shape, lambda other: applied(plan, other)):
        with pytest.raises(BadInput, match="grid"):
            act(grid_model)
    applied(planned(MergeTokens(keep=90), grid_model), grid_model)


def test_coverage_is_a_threshold_above_which_a_patch_is_protected():
    mask = torch.zeros(3, 256, 192)
    mask[:, :8, :16] = 1  # half of the first patch
    for threshold, protected in ((0.0, 1), (0.49, 1), (0.5, 0)):
        share = model(keep=90, coverage=threshold).person(CROPS, mask)
        assert share is not None and (share > 0).sum(1).tolist() == [protected] * 3


def test_proportional_attention_is_another_network():
    with torch.no_grad():
        plain, biased = (
            model(keep=90, proportional_attention=wanted)(CROPS, person("body")).features for wanted in (False, True)
        )
    assert not torch.allclose(plain, biased, atol=1e-6)


@settings(max_examples=30)
@given(mask=masks, mode=st.sampled_from(["merge", "drop"]))
def test_merged_persons_are_counted_by_hand(mask, mode):
    reducing = model(keep=60, mode=mode)
    with torch.no_grad():
        tokens = reducing.encode(CROPS, mask)
    here = mask[:, ::16, ::16].flatten(1)
    for b in range(3):
        source = tokens.source[b].tolist()
        members = [i for i in range(192) if here[b, i]]
        lost = [i for i in members if source[i] == DROPPED or source.count(source[i]) > 1]
        expected = len(lost) / len(members) if members else 0.0
        assert person_merged(tokens, here)[b].item() == pytest.approx(expected)
