"""Linear maps in the place of blocks: least squares against numpy, and how a stack runs them."""

from __future__ import annotations

import copy
from functools import reduce
from operator import add
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from compress.cost.macs import cost
from compress.layers.least_squares import RIDGE, LinearBlock, Moments, fitted, least_squares
from compress.layers.similarity import layer_similarity
from compress.stack import Schedule, encode, through
from hmr.models.model import HMRModel, build
from hmr.models.vit import ViT
from tests.sizes import TINY


def tokens(seed: int, count: int = 60, width: int = 5, spread: float = 3.0) -> tuple[Tensor, Tensor]:
    """(before, after), (count, width) each, of unlike channels that go together, far from 0."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, width, generator=generator) @ torch.randn(width, width, generator=generator)
    x = x * torch.logspace(-1, 1, width) + spread * torch.randn(width, generator=generator)
    return x, x + torch.sin(x) @ torch.randn(width, width, generator=generator) + 0.5


def by_numpy(x: Tensor, y: Tensor, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Ridge regression with a free constant as least squares over more rows: sqrt(lambda) times the unit matrix."""
    a, d = x.double().numpy(), (y.double() - x.double()).numpy()
    mean_a, mean_d = a.mean(0), d.mean(0)
    strength = ridge * ((a - mean_a) ** 2).sum(0).mean()
    rows = np.vstack((a - mean_a, np.sqrt(strength) * np.eye(a.shape[1])))
    solution, *_ = np.linalg.lstsq(rows, np.vstack((d - mean_d, np.zeros((a.shape[1], d.shape[1])))), rcond=None)
    return solution.T, mean_d - solution.T @ mean_a


@given(st.integers(0, 2**31), st.sampled_from([1e-6, RIDGE, 1.0]), st.sampled_from([3, 60]))
def test_least_squares_is_numpys(seed: int, ridge: float, count: int) -> None:
    """With fewer tokens than channels too."""
    x, y = tokens(seed, count)
    weight, bias = least_squares(Moments.added(x, y), ridge)
    wanted_weight, wanted_bias = by_numpy(x, y, ridge)
    np.testing.assert_allclose(weight, wanted_weight, atol=1e-6, rtol=1e-6)
    np.testing.assert_allclose(bias, wanted_bias, atol=1e-5, rtol=1e-6)


@given(st.integers(0, 2**31), st.permutations(range(6)))
def test_the_order_of_batches_does_not_matter(seed: int, order: list[int]) -> None:
    x, y = tokens(seed)
    parts = [Moments.added(a, b) for a, b in zip(x.split(10), y.split(10), strict=True)]
    whole, mixed = Moments.added(x, y), reduce(add, [parts[i] for i in order])
    for one, two in zip(least_squares(whole), least_squares(mixed), strict=True):
        torch.testing.assert_close(one, two, atol=1e-9, rtol=1e-9)
    first, again = (fitted([(x[i], y[i]) for i in ids], x) for ids in (torch.arange(60).split(10), [slice(None)]))
    torch.testing.assert_close(first.weight, again.weight)


@given(st.integers(0, 2**31))
def test_what_is_affine_is_found_again(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(200, 5, generator=generator) * torch.logspace(-1, 1, 5) + 3
    weight, bias = torch.randn(5, 5, generator=generator), torch.randn(5, generator=generator)
    after = x.double() + x.double() @ weight.double().T + bias
    found = fitted([(x, after)], x, ridge=1e-9)
    torch.testing.assert_close(found.weight.detach(), weight, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.bias.detach(), bias, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(found(x).double(), after, atol=1e-5, rtol=1e-5)


def test_no_other_map_leaves_less() -> None:
    """At the minimum, a small step in any direction raises the sum of squares and the ridge together."""
    x, y = (part.double() for part in tokens(3))
    strength = 0.1 * ((x - x.mean(0)) ** 2).sum(0).mean()

    def loss(weight: Tensor, bias: Tensor) -> Tensor:
        return (x @ weight.T + bias - (y - x)).square().sum() + strength * weight.square().sum()

    weight, bias = least_squares(Moments.added(x, y), 0.1)
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        step = torch.randn(5, 6, generator=generator, dtype=torch.float64) * 1e-3
        assert loss(weight + step[:, :5], bias + step[:, 5]) > loss(weight, bias)


@pytest.mark.parametrize("value", [0.0, 1.0, 1e4])
def test_tokens_that_never_vary_get_a_constant_and_no_weight(value: float) -> None:
    x = torch.full((30, 4), value)
    found = fitted([(x, x + 2)], x)
    assert found.weight.abs().max() < 1e-6
    torch.testing.assert_close(found(x), x + 2)


def test_tokens_that_are_not_finite_give_no_map() -> None:
    x, y = tokens(0)
    x[3, 1] = torch.nan
    assert not fitted([(x, y)], x).weight.isfinite().all()


def test_a_new_map_changes_nothing_and_keeps_the_type_of_tokens() -> None:
    x = torch.randn(2, 7, 4)
    block = LinearBlock(4)
    assert torch.equal(block(x), x) and set(block.state_dict()) == {"weight", "bias"}
    nn.init.normal_(block.weight)
    rounded = copy.deepcopy(block).to(torch.bfloat16)(x)
    assert rounded.dtype == x.dtype and not torch.equal(rounded, block(x))
    torch.testing.assert_close(rounded, block(x), atol=0.05, rtol=0.05)


# ---- in a stack


def model(**sizes: Any) -> HMRModel:
    torch.manual_seed(0)
    return build("hmr2", {**TINY, **sizes}).eval()


def with_map(stack: Any, place: int) -> LinearBlock:
    block = LinearBlock(32)
    nn.init.normal_(block.weight, std=0.02)
    nn.init.normal_(block.bias)
    stack.blocks[place] = block
    return block


@torch.no_grad()
def test_a_stack_runs_a_map_on_every_token() -> None:
    """Prefix tokens included, alone and between blocks."""
    stack = ViT(32, 3, 2, 48, 0.0).eval()
    block = with_map(stack, 1)
    crop = torch.randn(2, 3, 64, 48)
    before = stack.embed(crop)
    x = stack.blocks[0](before.x)
    wanted = stack.last_norm(stack.blocks[2](x + x @ block.weight.T + block.bias))
    torch.testing.assert_close(encode(stack, crop).x, wanted, atol=1e-5, rtol=1e-5)
    assert torch.equal(through(stack, [block], before).x, block(before.x))


def test_nothing_merges_in_a_map() -> None:
    stack = ViT(32, 3, 2, 48, 0.0).eval()
    with_map(stack, 1)
    crop = torch.randn(2, 3, 64, 48)
    with pytest.raises(ValueError, match="4 tokens cannot merge in block 1: it is a linear map"):
        encode(stack, crop, schedule=(2, 4))
    assert encode(stack, crop, schedule=(2, 0, 4)).x.shape[1] == 6


@pytest.mark.parametrize("merges", [(), (0, 0, 60)])
def test_macs_of_a_map_are_its_closed_formula(merges: tuple[int, ...]) -> None:
    """N C^2 in each convention, against (4 C^2 + 2 C M) N + 2 N^2 C of a block; parameters C^2 + C."""
    with torch.device("meta"):
        plain, mapped = model(), model()
        with_map(mapped.stack, 1)
    crop = torch.zeros(1, 3, 256, 192, device="meta"), torch.ones(1, 256, 192, device="meta")
    for one in (plain, mapped):
        one.schedule, one.protect = Schedule(merges), 0.0
    before, after = cost(plain, *crop), cost(mapped, *crop)
    part = next(p for p in after.parts if p.name == "backbone.blocks.1")
    assert (part.params, part.macs.true, part.macs.linear, part.macs.thop) == (32**2 + 32, *[192 * 32**2] * 3)
    block = 192 * (4 * 32**2 + 2 * 32 * 48) + 2 * 192**2 * 32
    assert before.macs.true - after.macs.true == block - 192 * 32**2
    assert (before.layers, after.layers) == (3, 2) and after.tokens == before.tokens


def test_a_map_costs_8_percent_of_a_block_of_vit_s() -> None:
    """192 tokens and a class token, 384 wide, MLP 1,536; 7.7 % of all products, 8.3 % of linear layers."""
    count, width = 193, 384
    assert round(100 * width**2 / (12 * width**2 + 2 * count * width), 1) == 7.7
    assert round(100 / 12, 1) == 8.3


@settings(max_examples=5)
@given(st.integers(0, 100))
def test_a_fitted_map_is_nearer_to_its_block_than_leaving_it_out(seed: int) -> None:
    stack = ViT(16, 3, 2, 32, 0.0).eval()
    crops = [torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(seed + i)) for i in range(3)]
    with torch.no_grad():
        pairs = [(t := stack.embed(crop), through(stack, [stack.blocks[0]], t)) for crop in crops]
        block = fitted([(before.x, after.x) for before, after in pairs], stack.blocks[0].norm1.weight)  # type: ignore[union-attr, arg-type]
        left = sum((block(before.x) - after.x).square().sum() for before, after in pairs)
        out = sum((before.x - after.x).square().sum() for before, after in pairs)
    assert cast(Tensor, left) < cast(Tensor, out)


def test_similarity_may_begin_with_what_goes_into_the_first_block() -> None:
    torch.manual_seed(0)
    stack = ViT(16, 3, 2, 32, 0.0).eval()
    crops = [torch.randn(2, 3, 64, 48)]
    with_embedding = layer_similarity(stack, crops, embedding=True)
    assert with_embedding.shape == (4, 4)
    torch.testing.assert_close(with_embedding[1:, 1:], layer_similarity(stack, crops))
    same = ViT(16, 3, 2, 32, 0.0).eval()
    same.load_state_dict(stack.state_dict())
    same.blocks[0] = LinearBlock(16)  # changes nothing: what goes in and what comes out is alike
    torch.testing.assert_close(layer_similarity(same, crops, embedding=True)[0, 1].item(), 1.0)
