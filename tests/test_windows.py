"""Attention within windows, against attention written out for each token; and layouts whose heads share keys."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from compress.context import Context
from compress.errors import BadInput
from compress.pipeline import run_all_steps
from compress.policies.merge_tokens import MergeTokens
from compress.stack import Schedule
from compress.tokens import Tokens
from hmr.models.known.windows import attend_within
from hmr.models.own_model import OwnModel

GRID, SIDE, WIDTH = (4, 6), 2, 8


def parts(count: int, seed: int = 0) -> list[Tensor]:
    """q, k and v (2, 3, count, WIDTH)."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 3, count, WIDTH, generator=generator) for _ in range(3)]


def by_hand(q: Tensor, k: Tensor, v: Tensor, window: Tensor) -> Tensor:
    """Each token over those of its own window (B, N)."""
    out = torch.empty_like(q)
    for b in range(len(q)):
        for i in range(q.shape[2]):
            near = window[b] == window[b, i]
            logits = torch.einsum("hd,hnd->hn", q[b, :, i], k[b][:, near]) / WIDTH**0.5
            out[b, :, i] = torch.einsum("hn,hnd->hd", logits.softmax(-1), v[b][:, near])
    return out


def test_whole_tokens_see_those_of_their_window() -> None:
    tokens = Tokens.of(torch.zeros(2, 24, 4), GRID)
    window = torch.tensor([[(i // 6 // SIDE) * 3 + i % 6 // SIDE for i in range(24)]] * 2)
    q, k, v = parts(24)
    torch.testing.assert_close(attend_within(q, k, v, tokens, SIDE), by_hand(q, k, v, window))


def test_merged_tokens_see_those_of_the_window_of_their_mean_place() -> None:
    """Patches 0 and 1 merge within a window, 3 and 4 across two: their mean column, 3.5, lies in that of 3."""
    assign = torch.arange(24)
    assign[1], assign[4] = 0, 3
    place = torch.unique(assign)
    assign = torch.searchsorted(place, assign).expand(2, -1)
    tokens = Tokens.of(torch.zeros(2, 24, 4), GRID).reduced(assign, 22)
    mean = tokens.positions()
    window = (mean[..., 0] // SIDE) * 3 + mean[..., 1] // SIDE
    assert window[0, 2] == 1  # columns 3 and 4
    q, k, v = parts(22)
    bias = tokens.size.log()
    torch.testing.assert_close(attend_within(q, k, v, tokens, SIDE), by_hand(q, k, v, window))
    assert not torch.allclose(attend_within(q, k, v, tokens, SIDE, bias), by_hand(q, k, v, window))


def vitdet(windows: bool = True, side: int = 2, **asked: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.VitDetConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=64,
        pretrain_image_size=64,
        patch_size=8,
        window_size=side,
        window_block_indices=[0, 1] if windows else [],
        **asked,
    )
    module = transformers.VitDetModel(config).eval()
    for value in module.parameters():
        torch.nn.init.normal_(value, std=0.2)
    return module


def own(module: Any, crop: tuple[int, int] = (64, 64)) -> OwnModel:
    return OwnModel(module, lambda _, tokens: tokens.x, crop, blocks="encoder.layer", norm="").eval()


@torch.no_grad()
def test_vitdet_is_itself_and_its_windows_matter() -> None:
    crop = torch.randn(2, 3, 64, 64)
    module = vitdet()
    wanted = module(crop).last_hidden_state.flatten(2).transpose(1, 2)
    torch.testing.assert_close(own(module)(crop), wanted, rtol=1e-4, atol=1e-4)
    other = vitdet(windows=False)
    other.load_state_dict(module.state_dict())
    assert not torch.allclose(own(other)(crop), wanted, atol=1e-2)


@torch.no_grad()
def test_merging_in_windows_leaves_a_frame_alone_and_costs_what_is_computed() -> None:
    crop = torch.randn(3, 3, 64, 64)
    whole = own(vitdet())
    step = MergeTokens(keep=40, per_layer=12, protect="none")
    model = run_all_steps(whole, (step,), Context(whole))
    assert model(crop).shape == (3, 40, 32)
    torch.testing.assert_close(model(crop)[:1], model(crop[:1]), rtol=1e-4, atol=1e-4)
    windowed, plain = (own(vitdet(windows=on)) for on in (True, False))
    assert plain.cost().macs.true - windowed.cost().macs.true == 2 * 2 * 32 * (64**2 - 64 * 4)
    for one in (windowed, plain):
        one.schedule = Schedule((8,))
    assert plain.cost().macs.true - windowed.cost().macs.true == 2 * 32 * (64**2 - 64 * 4)  # in the first block alone


def test_what_does_not_divide_into_windows_is_a_sentence() -> None:
    with pytest.raises(BadInput, match="8 x 8 patches and 0 tokens before them do not divide into windows of 3 x 3"):
        own(vitdet(side=3))
    with pytest.raises(BadInput, match="rel_pos_h has no place"):
        own(vitdet(use_relative_position_embeddings=True))
