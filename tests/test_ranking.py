"""A ranking against what it stands for: how far an output moves, found by moving it; and the recipes of budgets."""

from __future__ import annotations

import copy
from itertools import islice
from typing import Any

import optuna
import pytest
import torch
from torch import Tensor

from compress.context import Context
from compress.errors import BadInput
from compress.frames import ALL
from compress.layers.units import units_of
from compress.pipeline import run_all_steps
from compress.policies.merge_tokens import MergeTokens
from compress.policies.prune_width import PruneWidth
from compress.ranking import scores as module
from compress.ranking.budget import (
    MACBudget,
    block_sizes,
    chosen_for,
    counted,
    dropping,
    merging_ways,
    pieces,
    recipe_for,
    windows_of,
)
from compress.ranking.scores import SHARES, rank
from compress.recipe import Recipe
from compress.stack import LinearBlock, encode
from compress.tokens import Tokens, coverage
from experiments.search.study import parsed
from experiments.search.trials import BASELINE, RECIPE
from experiments.search.workers import enqueue_baselines
from hmr.models.model import HMRModel, build
from tests.planning import planned
from tests.sizes import TINY

CROPS = torch.randn(3, 3, 256, 192, generator=torch.Generator().manual_seed(1)).double()
MASKS = torch.zeros(3, 256, 192)
MASKS[:, 60:200, 50:140] = 1
STEP = 1e-4


class One:
    """A judge of one number a frame, for which the signs of a probe make no difference."""

    def __init__(self, masks: Tensor | None = None, crops: Tensor = CROPS) -> None:
        self.crops, self.masks = crops.split(2), None if masks is None else masks.split(2)

    def errors(self, index: int, tokens: Tokens, model: Any = None) -> Tensor:
        raise AssertionError("a ranking takes no labels")

    def outputs(self, index: int, tokens: Tokens, model: Any = None, rows: slice = ALL) -> Tensor:
        return model.read(tokens).features[:, :3].sum(1, keepdim=True)


@pytest.fixture
def model() -> HMRModel:
    torch.manual_seed(0)
    made = build("hmr2", {**TINY, "heads": 4, "depth": 4}).eval()
    for name, value in made.backbone.blocks.named_parameters():
        if not name.endswith(("norm1.weight", "norm2.weight")):
            torch.nn.init.normal_(value, std=0.1)
    return made.double()


@pytest.fixture
def single(model) -> tuple[HMRModel, Context]:
    """The same in float32, as it is counted, and its context."""
    context = Context(model.float())
    context.memory["judge"] = One(crops=CROPS.float())
    return model, context


@torch.no_grad()
def said(model: HMRModel) -> Tensor:
    """The judge's number of each frame (3,)."""
    return model(CROPS).features[:, :3].sum(1)


@torch.no_grad()
def moved(model: HMRModel, change: Any) -> float:
    """Mean square of the derivative of the numbers by a change of the model, of size 1."""
    other = copy.deepcopy(model)
    change(other)
    return ((said(other) - said(model)) / STEP).square().mean().item()


def test_units_count_as_much_as_their_going_moves_the_output(model):
    """With what is fitted anew: the layers that read them, a little of the way to the narrower block's."""
    judge, share = One(), SHARES.index(0.5)
    found = rank(model, judge)
    assert len(found) == 4 and found[0].heads.shape == found[0].hidden.shape == (len(SHARES),)
    changes = module.all_changes(model, judge, module.silent)
    for kind, place in (("heads", 1), ("hidden", 3)):

        def less(other: Any, kind: str = kind, place: int = place) -> None:
            block, change = other.backbone.blocks[place], getattr(changes[place], kind)[share]
            layer = block.attn.proj if kind == "heads" else block.mlp.fc2
            layer.weight += STEP * change.weight
            layer.bias += STEP * change.bias

        assert getattr(found[place], kind)[share].item() == pytest.approx(moved(model, less), rel=1e-2)


def test_what_may_go_is_what_prune_width_leaves_out(model):
    judge = One()
    step = PruneWidth(mlp_ratio=0.5, head_ratio=0.5, refit=True)
    plan = planned(step, model, judge)
    change = module.all_changes(model, judge, module.silent)[0]
    units = units_of(model.stack, model.backbone.blocks[0])
    gone = {"heads": columns(plan.blocks[0].heads.removed, units.heads[0].out.in_features // 4)}
    gone["hidden"] = plan.blocks[0].hidden.removed
    for kind, layer in (("heads", units.heads[0].out), ("hidden", units.down)):
        weight = getattr(change, kind)[SHARES.index(0.5)].weight
        torch.testing.assert_close(weight[:, gone[kind]], -layer.weight.float()[:, gone[kind]])


def columns(units: list[int], each: int) -> list[int]:
    return [unit * each + i for unit in units for i in range(each)]


def test_pieces_of_a_block_add_up_and_get_dearer():
    for moved in ((1.0, 4.0, 9.0), (5.0, 4.0, 9.0), (3.0, 6.0, 6.0)):
        found = list(pieces(moved, 16, 3))
        assert sum(units for units, _ in found) == 12 and sum(way for _, way in found) == pytest.approx(max(moved))
        each = [way / units for units, way in found]
        assert each == pytest.approx(sorted(each))
        assert sum(way for _, way in found[:3]) <= max(moved[:3])


class Towards(torch.nn.Module):
    """A block a little of the way to a map."""

    def __init__(self, block: Any, by: LinearBlock) -> None:
        super().__init__()
        self.block, self.by, self.norm1, self.norm2 = block, by, block.norm1, block.norm2

    def attend(self, x: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.before = x
        update, keys = self.block.attend(x, bias)
        return update, keys

    def feed(self, x: Tensor) -> Tensor:
        update = self.block.feed(x)
        return update + STEP * (self.by(self.before) - (x + update))


def test_a_map_counts_as_much_as_what_it_misses_moves_the_output(model):
    judge = One()
    found, changes = rank(model, judge), module.all_changes(model, judge, module.silent)
    place = 2

    def towards(other: Any) -> None:
        weight, bias = (value.double() for value in changes[place].mapped)
        other.backbone.blocks[place] = Towards(other.backbone.blocks[place], LinearBlock.of(weight, bias))

    assert found[place].mapped == pytest.approx(moved(model, towards), rel=1e-2)


@torch.no_grad()
def test_merging_more_of_the_background_moves_more_and_tokens_of_the_person_come_last(model):
    plain, spared = rank(model, One()), rank(model, One(MASKS))
    person = coverage(MASKS, model.grid) > 0
    assert 0.2 < person.double().mean() < 0.5
    for one in (*plain, *spared):
        assert one.merged.shape == (4,) and (one.merged > 0).all()
    assert any(not torch.equal(one.merged, two.merged) for one, two in zip(plain, spared, strict=True))
    assert all(torch.equal(one.heads, two.heads) for one, two in zip(plain, spared, strict=True))


@torch.no_grad()
def test_macs_of_blocks_are_counted_as_the_counter_does(single):
    model, _ = single
    for steps in ((), (MergeTokens(keep=100, per_layer=50, protect="none"),)):
        made = run_all_steps(model, steps, Context(model)) if steps else model
        merges = (*made.schedule.merges, 0, 0, 0, 0)[:4]
        tokens, macs = 192, 0
        for size, merged in zip(block_sizes(made), merges, strict=True):
            macs += size.macs(tokens, tokens - merged, size.heads, size.hidden)
            tokens -= merged
        exact = counted(model, steps)
        rest = counted(model, ()) - sum(size.macs(192, 192, size.heads, size.hidden) for size in block_sizes(model))
        assert exact == pytest.approx(macs + rest, rel=0.03)


@pytest.mark.parametrize("share", [0.9, 0.8, 0.6])
def test_a_budget_is_kept_by_a_recipe_that_can_be_written_and_read(single, share):
    model, context = single
    recipe = recipe_for(model, MACBudget(share), context, protect=False)
    assert Recipe.parse(recipe.text, "budget.yaml").id == recipe.id and recipe.name == f"budget-{share:g}"
    made = run_all_steps(model, recipe.steps, context)
    kept = made.cost().macs.true / model.cost().macs.true
    assert share - 0.25 < kept <= share and kept == counted(model, recipe.steps) / model.cost().macs.true
    assert encode(made.stack, CROPS.float(), None, made.schedule).x.isfinite().all()


def test_background_is_dropped_where_that_moves_less(single):
    model, context = single
    context.memory["judge"] = judge = One(MASKS, CROPS.float())
    scores, total = rank(model, judge), model.cost().macs.true
    merging = chosen_for(model, scores, list(merging_ways(192, 4, protect=True)), 0.6 * total, total)
    dropped: list[Any] = list(islice(dropping(model, scores, 0.6 * total, total), 3))
    keeps = [steps[-1].keep for steps in dropped]
    assert keeps == sorted(set(keeps)) and len(dropped[0]) == 1  # the first needs nothing more to go
    assert all(steps[-1].mode == "drop" and counted(model, steps) <= 0.6 * total for steps in dropped)

    @torch.no_grad()
    def moved(steps):
        """How far the judge's number moves, over frames."""
        made = run_all_steps(model, steps, context.fresh())
        return (number(made) - number(model)).abs().mean().item()

    def number(one):
        every = enumerate(zip(judge.crops, judge.masks or (), strict=True))
        return torch.cat([judge.outputs(i, one.encode(*given), one) for i, given in every])

    found = recipe_for(model, MACBudget(0.6), context, protect=True).steps
    assert moved(found) <= min(moved(merging), moved(dropped[0]))


def test_a_budget_that_cannot_be_is_a_sentence(single):
    model, context = single
    for share, words in ((0.0, "above 0 and at most 1"), (0.01, "ask for a larger share")):
        with pytest.raises(BadInput, match=words):
            recipe_for(model, MACBudget(share), context, protect=False)
    assert recipe_for(model, MACBudget(1.0), context, protect=False).steps == ()
    context.memory["judge"] = object()
    context.memory.pop(("scores", ()), None)
    with pytest.raises(BadInput, match="outputs"):
        recipe_for(model, MACBudget(0.5), context, protect=False)


def test_numbers_of_units_take_the_place_of_shares(model):
    step = PruneWidth(heads=(4, 3, 2, 1), hidden=(48, 40, 30, 1))
    plan = planned(step, model, One())
    assert [(len(b.heads.units), len(b.hidden.units)) for b in plan.blocks] == [(4, 48), (3, 40), (2, 30), (1, 1)]
    assert "heads" not in PruneWidth(mlp_ratio=0.5).model_dump(mode="json")
    for wrong, words in (
        (PruneWidth(heads=(4,)), "1 numbers, and there are 4"),
        (PruneWidth(heads=(5, 4, 4, 4)), "not more"),
    ):
        with pytest.raises(BadInput, match=words):
            planned(wrong, model, One())


def test_neighbours_become_one_map():
    assert windows_of({1, 2, 5}) == ((1, 2), (5, 5))


STUDY = """schema_version: 1
name: ranked
model: reference
data: synth
steps:
  - {policy: merge_tokens, keep: 100, per_layer: 40}
budgets: [0.5, 0.7]
"""


def test_a_study_has_the_recipe_of_each_budget_before_all_that_is_drawn():
    spec, asked = parsed(STUDY, "ranked.yaml"), []

    def budgeted(share: float) -> Recipe:
        asked.append(share)
        return Recipe(schema_version=1, name="ranked", steps=(MergeTokens(keep=round(100 * share)),))

    study = optuna.create_study(directions=["minimize", "minimize"])
    for _ in range(2):  # a search that goes on ranks nothing again
        enqueue_baselines(study, spec, budgeted)
    found = {trial.user_attrs[BASELINE]: trial.user_attrs[RECIPE] for trial in study.get_trials()}
    assert asked == [0.5, 0.7] and len(found) == len(study.get_trials())
    assert [found[name]["steps"][0]["keep"] for name in ("budget 0.5", "budget 0.7")] == [50, 70]
