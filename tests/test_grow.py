"""Growth in depth: what the deeper model answers, and what cannot grow."""

from __future__ import annotations

import pytest
import torch

from compress.errors import BadInput
from hmr.models.model import build
from hmr.training.grow import grown

TINY = {"dim": 24, "heads": 2, "mlp_dim": 48, "head_dim": 32, "head_depth": 1, "head_dim_head": 8, "head_mlp_dim": 32}


def model_of(depth):
    torch.manual_seed(0)
    return build("reference", {**TINY, "depth": depth}).eval()


@pytest.mark.parametrize("times", [1, 2, 3])
@torch.no_grad()
def test_blocks_that_add_the_same_everywhere_add_it_in_shorter_steps(times):
    """With weights of zero a block adds its biases alone, and then the way is the same, not only nearly so."""
    small, large = model_of(2), model_of(2 * times)
    for block in small.backbone.blocks:
        for linear in (block.attn.proj, block.mlp.fc2):
            torch.nn.init.zeros_(linear.weight)
            torch.nn.init.normal_(linear.bias)
    large.load_state_dict(grown(small.state_dict(), 2, 2 * times))
    crop = torch.randn(2, 3, 256, 192)
    torch.testing.assert_close(large.backbone(crop), small.backbone(crop), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_short_steps_bend_little():
    """The difference to the shallow model goes with the square of the step: a tenth of it is a hundredth."""
    crop = torch.randn(2, 3, 256, 192)
    apart = []
    for step in (1.0, 0.1):
        small, large = model_of(2), model_of(4)
        for block in small.backbone.blocks:
            for linear in (block.attn.proj, block.mlp.fc2):
                torch.nn.init.normal_(linear.weight, std=0.1 * step)
        large.load_state_dict(grown(small.state_dict(), 2, 4))
        small.backbone.last_norm = large.backbone.last_norm = torch.nn.Identity()
        apart.append((large.backbone(crop) - small.backbone(crop)).norm())
    assert 0 < apart[1] < apart[0] / 50


def test_only_multiples_grow():
    for depth, wanted in ((2, 3), (4, 2), (0, 2)):
        with pytest.raises(BadInput, match="multiple"):
            grown({}, depth, wanted)
