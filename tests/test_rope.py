"""Rotary positions of merged tokens, by brute force; and which kinds are refused."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from compress.errors import BadInput
from compress.policies.merge_tokens import MergeTokens
from compress.tokens import Tokens
from hmr.models.known.rope import Dinov3, rope_of
from tests.networks import DIM, FAMILIES, GRID, Rope, angle
from tests.planning import applied, planned

DINOV3 = FAMILIES["dinov3"]


def merged(model: Any) -> Tokens:
    applied(planned(MergeTokens(keep=15, per_layer=12), model), model)
    return model(DINOV3.images(), DINOV3.masks())


def places(tokens: Tokens, frame: int) -> list[tuple[float, float]]:
    """The mean row and column of each token's patches."""
    found = []
    for token in range(tokens.prefix, tokens.x.shape[1]):
        held = (tokens.source[frame] == token).nonzero()[:, 0].tolist()
        found.append((sum(p // 6 for p in held) / len(held), sum(p % 6 for p in held) / len(held)))
    return found


@pytest.mark.parametrize("ranges", ["separate", "max", "min"])
@torch.no_grad()
def test_merged_tokens_are_turned_to_the_mean_of_their_patches(ranges):
    model = DINOV3.own()
    rope = cast(Any, model.module).rope_embed
    rope.normalize_coords = ranges
    tokens = merged(model)
    sin, cos = Dinov3(rope).at(tokens)
    lengths = {"separate": GRID, "max": (8, 8), "min": (6, 6)}[ranges]
    assert tokens.size.max() > 2
    for frame in range(3):
        wanted = torch.stack([angle(rope, place, lengths) for place in places(tokens, frame)])
        torch.testing.assert_close(sin[frame, 0], wanted.sin(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(cos[frame, 0], wanted.cos(), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_attention_of_merged_tokens_is_that_of_their_own_positions():
    """A block of DINOv3 on merged tokens, against its own forward with brute-force sines and cosines, by frame."""
    model = DINOV3.own()
    tokens = merged(model)
    rope, block = cast(Any, model.module).rope_embed, cast(Any, model.stack.blocks[0])
    update = model.stack.attend(block, tokens)[0]
    for frame in range(3):
        turned = torch.stack([angle(rope, place, GRID) for place in places(tokens, frame)])
        x = tokens.x[frame : frame + 1]
        wanted = block.ls1(block.attn(block.norm1(x), (turned.sin(), turned.cos())))
        torch.testing.assert_close(update[frame : frame + 1], wanted, rtol=1e-4, atol=1e-4)


def test_unmerged_positions_are_the_modules_own_to_the_bit():
    for dtype in (torch.float32, torch.bfloat16):
        rope = Rope("separate", dtype)
        tokens = Tokens.of(torch.zeros(1, 5 + math.prod(GRID), DIM), GRID, 5)
        own = rope(H=GRID[0], W=GRID[1])
        assert all(torch.equal(a[0, 0], b) for a, b in zip(Dinov3(rope).at(tokens), own, strict=True))


class Shifted(Rope):
    """The names of DINOv3, and other angles."""

    def forward(self, *, H: int, W: int) -> tuple[Tensor, Tensor]:
        sin, cos = super().forward(H=H, W=W)
        return sin.roll(1, 0), cos.roll(1, 0)


@pytest.mark.parametrize("kind, words", [(Shifted, "its angles are others"), (nn.Identity, "are none of those known")])
def test_other_rotary_positions_are_refused(kind, words):
    module = DINOV3.module()
    module.rope_embed = kind()
    with pytest.raises(BadInput, match=f"rotary positions of rope_embed, a {kind.__name__}, .*{words}"):
        rope_of([module], "Block")
