"""What compressing promises, for every kind of network, head and recipe: forty cases of one test."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from compress import artefact
from compress.context import Context
from compress.cost.macs import cost
from compress.errors import BadInput
from compress.pipeline import run_all_steps
from compress.policies.merge_layers import MergeLayers
from compress.policies.merge_tokens import MergeTokens
from compress.policies.precision import Precision
from compress.policies.prune_width import PruneWidth
from compress.policy import ModelSize, Policy
from compress.tokens import Tokens
from hmr.models.own_model import OwnModel
from tests.known_network import Network
from tests.networks import DIM, FAMILIES

NETWORKS = ("vitpose", "timm", "dinov2", "dinov3", "hf5")  # 0, 1, 3, 5 and 1 tokens before the patches
KEPT = 24  # of 48 patches
RECIPES: dict[str, tuple[Policy, ...]] = {
    "layers and tokens": (
        MergeLayers(strategy="explicit", operator="drop", windows=((1, 2),)),
        MergeTokens(keep=KEPT, per_layer=12),
    ),
    "map and ToMe": (
        MergeLayers(strategy="explicit", operator="linear", windows=((2, 2),)),
        MergeTokens(keep=KEPT, per_layer=12, protect="none", proportional_attention=True),
    ),
    "width, rings, bfloat16": (
        PruneWidth(mlp_ratio=0.5, head_ratio=0.5),
        MergeTokens(keep=KEPT, per_layer=16, dilate=1, partition="unprotected"),
        Precision(dtype="bfloat16"),
    ),
    "person alone": (MergeTokens(keep=KEPT, mode="drop"),),
}


def mean_token(own: Any, tokens: Tokens) -> Tensor:
    """A head that reads a list: (B, 2 C), whatever the order and number of patches."""
    patches, size = tokens.x[:, tokens.prefix :], tokens.size[:, tokens.prefix :, None]
    first = tokens.x[:, 0] if tokens.prefix else patches.amax(1)
    return torch.cat((first, (patches * size).sum(1) / size.sum(1)), 1)


def convolved(own: Any, tokens: Tokens) -> Tensor:
    """A head that reads the grid: (B, 4)."""
    weight = torch.randn(4, DIM, 3, 3, generator=torch.Generator().manual_seed(3)).to(tokens.x)
    return F.conv2d(tokens.to_grid(), weight).flatten(2).amax(2)


HEADS = {"tokens": mean_token, "grid": convolved}


class Crops:
    """A judge that knows pictures and no labels."""

    masks = None

    def __init__(self, family: Network) -> None:
        self.crops = [family.images()]

    def errors(self, index: int, tokens: Tokens, model: Any = None) -> Tensor:
        raise AssertionError("nothing here is chosen by an error")


def built(family: Network, head: Any) -> OwnModel:
    return OwnModel(family.module(), HEADS[head], family.crop, blocks=family.blocks, head_needs=head).eval()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("network", NETWORKS)
@torch.no_grad()
def test_contract(network, recipe, head, tmp_path):
    family, steps = FAMILIES[network], RECIPES[recipe]
    original, images, masks = built(family, head), family.images(), family.masks()
    if recipe == "person alone" and head == "grid":
        with pytest.raises(BadInput, match="full grid"):
            steps[0].check(original)
        return
    before, said = original.state_dict(), original(images)
    context = Context(original)
    context.memory["judge"] = Crops(family)
    size = ModelSize.of(original)
    for step in steps:
        step.check(original)
        size = step.fit(size)
    model = run_all_steps(original, steps, context)
    assert torch.equal(original(images), said) and original.state_dict().keys() == before.keys()

    tokens, out = model.encode(images, masks), model(images, masks)
    assert out.shape == said.shape and out.dtype == said.dtype and out.isfinite().all() and not torch.equal(out, said)
    assert tokens.x.shape == (3, family.prefix + KEPT, DIM) and (tokens.size[:, : family.prefix] == 1).all()
    alive = tokens.source[tokens.source >= 0]
    assert alive.min() >= family.prefix and alive.max() < tokens.x.shape[1]
    held = KEPT if recipe == "person alone" else family.patches
    assert tokens.size[:, family.prefix :].sum(1).tolist() == [held] * 3
    if steps[-1] != Precision(dtype="bfloat16"):  # whose roundings may match other tokens
        alone = torch.cat([model(images[i : i + 1], masks[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(alone, out, rtol=1e-4, atol=1e-4)

    whole, small = (cost(each, images[:1], masks[:1]) for each in (original, model))
    assert small.macs.true < whole.macs.true and small.tokens[-1] == family.prefix + KEPT
    origin = artefact.Origin(base=original.base, seed=0, commit="", versions={})
    artefact.save(tmp_path / "out", model, context.plans, origin, "", "")
    assert torch.equal(artefact.load(tmp_path / "out", built(family, head))(images, masks), out)
