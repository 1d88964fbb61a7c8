"""The house's laws that belong to no one module; and where the others are held.

1 identity: here, test_merge_layers, test_merge_tokens, test_stacks, test_compress. 2 mass, 3 batch invariance:
test_tokens, test_merge_tokens, test_stacks. 4 static shapes: here. 5 nothing patched: here. 6 full grids: test_tokens,
test_stacks. 7 positions: test_stacks. 8 original weights: test_merge_layers. 9 save and load: here, test_artefact,
test_compress. 10 made for a model: test_policy, test_merge_layers, test_prune_width, test_artefact. 11 no silent no-op:
test_compress, test_merge_layers. 13 traceable figures: here, test_compress. 14 true costs: test_cost. Imports:
test_architecture.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from compress import artefact
from compress.policies.merge_layers import MergeLayers
from compress.policies.merge_tokens import MergeTokens
from compress.policy import Policy
from experiments.paper.ablation import Comparison, Table, TableRow, ablate
from experiments.paper.finding import Finding
from hmr import load
from hmr.models.model import HMRModel, build
from tests.planning import applied, planned

SIZES = {"dim": 32, "depth": 5, "heads": 2, "mlp_dim": 48, "head_dim": 24, "head_depth": 1, "head_heads": 2}
CROPS = torch.randn(3, 3, 256, 192, generator=torch.Generator().manual_seed(1))
LAYERS = MergeLayers(strategy="explicit", windows=((1, 3),))
TOKENS = MergeTokens(keep=90, per_layer=60)
OUTPUTS = ("global_orient", "body_pose", "betas", "camera", "features")


def person(kind: str, seed: int) -> Tensor:
    """A mask (3, 256, 192) over all of a crop, none of it, one patch or random ones."""
    patches = torch.zeros(3, 16, 12, dtype=torch.bool)
    if kind == "random":
        patches = torch.rand(3, 16, 12, generator=torch.Generator().manual_seed(seed)) < 0.35
    elif kind == "one":
        patches[:, seed % 16, seed % 12] = True
    elif kind == "all":
        patches = ~patches
    return patches.repeat_interleave(16, 1).repeat_interleave(16, 2)


masks = st.builds(person, st.sampled_from(["all", "none", "one", "random"]), st.integers(0, 2**31))


def original() -> HMRModel:
    torch.manual_seed(0)
    return build("hmr2", SIZES).eval()


def compressed(*steps: Policy) -> HMRModel:
    model = original()
    for step in steps:
        applied(planned(step, model), model)
    return model


def equal(one: HMRModel, two: HMRModel, mask: Tensor | None) -> bool:
    with torch.no_grad():
        a, b = one(CROPS, mask), two(CROPS, mask)
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in OUTPUTS)


@settings(max_examples=10)
@given(mask=masks)
def test_law_1_without_steps_no_mask_changes_anything(mask):
    model = compressed(MergeTokens(keep=192), MergeLayers(strategy="explicit", windows=()))
    assert equal(model, original(), mask) and equal(model, original(), None)


@pytest.mark.parametrize("tokens", [TOKENS, MergeTokens(keep=90, mode="drop", dilate=1), TOKENS.model_copy(
    update={"partition": "unprotected", "proportional_attention": True})])  # fmt: skip
def test_law_4_one_export_serves_every_batch_and_every_mask(tokens):
    """A count that depended on what a picture shows, or a batch size read as a constant, would fail to export."""
    model = compressed(LAYERS, tokens)
    batch = {0: torch.export.Dim("batch", min=2, max=64)}
    exported = torch.export.export(Outputs(model), (CROPS, person("one", 0)), dynamic_shapes=(batch, batch)).module()
    crops = torch.cat((CROPS, CROPS.flip(3), CROPS[:1]))
    for kind in ("all", "none", "random"):
        mask = person(kind, 5).repeat(3, 1, 1)[:7]
        with torch.no_grad():
            for one, two in zip(exported(crops, mask), Outputs(model)(crops, mask), strict=True):
                torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


class Outputs(nn.Module):
    """A model whose output is a tuple, as an export asks for."""

    def __init__(self, model: HMRModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, crop: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        output = self.model(crop, mask)
        return tuple(getattr(output, name) for name in OUTPUTS)


def test_law_5_classes_and_keys_stay_and_a_pickle_comes_back():
    model, before = compressed(TOKENS), original()
    assert model.state_dict().keys() == before.state_dict().keys()
    assert [type(m) for m in model.modules()] == [type(m) for m in before.modules()]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    mask = person("random", 3)
    assert equal(pickle.loads(pickle.dumps(model)), model, mask)
    assert equal(model, model, mask)  # nothing that a forward pass uses up


def test_law_5_any_block_runs_alone_and_gradients_survive_checkpointing():
    model = compressed(LAYERS, TOKENS)
    x = torch.randn(2, 7, SIZES["dim"], requires_grad=True)
    for block in model.backbone.blocks:
        assert block(x).shape == x.shape
    weight, mask = model.get_parameter("backbone.blocks.0.attn.qkv.weight"), person("random", 4)

    def gradient(run) -> Tensor:
        (found,) = torch.autograd.grad(run(lambda: model(CROPS, mask).features.square().sum()), weight)
        return found

    plain, saved = gradient(lambda loss: loss()), gradient(lambda loss: checkpoint(loss, use_reentrant=False))
    assert plain.abs().sum() > 0
    torch.testing.assert_close(saved, plain)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("laws") / "out"
    model, plans = original(), []
    for step in (LAYERS, TOKENS):
        plans.append(planned(step, model))
        applied(plans[-1], model)
    base = artefact.Base(name="tiny", architecture="hmr2", sizes=SIZES, sha256="0" * 64)
    origin = artefact.Origin(base=base, seed=0, commit="none", versions={})
    artefact.save(folder, model, plans, origin, "", "")
    return folder


@settings(max_examples=10)
@given(mask=masks)
def test_law_9_what_comes_back_sees_the_same_around_any_person(saved, mask):
    assert equal(load(saved), compressed(LAYERS, TOKENS), mask)


@pytest.mark.parametrize("path", sorted(Path(artefact.__file__).parent.rglob("*.py")), ids=lambda path: path.name)
def test_law_9_nothing_is_unpickled(path):
    assert not re.search(r"import (pickle|dill|joblib)|torch\.load\(|pickle\.loads?\(", path.read_text())


def test_law_13_every_row_of_a_table_can_be_traced(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTHMR_HOME", str(tmp_path))
    rows = (TableRow("layers", (MergeLayers(threshold_mm=1.0),)), TableRow("tokens", (TOKENS,)))
    nothing = Finding("nothing", lambda rows: None, lambda rows: "nothing")
    model = original()
    model.sha256 = "0" * 64
    result = ablate(Table("t", "", "", nothing, rows), Comparison(model, "synth:val", 3, 2))
    source = result["provenance"]
    assert (source["data"]["split"], source["data"]["frames"], source["calib"]["split"]) == ("val", 3, "calib")
    assert all(source[key] is not None for key in ("schema", "commit", "seed", "device", "threads", "versions", "body"))
    assert source["model"]["sha256"] == "0" * 64 and source["data"]["mask_source"] == "renderer"
    ids = [row["recipe_id"] for row in result["rows"]]
    assert all(len(one) == 64 for one in ids) and len(set(ids)) == 3
    assert [len(row["plans"]) for row in result["rows"]] == [0, 1, 1]
