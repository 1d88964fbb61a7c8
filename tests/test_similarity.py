"""Streaming CKA against its closed Gram form, and the invariances that define it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compress.errors import BadInput
from compress.layers.similarity import cka, layer_similarity
from hmr.models.vit import ViT


def gram_form(x: Tensor, y: Tensor) -> float:
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) of linear kernels, with the centring matrix written out."""
    n = len(x)
    centre = torch.eye(n, dtype=torch.float64) - torch.full((n, n), 1 / n, dtype=torch.float64)
    k, m = (centre @ (z.double() @ z.double().T) @ centre for z in (x, y))
    return ((k * m).sum() / (k.norm() * m.norm())).item()


def features(seed: int, widths: list[int], n: int = 40) -> list[Tensor]:
    """Layers that share a cause, so that similarities differ: (n, width) each, float64."""
    generator = torch.Generator().manual_seed(seed)
    cause = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    return [
        cause @ torch.randn(3, w, generator=generator, dtype=torch.float64)
        + torch.randn(n, w, generator=generator, dtype=torch.float64) * (i + 1) / 2
        + 5 * i
        for i, w in enumerate(widths)
    ]


def streamed(layers: list[Tensor], size: int = 7, **options: int) -> Tensor:
    return cka(lambda: zip(*(layer.split(size) for layer in layers), strict=True), len(layers), **options)


@given(st.integers(0, 2**31), st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(1, 40))
def test_streamed_is_the_gram_form(seed: int, widths: list[int], size: int) -> None:
    layers = features(seed, widths)
    found = streamed(layers, size)
    expected = torch.tensor([[gram_form(x, y) for y in layers] for x in layers], dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
    assert (found.diagonal() == 1).all() and torch.equal(found, found.T)
    assert ((found >= 0) & (found <= 1 + 1e-12)).all()


@given(st.integers(0, 2**31), st.floats(1e-3, 1e3))
def test_turning_scaling_and_moving_change_nothing(seed: int, scale: float) -> None:
    x, y = features(seed, [5, 4])
    turn = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    torch.testing.assert_close(streamed([x @ turn * scale + 7, y]), streamed([x, y]), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(streamed([x @ turn * scale, x])[0, 1].item(), 1.0)


def test_a_stretch_does_change_it() -> None:
    """CKA is no more invariant than that: stretching one channel is seen."""
    x, y = features(0, [5, 4])
    assert abs(streamed([x * torch.tensor([10.0, 1, 1, 1, 1]), y])[0, 1] - streamed([x, y])[0, 1]) > 1e-3


def test_mean_far_from_zero_costs_no_digits() -> None:
    x, y = features(1, [5, 4])
    torch.testing.assert_close(streamed([x + 1e6, y - 1e6]), streamed([x, y]), atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("pairs", [1, 2, 5, 15])
def test_little_memory_takes_more_passes_to_the_same_numbers(pairs: int) -> None:
    layers, passes = features(2, [4] * 5), []

    def batches():
        passes.append(1)
        return zip(*(layer.split(9) for layer in layers), strict=True)

    found = cka(batches, 5, memory=pairs * 8 * 16 + 7)
    assert torch.equal(found, streamed(layers, 9))
    assert len(passes) == -(-15 // pairs)


def test_band_leaves_the_far_ones_out() -> None:
    layers = features(3, [4] * 5)
    found, whole = streamed(layers, band=1), streamed(layers)
    near = (torch.arange(5)[:, None] - torch.arange(5)).abs() <= 1
    assert torch.equal(found[near], whole[near]) and found[~near].isnan().all()
    assert found.diagonal(1).tolist() == [whole[i, i + 1].item() for i in range(4)]


def test_constant_layer_is_like_none() -> None:
    x, _ = features(4, [4, 4])
    assert streamed([x, torch.ones_like(x)]).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_no_frames_or_no_room_is_refused() -> None:
    with pytest.raises(BadInput, match="none"):
        cka(lambda: [], 3)
    with pytest.raises(BadInput, match="bytes"):
        streamed(features(5, [4, 4]), memory=100)


def test_layers_of_a_vit() -> None:
    """Against hooks on the blocks' outputs of the plain forward pass: each block's, over all tokens of all crops."""
    torch.manual_seed(0)
    model = ViT(16, 4, 2, 32, 0.0).eval()
    crops = [torch.randn(3, 3, 64, 48), torch.randn(2, 3, 64, 48)]
    residual: list[list[Tensor]] = [[] for _ in model.blocks]
    with torch.no_grad():
        for crop in crops:
            x = model.embed(crop).x
            for seen, block in zip(residual, model.blocks, strict=True):
                x = block(x)
                seen.append(x.flatten(0, 1))
    layers = [torch.cat(seen) for seen in residual]
    expected = torch.tensor([[gram_form(x, y) for y in layers] for x in layers], dtype=torch.float64)
    torch.testing.assert_close(layer_similarity(model, crops), expected, atol=1e-7, rtol=1e-7)
