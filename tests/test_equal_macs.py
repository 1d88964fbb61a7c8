"""Closed-form operators where they have nothing to lose, what they save by the counter, and the choice of places."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.layers.units import units_of
from compress.policies.merge_layers import MergeLayers
from compress.policies.merge_tokens import MergeTokens
from compress.policies.prune_width import PruneWidth
from compress.policies.reduce_rank import ReduceRank
from compress.ranking.budget import block_sizes, counted
from compress.stack import through
from compress.tokens import Tokens
from experiments.paper.equal_macs.closed_form import PlacedOperator, chosen, flat
from experiments.paper.equal_macs.operators import AIMED, OPERATORS, RANK
from experiments.paper.equal_macs.sam_3d_body import STEPS
from experiments.paper.equal_macs.shares import by_hand, dearest_within, spread_maps
from hmr.models.model import HMRModel, build
from tests.sizes import TINY

CROPS = torch.randn(4, 3, 256, 192, generator=torch.Generator().manual_seed(1)).split(2)


@pytest.fixture
def model() -> HMRModel:
    torch.manual_seed(0)
    made = build("hmr2", {**TINY, "heads": 4, "depth": 4}).eval()
    for name, value in made.backbone.blocks.named_parameters():
        if not name.endswith(("norm1.weight", "norm2.weight")):
            nn.init.normal_(value, std=0.1)
    return made


def stood_for(name: str, model: HMRModel) -> tuple[list[Tensor], list[Tensor]]:
    """What an operator makes of all tokens, and what the blocks do that it stands for."""
    one, stack = OPERATORS[name], model.stack
    run: Any = list(stack.blocks[: one.blocks])
    before: list[Tokens] = [stack.embed(crop) for crop in CROPS]
    wanted = [through(stack, run, tokens) for tokens in before]
    made = flat(one.make(stack, run, before, wanted))
    return [through(stack, made, tokens).x for tokens in before], [tokens.x for tokens in wanted]


def silence(block: Any, half: str) -> None:
    """Make a half of a block add what is linear in its normed tokens, or nothing at all."""
    last = block.attn.proj if half == "attention" else block.mlp.fc2
    nn.init.zeros_(last.weight)


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in OPERATORS if "hidden units" not in name and "rank" not in name])
def test_what_has_nothing_to_lose_loses_nothing(model, name):
    """A block that adds a constant is an affine map; a run whose other block adds one is folded into the block kept."""
    one = OPERATORS[name]
    kept = {"lower of two blocks, folded": 0, "upper of two blocks, folded": 1, "upper of two blocks and a map": 1}
    halves = ("attention", "mlp") if one.half == "both" else (one.half,)
    for place in {*range(one.blocks)} - {kept.get(name)}:
        for half in halves:
            silence(model.stack.blocks[place], half)
    if name.startswith("upper"):  # what goes below it moves what it reads
        nn.init.zeros_(model.stack.blocks[0].attn.proj.bias), nn.init.zeros_(model.stack.blocks[0].mlp.fc2.bias)
    for mine, wanted in zip(*stood_for(name, model), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-3, atol=2e-3)


@torch.no_grad()
def test_fitting_anew_is_nearer(model):
    lost = {}
    for name in ("half of the hidden units", "half of the hidden units, refitted"):
        mine, wanted = (torch.cat(each) for each in stood_for(name, model))
        lost[name] = (mine - wanted).square().sum()
    assert lost["half of the hidden units, refitted"] < lost["half of the hidden units"]


def test_savings_are_what_the_counter_says(model):
    (size, *_), tokens = block_sizes(model), 192
    for name, step in (
        ("linear map of a block", MergeLayers(strategy="explicit", operator="linear", windows=((1, 1),))),
        ("half of the hidden units", PruneWidth(hidden=(48, 24, 48, 48), heads=(4,) * 4)),
    ):
        saved = counted(model, ()) - counted(model, (step,))
        assert OPERATORS[name].saves(size, tokens) == pytest.approx(saved, rel=0.01)
    everywhere = counted(model, ()) - counted(model, (ReduceRank(mlp_rank=RANK),))
    assert 4 * OPERATORS["low rank of an MLP"].saves(size, tokens) == everywhere
    block, each = size.macs(tokens, tokens, size.heads, size.hidden), tokens * size.dim**2
    mlp, attention = (OPERATORS[f"map of an {half}"].saves(size, tokens) for half in ("MLP", "attention"))
    assert mlp + attention == block - 2 * each
    assert OPERATORS["lower of two blocks, folded"].saves(size, tokens) == block


def test_places_are_those_that_cost_least_and_no_half_changes_twice():
    found = [
        PlacedOperator("map of an MLP", 0, 1.0, 10),
        PlacedOperator("linear map of a block", 0, 2.0, 30),
        PlacedOperator("map of an attention", 0, 3.0, 10),
        PlacedOperator("lower of two blocks, folded", 1, 9.0, 40),
    ]
    assert chosen(found, 10) == found[:1] and chosen(found, 20) == [found[0], found[2]]
    assert chosen(found, 50) == [found[0], found[2], found[3]] and chosen(found, 61) is None
    assert chosen(found[1:], 30) == [found[1]] and AIMED in OPERATORS


def test_recipes_by_hand_keep_to_their_share(model):
    total = counted(model, ())
    for name, ways in by_hand(4, 192).items():
        steps = dearest_within(model, ways, 0.8 * total)
        assert steps is not None and counted(model, steps) <= 0.8 * total
        assert "tokens" not in name or counted(model, steps) > 0.78 * total
    assert dearest_within(model, [(MergeTokens(keep=150),)], 0.1 * total) is None
    assert [spread_maps(12, n).windows for n in (1, 2, 3)] == [((6, 6),), ((2, 2), (8, 8)), ((2, 2), (6, 6), (10, 10))]
    assert units_of(model.stack, model.stack.blocks[0]).down.in_features == 48 and len(STEPS) == 3
