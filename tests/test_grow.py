"""Growth in depth: what the deeper model answers, and what cannot grow."""

from __future__ import annotations

import pytest
import torch

from compress.errors import BadInput
from hmr.grow import grown
from hmr.model import build

TINY = {"dim": 24, "heads": 2, "mlp_dim": 48, "head_dim": 32, "head_depth": 1, "head_dim_head": 8, "head_mlp_dim": 32}


def model_of(depth):
    torch.manual_seed(0)
    return build("reference", {**TINY, "depth": depth}).eval()


@pytest.mark.parametrize("times", [1, 2, 3])
@torch.no_grad()
def test_the_deeper_model_answers_the_same(times):
    small, large = model_of(2), model_of(2 * times)
    large.load_state_dict(grown(small.state_dict(), 2, 2 * times))
    crop = torch.randn(2, 3, 256, 192)
    assert torch.equal(large.backbone(crop), small.backbone(crop))


def test_the_copies_learn_from_the_first_step():
    large = model_of(4)
    large.load_state_dict(grown(model_of(2).state_dict(), 2, 4))
    large.backbone(torch.randn(2, 3, 256, 192)).square().mean().backward()
    for copy in (large.backbone.blocks[1], large.backbone.blocks[3]):
        for linear in (copy.attn.proj, copy.mlp.fc2):
            assert not linear.weight.any() and linear.weight.grad.norm() > 0


def test_only_multiples_grow():
    for depth, wanted in ((2, 3), (4, 2), (0, 2)):
        with pytest.raises(BadInput, match="multiple"):
            grown({}, depth, wanted)
