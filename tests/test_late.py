"""Stacks behind the image encoder: a decoder's blocks merge, become maps, get narrower and rounder, in its own code."""

# nn.Module hides what it has, and the blocks here are written as their authors write them, without types
# mypy: disable-error-code="operator,union-attr,arg-type,override,index"

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress import artefact
from compress.cost.macs import stack_costs
from compress.errors import BadInput
from compress.policies.merge_layers import MergeLayers
from compress.policies.merge_tokens import MergeTokens
from compress.policies.precision import HalfLinear, Precision
from compress.policies.prune_width import PruneWidth
from compress.policy import ModelSize, Policy
from compress.recipe import Recipe
from compress.stack import LinearBlock
from compress.tokens import Tokens
from experiments.search.space import Space
from experiments.search.study import parsed
from hmr.models.model import build
from hmr.models.own_model import OwnModel
from tests.known_network import CROP
from tests.late import LAYERS, QUERIES, Apart, Body, Fixed, Layer, images, made, own
from tests.networks import DIM, FAMILIES
from tests.planning import context
from tests.sizes import TINY


@torch.no_grad()
def test_a_decoder_is_run_by_its_own_code_and_knows_what_its_blocks_take():
    model = own()
    (stack,) = model.stacks.values()
    assert (stack.dim, stack.passes, len(stack.blocks)) == (DIM, (1,), LAYERS)
    torch.testing.assert_close(model(images()), model.module(images()), rtol=1e-4, atol=1e-4)
    assert ModelSize.of(model).depth("decoder") == LAYERS


@torch.no_grad()
def test_layers_that_go_are_those_of_the_decoder():
    model, (plan,) = made(MergeLayers(stack="decoder", strategy="explicit", operator="drop", windows=((1, 2),)))
    by_hand = own().module
    del by_hand.layers[2]
    assert len(model.stack.blocks) == 4 and plan.made_for.depth == LAYERS
    torch.testing.assert_close(model(images()), by_hand(images()), rtol=1e-4, atol=1e-4)
    assert "Blocks 1 to 2 of decoder became one block" in plan.describe()


@pytest.mark.parametrize("strategy", ["greedy", "cka"])
@pytest.mark.parametrize(
    ("operator", "aim"),
    [("mean", "run"), ("linear", "run"), ("linear", "original"), ("fold", "run"), ("fold", "original")],
)
@torch.no_grad()
def test_a_search_finds_the_error_that_its_model_has(strategy, operator, aim):
    step = MergeLayers(stack="decoder", strategy=strategy, operator=operator, aim=aim, layers=2)
    model, (plan,) = made(step)
    judge = Apart(own())
    by_hand = torch.cat([judge.errors(i, model.encode(crop), model) for i, crop in enumerate(judge.crops)])
    assert plan.measured["error_mm"] == pytest.approx(by_hand.double().mean().item(), rel=1e-5) and by_hand.min() > 1
    left = [not isinstance(block, LinearBlock) for block in model.stacks["decoder"].blocks]
    assert sum(left) == 2 and (operator == "linear") == (not all(left))


@torch.no_grad()
def test_a_map_is_fitted_to_what_its_blocks_add():
    """Least squares on 15 queries in 32 features, each once: with next to no ridge they would be met."""
    windows = ((1, 2),)
    mapped, _ = made(MergeLayers(stack="decoder", strategy="explicit", operator="linear", windows=windows))
    dropped = own()
    dropped.stacks["decoder"].blocks = nn.ModuleList(b for i, b in enumerate(dropped.module.layers) if i not in (1, 2))
    judge = Apart(own())
    errors = [judge.errors(0, model.encode(judge.crops[0]), model).mean() for model in (mapped, dropped)]
    assert errors[0] < 0.5 * errors[1]


FOLD = MergeLayers(stack="decoder", strategy="explicit", operator="fold", windows=((1, 2),))


class Scaled(Layer):
    """LayerScale behind the MLP, whose last layer has no bias."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.linspace(-0.5, 2, DIM))
        self.ffn.fc2 = nn.Linear(48, DIM, bias=False)

    def forward(self, token_embedding: Tensor, image_embedding: Tensor) -> tuple[Tensor, Tensor]:
        before, after = token_embedding, super().forward(token_embedding, image_embedding)[0]
        return before + self.factor * (after - before), image_embedding


class Normed(Layer):
    """A norm behind each sum, as the first transformers had it."""

    def forward(self, token_embedding: Tensor, image_embedding: Tensor) -> tuple[Tensor, Tensor]:
        return self.ln3(super().forward(token_embedding, image_embedding)[0]), image_embedding


def of(layer: type[nn.Module]) -> OwnModel:
    torch.manual_seed(0)
    body, stacks = Body(), {"decoder": "layers"}
    body.layers = nn.ModuleList(layer() for _ in range(LAYERS))
    return OwnModel(body, lambda own, tokens: own.decode(tokens.x), CROP, blocks="vit.blocks", stacks=stacks).eval()


@torch.no_grad()
def test_a_block_that_adds_a_constant_is_folded_into_the_one_below_it(tmp_path):
    """Through a scale behind the layer that is fitted, into a bias that it had not; and it comes back from a file."""
    model = of(Scaled)
    upper = model.module.layers[2]
    for last in (upper.self_attn.proj, upper.cross_attn.proj, upper.ffn.fc2):
        nn.init.zeros_(last.weight)
    wanted, judge = model(images()), Apart(copy.deepcopy(model))
    shared, again = context(copy.deepcopy(model), judge), copy.deepcopy(model)
    plan = FOLD.plan(model, shared)
    model = plan.apply(model, shared)
    torch.testing.assert_close(model(images()), wanted, rtol=1e-4, atol=1e-4)
    assert len(model.module.layers) == LAYERS - 1 and not torch.equal(model(images()), wanted)
    origin = artefact.Origin(base=again.base, seed=0, commit="", versions={})
    artefact.save(tmp_path / "out", model, [plan], origin, "", "")
    assert torch.equal(artefact.load(tmp_path / "out", again)(images()), model(images()))


def test_a_fold_behind_a_norm_is_refused():
    model = of(Normed)
    with pytest.raises(BadInput, match="Normed blocks do more with what their last layer says than to add it"):
        FOLD.plan(model, context(model, Apart(model)))


@torch.no_grad()
def test_narrow_blocks_are_the_wide_ones_with_units_at_zero():
    narrow, (plan,) = made(PruneWidth(stack="decoder", mlp_ratio=0.5, head_ratio=0.5))
    wide = own()
    for block, width in zip(wide.module.layers, plan.blocks, strict=True):
        for reading, kept in ((block.self_attn, width.heads), (block.cross_attn, width.others[0])):
            assert len(kept.units) == 2
            reading.proj.weight.unflatten(1, (4, -1))[:, kept.removed] = 0
        block.ffn.fc2.weight[:, width.hidden.removed] = 0
    torch.testing.assert_close(narrow(images()), wide(images()), rtol=1e-4, atol=1e-4)
    assert narrow.stacks["decoder"].units(narrow.module.layers[0]).widths == (2, 2, 24)


@torch.no_grad()
def test_what_reads_the_units_that_are_left_may_be_fitted_anew(tmp_path):
    """Nearer than as it was, and exactly so where those that go are doubles of others."""
    model = own()
    for block in model.module.layers:
        block.ffn.fc1.weight[24:], block.ffn.fc1.bias[24:] = block.ffn.fc1.weight[:24], block.ffn.fc1.bias[:24]
        block.ffn.fc2.weight[:, 24:] *= 0.01  # of less energy, so that they go
    fitted, plain = copy.deepcopy(model), copy.deepcopy(model)
    for one, refit in ((fitted, True), (plain, False)):
        shared = context(copy.deepcopy(model), Apart(copy.deepcopy(model)))
        step = PruneWidth(stack="decoder", mlp_ratio=0.5, refit=refit)
        step.plan(one, shared).apply(one, shared)
    wanted = model(images())
    assert (fitted(images()) - wanted).norm() < 0.1 * (plain(images()) - wanted).norm()
    narrow, plans = made(PruneWidth(stack="decoder", mlp_ratio=0.5, head_ratio=0.5, refit=True))
    assert all(plans[0].readers)
    origin = artefact.Origin(base=own().base, seed=0, commit="", versions={})
    artefact.save(tmp_path / "out", narrow, plans, origin, "", "")
    assert torch.equal(artefact.load(tmp_path / "out", own())(images()), narrow(images()))


def test_heads_that_a_decoder_cannot_do_without_are_refused():
    model = own()
    for block in model.module.layers:
        block.cross_attn = Fixed()
    with pytest.raises(BadInput, match="blocks of decoder do not run with fewer units"):
        PruneWidth(stack="decoder", head_ratio=0.5).plan(model, context(model, Silent()))


class Silent:
    """A judge of one batch whose errors are those of running the model."""

    masks = None
    crops = (images(1),)

    def errors(self, index: int, tokens: Tokens, model: Any = None) -> Tensor:
        return model.read(tokens).flatten(1).sum(1)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
@torch.no_grad()
def test_fewer_bits_say_nearly_the_same(dtype):
    model, _ = made(Precision(stack="decoder", dtype=dtype))
    before, after = own()(images()), model(images())
    assert after.dtype == torch.float32 and 0 < (after - before).norm() < 0.1 * before.norm()
    assert all(value.dtype == torch.float32 for value in model.stack.blocks.state_dict().values())
    if dtype == "bfloat16":
        assert isinstance(model.module.layers[0].ffn.fc1, HalfLinear)


@torch.no_grad()
def test_steps_of_both_stacks_come_back_from_an_artefact(tmp_path):
    steps: tuple[Policy, ...] = (
        MergeLayers(strategy="explicit", operator="drop", windows=((1, 2),)),
        MergeLayers(stack="decoder", strategy="explicit", operator="linear", windows=((2, 3),)),
        PruneWidth(stack="decoder", mlp_ratio=0.5, head_ratio=0.25),
        MergeTokens(keep=24, per_layer=12, protect="none"),
        Precision(stack="decoder", dtype="bfloat16"),
    )
    model, plans = made(*steps)
    origin = artefact.Origin(base=own().base, seed=0, commit="", versions={})
    artefact.save(tmp_path / "out", model, plans, origin, "", "")
    again = artefact.load(tmp_path / "out", own())
    assert torch.equal(again(images()), model(images()))
    with pytest.raises(BadInput, match="no stack of this model called 'decoder': did you mean 'decoders'"):
        artefact.load(tmp_path / "out", renamed())


def renamed() -> OwnModel:
    model = own()
    model.stacks = {"decoders": model.stacks["decoder"]}
    return model


@torch.no_grad()
def test_costs_of_stacks_add_up_to_the_whole():
    model = own()
    parts = {part.name: part for part in stack_costs(model, images(1))}
    assert [*parts] == ["encoder", "decoder", "rest"]
    n, q, d, patches = 49, QUERIES, DIM, 48
    reading = 2 * q * d * 16 + 2 * 16 * (q * q + q * n) + 2 * q * d * 16 + 2 * (q + n) * d * 16
    assert parts["decoder"].macs.true == LAYERS * (reading + 2 * q * d * 48)
    assert parts["encoder"].macs.true == 4 * (4 * n * d * d + 2 * n * n * d + 2 * n * d * 48)
    assert parts["rest"].macs.true == patches * 3 * 16 * d + q * d * 5
    assert sum(part.params for part in parts.values()) == sum(p.numel() for p in model.parameters())


def test_a_family_of_ours_has_a_decoder_too():
    model = build("hmr2", {**TINY, "head_depth": 3}).eval()
    crop = torch.randn(2, 3, 256, 192)
    with torch.no_grad():
        before = model(crop)
        plan = MergeLayers(stack="decoder", strategy="explicit", operator="slm", windows=((0, 1),)).plan(
            model, context(model)
        )
        plan.apply(model, context(model))
        after = model(crop)
    assert len(model.smpl_head.transformer.transformer.layers) == 2
    assert not torch.equal(before.features, after.features)
    PruneWidth(stack="decoder").check(model)


def test_a_stack_that_is_not_there_is_a_sentence():
    none = FAMILIES["timm"].own()
    for model, said in ((own(), "no stack of this model called 'hand'"), (none, "no stack of blocks")):
        for step in (MergeLayers(stack="hand"), PruneWidth(stack="hand"), Precision(stack="hand", dtype="bfloat16")):
            with pytest.raises(BadInput, match=said):
                step.check(model)
    with pytest.raises(BadInput, match="does not call block 0 of the 4 in layers"):
        torch.manual_seed(0)
        OwnModel(Body(), lambda own, tokens: tokens, CROP, blocks="vit.blocks", stacks={"decoder": "layers"})


def steps_of(*lines: str) -> str:
    return "schema_version: 1\nname: mine\nsteps:\n" + "".join(f"  - {{{line}}}\n" for line in lines)


def test_recipes_name_a_stack_and_ids_without_one_are_as_they_were():
    encoder, decoder = "policy: merge_layers, threshold_mm: 1.0", "policy: merge_layers, stack: decoder"
    both = Recipe.parse(steps_of(encoder, decoder), "mine.yaml")
    assert [step.label for step in both.steps] == ["merge_layers", "merge_layers@decoder"]
    assert "stack" not in both.steps[0].model_dump(mode="json")
    for lines, said in (
        ((decoder, encoder), "merge_layers comes after merge_layers@decoder"),
        ((decoder, decoder), "two steps of merge_layers@decoder"),
        (("policy: merge_tokens, keep: 9, stack: decoder",), "no key 'stack'"),
    ):
        with pytest.raises(BadInput, match=said):
            Recipe.parse(steps_of(*lines), "mine.yaml")


STUDY = """schema_version: 1
name: late
model: reference
data: synth
steps:
  - {policy: merge_layers, strategy: greedy, layers: 3}
  - {policy: merge_layers, stack: decoder, strategy: greedy, layers: 3}
  - {policy: merge_tokens, keep: 24, per_layer: 12}
space:
  merge_layers@decoder.layers: [1, 6]
  merge_layers.layers: [2, 6]
"""


def test_a_study_has_the_knobs_of_each_stack():
    spec = parsed(STUDY, "late.yaml")
    size = ModelSize.of(own())
    space = Space(spec, size)
    assert size.late == (("decoder", LAYERS),)
    assert {name: knob.high for name, knob in space.widest.items()} == {
        "merge_layers.layers": 4,
        "merge_layers@decoder.layers": LAYERS,
    }
    drawn = spec.drawn({"merge_layers.layers": 2, "merge_layers@decoder.layers": 1})
    assert [(step.label, getattr(step, "layers", None)) for step in drawn.steps] == [
        ("merge_layers", 2),
        ("merge_layers@decoder", 1),
        ("merge_tokens", None),
    ]
    assert {*spec.made_by_hand()} >= {"merge_layers alone", "merge_layers@decoder alone"}
