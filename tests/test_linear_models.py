"""Linear maps in whole models: artefacts, tokens, width, precision, recovery and export."""

from __future__ import annotations

import copy
import json
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from compress import artefact
from compress.distillation.changes import training_above, untouched
from compress.errors import BadInput
from compress.policies.merge_layers import MergeLayers
from compress.policies.merge_tokens import MergeTokens, TokenPlan
from compress.policies.precision import Int8Linear, Precision
from compress.policies.prune_width import PruneWidth, WidthPlan
from compress.policy import MadeFor
from compress.stack import LinearBlock, Schedule
from hmr.models.model import HMRModel, build
from tests import sizes
from tests.planning import applied, planned, stepped

LINEAR = MergeLayers(strategy="explicit", operator="linear", windows=((1, 1), (3, 4)))
SIZES = {**sizes.TINY, "depth": 5}


def hmr_model(*steps: Any, seed: int = 0) -> HMRModel:
    torch.manual_seed(seed)
    model = build("hmr2", SIZES).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "blocks" in name:
            nn.init.normal_(parameter, std=0.1)
    for step in steps:
        model = stepped(step, model, CALIB)[1]
    return model


class Calib:
    """A judge of noise, in two batches."""

    def __init__(self) -> None:
        crops = torch.randn(6, 3, 256, 192, generator=torch.Generator().manual_seed(0))
        self.crops, self.masks = crops.split(3), [PERSON, PERSON]

    def errors(self, index: int, tokens: Any, model: Any = None) -> Tensor:
        return tokens.x.flatten(1).norm(dim=1)


PERSON = torch.zeros(3, 256, 192)
PERSON[:, 48:208, 64:128] = 1
CALIB = Calib()


def test_an_artefact_comes_back_equal_without_data(tmp_path) -> None:
    model, plans = hmr_model(), []
    for step in (LINEAR, MergeTokens(keep=90, per_layer=60), Precision(dtype="bfloat16")):
        plan, model = stepped(step, model, CALIB)
        plans.append(plan)
    base = artefact.Base(name="tiny", architecture="hmr2", sizes=SIZES, sha256="0" * 64)
    origin = artefact.Origin(base=base, seed=0, commit="none", versions={})
    artefact.save(tmp_path / "out", model, plans, origin, "", "")
    found = cast(HMRModel, artefact.load(tmp_path / "out", build))
    assert {name for name in found.state_dict() if ".blocks.1." in name} == {
        "backbone.blocks.1.weight",
        "backbone.blocks.1.bias",
    }
    with torch.no_grad():
        assert torch.equal(found(CALIB.crops[0], PERSON).features, model(CALIB.crops[0], PERSON).features)
    said = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert [len(name) for name in said[0]["maps"]] == [64, 64]


def test_maps_merge_no_tokens_and_do_not_count() -> None:
    """Blocks 0, 2 and the maps at 1 and 3: two blocks merge, at their own places."""
    model = hmr_model(LINEAR)
    plan, merged = stepped(MergeTokens(keep=90, per_layer=60), copy.deepcopy(model))
    assert plan.schedule == Schedule((60, 0, 42)) and plan.schedule.counts(192, 4) == [132, 132, 90, 90]
    assert planned(MergeTokens(keep=150, per_layer=60, start=1), model).schedule.merges == (0, 0, 42)
    with pytest.raises(BadInput, match=r"in block 2 with per_layer: 60 from block 1 on, .* last block is 1"):
        planned(MergeTokens(keep=90, per_layer=60, start=1), model)
    with torch.no_grad():
        tokens = merged.encode(CALIB.crops[0], PERSON)
        alone = merged.encode(CALIB.crops[0][:1], PERSON[:1])
    assert tokens.x.shape[1] == 90 and (tokens.size.sum(1) == 192).all()
    assert torch.equal(tokens.source[:1], alone.source)
    torch.testing.assert_close(tokens.x[:1], alone.x, atol=1e-5, rtol=1e-5)


def test_a_schedule_that_merges_in_a_map_names_the_block() -> None:
    model = hmr_model(LINEAR)
    plan = TokenPlan(made_for=MadeFor.of(model), schedule=Schedule((60, 42)), coverage=0.0)
    with pytest.raises(BadInput, match="merges tokens in block 1, which is a linear map here"):
        applied(plan, model)


def test_width_is_pruned_around_maps() -> None:
    model = hmr_model(LINEAR)
    maps = [block for block in model.stack.blocks if isinstance(block, LinearBlock)]
    before = [copy.deepcopy(block.state_dict()) for block in maps]
    plan, made = stepped(PruneWidth(mlp_ratio=0.5, head_ratio=0.5), model, CALIB)
    assert [block is None for block in plan.blocks] == [False, True, False, True]
    assert "from 2 blocks" in plan.describe() and WidthPlan.model_validate_json(plan.model_dump_json()) == plan
    assert [b for b in made.stack.blocks if isinstance(b, LinearBlock)] == maps
    assert all(torch.equal(a[k], b.state_dict()[k]) for a, b in zip(before, maps, strict=True) for k in a)
    other = hmr_model(MergeLayers(strategy="explicit", operator="linear", windows=((0, 0), (3, 4))))
    with pytest.raises(BadInput, match="whose linear maps are elsewhere"):
        applied(plan, other)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_precision_rounds_what_is_around_maps(dtype: Any) -> None:
    plain = hmr_model(LINEAR)
    rounded = applied(planned(Precision(dtype=dtype), plain), copy.deepcopy(plain))
    for one, two in zip(plain.stack.blocks, rounded.stack.blocks, strict=True):
        if isinstance(one, LinearBlock):
            assert isinstance(two, LinearBlock) and torch.equal(one.weight.to(two.weight.dtype), two.weight)
            assert two.weight.dtype == (torch.bfloat16 if dtype == "bfloat16" else torch.float32)
    assert any(isinstance(module, Int8Linear) for module in rounded.modules()) == (dtype == "int8")
    with torch.no_grad():
        x, y = (m.encode(CALIB.crops[0]).x for m in (plain, rounded))
    assert y.dtype == torch.float32 and 0 < (x - y).norm() / x.norm() < 0.05


def test_recovery_trains_maps() -> None:
    teacher, student = hmr_model(), hmr_model(LINEAR)
    assert untouched(student, teacher) == 1

    class Crops:
        def __len__(self) -> int:
            return 1

        def read(self, indices: Any) -> tuple[Tensor]:
            return (CALIB.crops[0][:1],)

    with training_above(student, teacher, cast(Any, Crops())):
        (student(CALIB.crops[0]).features.square().sum()).backward()
        gradients = [p.grad for p in student.stack.blocks[1].parameters()]
        assert len(gradients) == 2 and all(g is not None and g.abs().sum() > 0 for g in gradients)
        assert all(p.grad is None for p in student.stack.blocks[0].parameters())


def test_a_map_stands_in_export() -> None:
    model = hmr_model(LINEAR, MergeTokens(keep=90, per_layer=60)).eval()

    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, crop: Tensor, mask: Tensor) -> Tensor:
            return self.model(crop, mask).features

    batch = {0: torch.export.Dim("batch", min=2, max=64)}
    exported = torch.export.export(Features(), (CALIB.crops[0], PERSON), dynamic_shapes=(batch, batch)).module()
    crops, people = torch.cat(CALIB.crops), torch.cat(CALIB.masks)
    with torch.no_grad():
        torch.testing.assert_close(exported(crops, people), Features()(crops, people), atol=1e-5, rtol=1e-5)
