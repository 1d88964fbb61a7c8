"""Operator `linear`: blocks and runs replaced by maps, with every strategy, and what other policies make of maps."""

from __future__ import annotations

import copy
import json
from functools import partial
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from compress.context import fingerprint
from compress.errors import BadInput
from compress.layers import trials as trials_module
from compress.layers.least_squares import fitted
from compress.layers.operators import Aim, first_weight
from compress.layers.search import Strategy, Windows, error_constrained, runs_of
from compress.layers.trials import Trials, frame_bytes
from compress.policies.merge_layers import LayerPlan, MergeLayers
from compress.policies.merge_tokens import MergeTokens
from compress.policy import MadeFor
from compress.stack import LinearBlock, Stack, encode, through
from hmr.models.vit import ViT
from tests import sizes
from tests.networks import FAMILIES
from tests.planning import applied, context, planned, stepped
from tests.ramps import Model, Ramps, Verdict

STRATEGIES: tuple[Strategy, ...] = ("window", "greedy", "cka")
AIMS: tuple[Aim, ...] = ("run", "original")
SIZES = {**sizes.TINY, "depth": 5}
LINEAR = MergeLayers(strategy="explicit", operator="linear", windows=((1, 1), (3, 4)))


def maps_by_hand(stack: Any, crops: Any, windows: Windows, aim: Aim = "run") -> list[nn.Module]:
    """The blocks of a stack with maps for windows: all batches together, run by run from the lowest up."""
    with torch.no_grad():
        tokens, left = [stack.embed(crop) for crop in crops], []
        original = tokens
        for low, high in runs_of(windows, len(stack.blocks)):
            run = list(stack.blocks)[low : high + 1]
            original = [through(stack, run, one) for one in original]
            if (low, high) in windows:
                after = [through(stack, run, one) for one in tokens] if aim == "run" else original
                run = [fitted([(a.x, b.x) for a, b in zip(tokens, after, strict=True)], first_weight(run[0]))]
            tokens = [through(stack, run, one) for one in tokens]
            left += run
    return left


def error_by_hand(stack: Any, judge: Verdict, windows: Windows, aim: Aim = "run") -> float:
    """The judge's error of the stack with these maps, run whole."""
    trial = copy.copy(stack)
    trial._modules = {**stack._modules, "blocks": nn.ModuleList(maps_by_hand(stack, judge.crops, windows, aim))}
    with torch.no_grad():
        errors = [judge.errors(i, encode(trial, crop)) for i, crop in enumerate(judge.crops)]
    return torch.cat(errors).double().mean().item()


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.integers(1, 7), st.integers(0, 9), st.sampled_from(STRATEGIES), st.sampled_from(AIMS))
def test_cached_search_decides_as_the_plain_one(seed, depth, rooms, strategy, aim) -> None:
    """Any error whatever (a hash of the tokens' bits), any memory, any strategy: the same windows and errors."""
    stack, judge = Ramps(depth), Verdict(seed)
    asked: dict[str, Any] = {"threshold": 0.2, "similarity": [(i * 7919 + seed) % 13 for i in range(depth)]}
    memory = rooms * 8 * frame_bytes(stack.embed(judge.crops[0]))
    trials = Trials(stack, judge, "linear", memory, aim)
    found = error_constrained(trials, depth, strategy, smallest=1, **asked)
    plain = error_constrained(lambda w, _: error_by_hand(stack, judge, w, aim), depth, strategy, smallest=1, **asked)
    assert found == plain
    assert trials.run <= trials.plain
    assert sum(len(kept) for kept in trials.kept) <= rooms * 3


def vit(seed: int = 0) -> Model:
    torch.manual_seed(seed)
    stack = ViT(16, 5, 2, 32, 0.0)
    for parameter in stack.blocks.parameters():
        nn.init.normal_(parameter, std=0.2)
    return Model(stack, 16).eval()


@pytest.mark.parametrize("aim", AIMS)
@pytest.mark.parametrize("windows", [((4, 4),), ((1, 2),), ((0, 0), (2, 4)), ((0, 4),)])
def test_a_trial_is_judged_on_the_model_that_its_plan_makes(windows: Windows, aim: Aim) -> None:
    """To the bit, and the maps are those of all batches run together."""
    model, judge = vit(), Verdict()
    trials = Trials(model.stack, judge, "linear", aim=aim)
    trials(())
    error = trials(windows)
    step = MergeLayers(strategy="explicit", operator="linear", aim=aim, windows=windows)
    plan, made = stepped(step, copy.deepcopy(model), judge)
    with torch.no_grad():
        errors = [judge.errors(i, encode(made.stack, crop)) for i, crop in enumerate(judge.crops)]
    assert error == torch.cat(errors).double().mean().item()
    by_hand = maps_by_hand(model.stack, judge.crops, windows, aim)
    maps = [
        (block, hand) for block, hand in zip(made.stack.blocks, by_hand, strict=True) if isinstance(block, LinearBlock)
    ]
    assert len(maps) == len(windows) and all(torch.equal(block.weight, cast(Any, hand).weight) for block, hand in maps)
    assert plan.maps == tuple(fingerprint(block) for block, _ in maps)


def test_maps_aimed_at_the_original_mend_what_those_below_them_did() -> None:
    """Tokens of the last are nearer to the original's; the first map is the same. Nobody else has an aim."""
    model, judge = vit(), Verdict()
    windows = ((0, 0), (2, 2), (4, 4))
    wanted = [encode(model.stack, crop).x for crop in judge.crops]
    lost, first = [], []
    for aim in AIMS:
        step = MergeLayers(strategy="explicit", operator="linear", aim=aim, windows=windows)
        plan, made = stepped(step, copy.deepcopy(model), judge)
        said = [encode(made.stack, crop).x for crop in judge.crops]
        lost.append(sum((a - b).square().sum().item() for a, b in zip(said, wanted, strict=True)))
        first.append(plan.maps[0])
        assert LayerPlan.model_validate_json(plan.model_dump_json()).aim == aim
        assert ("aim" in json.loads(plan.model_dump_json())) == (aim == "original")
        assert ("linear, fitted to the original's tokens" in plan.describe()) == (aim == "original")
    assert lost[1] < lost[0] and first[0] == first[1]
    with pytest.raises(ValidationError, match="aim has no meaning with operator: drop"):
        MergeLayers(operator="drop", aim="original")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("rule", ["random", "always", "never"])
def test_every_strategy_plans_maps(strategy: Strategy, rule: str) -> None:
    """`always` accepts every trial: one map is left; `never` none: the model is as it was."""
    model, judge = Model(Ramps(5)), Verdict(3, rule)
    before, blocks = copy.deepcopy(model.state_dict()), model.stack.blocks
    plan, made = stepped(
        MergeLayers(strategy=strategy, operator="linear", threshold_mm=0.2), copy.deepcopy(model), judge
    )
    assert model.stack.blocks is blocks and all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    if rule == "always":
        assert plan.windows == ((0, 4),)
    if rule == "never":
        assert plan.empty and plan.maps == () and len(made.stack.blocks) == 5
    assert [isinstance(block, LinearBlock) for block in made.stack.blocks] == [
        run in plan.windows for run in runs_of(plan.windows, 5)
    ]
    assert plan.measured["error_mm"] == pytest.approx(error_by_hand(Ramps(5), judge, plan.windows), abs=1e-12)
    text = plan.model_dump_json()
    assert LayerPlan.model_validate_json(text) == plan and (rule == "never") == ("maps" not in json.loads(text))


@pytest.mark.parametrize("strategy", ["greedy", "cka"])
def test_layers_counts_blocks_and_no_maps(strategy: Any) -> None:
    plan, made = stepped(MergeLayers(strategy=strategy, operator="linear", layers=2), vit(), Verdict())
    assert sum(not isinstance(block, LinearBlock) for block in made.stack.blocks) == 2
    assert [step["layers"] for step in plan.measured["path"]] == [5, 4, 3, 2]


def test_cka_replaces_the_block_that_changes_least() -> None:
    model = vit()
    for parameter in model.stack.blocks[0].parameters():  # adds next to nothing
        nn.init.normal_(parameter, std=1e-3)
    plan = planned(MergeLayers(strategy="cka", operator="linear", layers=4), model, Verdict())
    assert plan.windows == ((0, 0),)


def test_affine_blocks_are_found_again(monkeypatch) -> None:
    """Every ramp is affine, alone and in a row: with next to no ridge nothing is lost."""
    monkeypatch.setattr(trials_module, "fitted", partial(fitted, ridge=1e-10))
    judge = Verdict()
    wide = Varied(5)
    wanted = [encode(wide, crop).x for crop in judge.crops]
    model = stepped(LINEAR, Model(wide), judge)[1]
    assert len(model.stack.blocks) == 4
    for crop, one in zip(judge.crops, wanted, strict=True):
        torch.testing.assert_close(encode(model.stack, crop).x, one, atol=1e-5, rtol=1e-5)
    weight, bias = model.stack.blocks[1].weight, model.stack.blocks[1].bias
    torch.testing.assert_close(weight.detach(), -torch.eye(4) / 8, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(bias, wide.original[1].v, atol=1e-5, rtol=1e-5)


class Varied(Ramps):
    """Ramps on tokens whose channels are not all the same."""

    def __init__(self, depth: int) -> None:
        super().__init__(depth)
        self.original = list(self.blocks)

    def embed(self, crop: Tensor) -> Any:
        tokens = super().embed(crop)
        x = crop.flatten(1)[:, : 6 * 4].unflatten(1, (6, 4))  # (B, 6, 4)
        return type(tokens).of(x, tokens.grid)


def test_the_order_of_batches_does_not_matter() -> None:
    model, one, two = vit(), Verdict(), Verdict()
    two.crops = two.crops[::-1]
    first, again = (stepped(LINEAR, copy.deepcopy(model), judge)[1] for judge in (one, two))
    for a, b in zip(first.stack.blocks.parameters(), again.stack.blocks.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_no_windows_change_nothing_and_need_no_frames() -> None:
    model = vit()
    blocks = model.stack.blocks
    plan, made = stepped(MergeLayers(strategy="explicit", operator="linear", windows=()), model)
    assert plan.empty and made.stack.blocks is blocks


def test_maps_need_frames_and_a_plan_its_own_maps() -> None:
    model, judge = vit(), Verdict()
    assert LINEAR.needs_calib and not MergeLayers(strategy="explicit", windows=((1, 2),)).needs_calib
    with pytest.raises(BadInput, match="calibration frames"):
        planned(LINEAR, model)
    plan = planned(LINEAR, model, judge)
    with pytest.raises(BadInput, match="calibration frames"):
        applied(plan, copy.deepcopy(model))
    again = plan.apply(copy.deepcopy(model), context(model, judge))  # fitted once more: no weights, but the same frames
    assert tuple(fingerprint(b) for b in again.stack.blocks if isinstance(b, LinearBlock)) == plan.maps
    with pytest.raises(BadInput, match="fitted on other frames"):
        plan.apply(copy.deepcopy(model), context(model, Verdict(9)))


def test_tokens_that_are_not_finite_are_refused() -> None:
    model = vit()
    model.stack.patch_embed.proj.bias.data[0] = torch.inf
    with pytest.raises(BadInput, match=r"no linear map fits blocks \[1, 1\]"):
        planned(LINEAR, model, Verdict())


@pytest.mark.parametrize("maps", [(), ("a",), ("a", "b", "c")])
def test_a_plan_names_a_map_for_each_window(maps: tuple[str, ...]) -> None:
    made_for = MadeFor(depth=5, dim=16, grid=(2, 3))
    with pytest.raises(ValidationError, match="2 windows of operator linear have"):
        LayerPlan(made_for=made_for, windows=((1, 1), (3, 4)), operator="linear", maps=maps)
    with pytest.raises(ValidationError, match="have 1 maps"):
        LayerPlan(made_for=made_for, windows=((1, 2),), operator="drop", maps=("a",))
    assert "maps" not in LayerPlan(made_for=made_for, windows=((1, 2),), operator="drop").decided()


def test_single_blocks_are_windows_of_maps_alone() -> None:
    with pytest.raises(ValidationError, match="first < last"):
        MergeLayers(strategy="explicit", operator="drop", windows=((3, 3),))
    with pytest.raises(ValidationError, match="first <= last"):
        MergeLayers(strategy="explicit", operator="linear", windows=((3, 2),))


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_maps_stand_in_anyones_stack(name: str) -> None:
    """Prefix tokens, RoPE, qk norms, LayerScale: the map takes all tokens, and the rest of the network stays theirs."""
    family = FAMILIES[name]

    class Judge:
        crops, masks = (family.images(3), family.images(2)), None

        def errors(self, index: int, tokens: Any, model: Any = None) -> Tensor:
            return tokens.x.flatten(1).norm(dim=1)

    step = MergeLayers(strategy="explicit", operator="linear", windows=((1, 1),))
    model = stepped(step, family.own(), Judge())[1]
    module = family.module()
    by_hand = maps_by_hand(family.own().stack, Judge.crops, ((1, 1),))
    module.get_submodule(family.blocks)[1] = Alone(cast(LinearBlock, by_hand[1]))  # type: ignore[operator]
    torch.testing.assert_close(model(family.images()).x, module(family.images()), rtol=1e-4, atol=2e-4)
    merged = stepped(MergeTokens(keep=20, per_layer=16), model)[1]
    tokens = merged(family.images(), family.masks())
    assert merged.schedule.merges == (16, 0, 12) and tokens.x.shape[1] == family.prefix + 20
    assert (tokens.size[:, : family.prefix] == 1).all() and tokens.to_grid().shape[-2:] == (8, 6)


class Alone(nn.Module):
    """A map as a block that is handed whatever blocks are."""

    def __init__(self, block: LinearBlock) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, *rest: Any) -> Tensor:
        return self.block(x)


def test_a_stack_is_asked_for_transformer_blocks_alone() -> None:
    """No stack has to know of maps: `attend` and `feed` never see one."""
    model = vit()
    seen: list[nn.Module] = []

    class Watching:
        blocks = model.stack.blocks

        def __getattr__(self, name: str) -> Any:
            return getattr(model.stack, name)

        def attend(self, block: nn.Module, *rest: Any) -> Any:
            seen.append(block)
            return model.stack.attend(block, *rest)

    made = stepped(LINEAR, model, Verdict())[1]
    stack = Watching()
    stack.blocks = made.stack.blocks
    encode(cast(Stack, stack), Verdict().crops[0])
    assert seen == [block for block in made.stack.blocks if not isinstance(block, LinearBlock)] and len(seen) == 2
