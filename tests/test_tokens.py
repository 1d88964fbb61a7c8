"""Laws 1-4 of token reduction, held against brute force over all-person, no-person, one-token and random masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compress.errors import BadInput
from compress.tokens import DROPPED, TIER, Matching, Partition, Tokens, coverage, match, sides

GRID = (4, 3)
PATCHES = 12
PARTITIONS: tuple[Partition, ...] = ("parity", "unprotected")


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tokens, Tensor, int, Partition]:
    """Random tokens with a mask of each kind, a number of merges, a partition; some with a prefix."""
    seed, prefix = draw(st.integers(0, 2**31)), draw(st.sampled_from([0, 1, 5]))
    generator = torch.Generator().manual_seed(seed)
    kind = draw(st.sampled_from(["all", "none", "one", "random"]))
    mask = {
        "all": torch.ones(3, PATCHES, dtype=torch.bool),
        "none": torch.zeros(3, PATCHES, dtype=torch.bool),
        "one": torch.arange(PATCHES).expand(3, -1) == seed % PATCHES,
        "random": torch.rand(3, PATCHES, generator=generator) < draw(st.floats(0.1, 0.9)),
    }[kind]
    tokens = Tokens.of(torch.randn(3, prefix + PATCHES, 8, generator=generator), GRID, prefix).protecting(mask)
    key = torch.randn(3, prefix + PATCHES, 4, generator=generator)
    return tokens, key, draw(st.integers(0, PATCHES // 2)), draw(st.sampled_from(PARTITIONS))


def forced(found: Matching) -> Tensor:
    """Merges (B,) that took a protected token; the limit lies between two tiers: cosines may round above 1."""
    return (found.score < -TIER / 2).sum(1)


def reduced(tokens: Tokens, key: Tensor, r: int, partition: Partition) -> Tokens:
    found = match(key, tokens.protected, r, prefix=tokens.prefix, partition=partition)
    return tokens.reduced(found.assign, tokens.x.shape[1] - r)


@settings(max_examples=200)
@given(cases())
def test_mass_is_kept_and_every_patch_has_a_token(case: tuple[Tokens, Tensor, int, Partition]) -> None:
    tokens, key, r, partition = case
    out = reduced(tokens, key, r, partition)
    assert out.x.shape == (3, tokens.x.shape[1] - r, 8)
    assert (out.size.sum(1) == tokens.x.shape[1]).all()
    assert (out.source >= tokens.prefix).all() and (out.source < out.x.shape[1]).all()
    counts = torch.stack([torch.bincount(s, minlength=out.x.shape[1]) for s in out.source])
    assert (counts[:, tokens.prefix :] == out.size[:, tokens.prefix :]).all()
    torch.testing.assert_close((out.x * out.size[..., None]).sum(1), tokens.x.sum(1), atol=1e-4, rtol=1e-4)


@settings(max_examples=200)
@given(cases())
def test_each_token_is_the_mean_of_its_patches(case: tuple[Tokens, Tensor, int, Partition]) -> None:
    tokens, key, r, partition = case
    out = reduced(tokens, key, r, partition)
    for b in range(3):
        for t in range(tokens.prefix, out.x.shape[1]):
            patches = (out.source[b] == t).nonzero()[:, 0] + tokens.prefix
            torch.testing.assert_close(out.x[b, t], tokens.x[b, patches].mean(0), atol=1e-5, rtol=1e-5)
            assert out.protected[b, t] == tokens.protected[b, patches].any()


@settings(max_examples=200)
@given(cases())
def test_merges_are_the_best_pairs_spared_first(case: tuple[Tokens, Tensor, int, Partition]) -> None:
    """Brute force: for each token of side A the best partner in B; the r best by (protected tokens, similarity)."""
    tokens, key, r, partition = case
    found = match(key, tokens.protected, r, prefix=tokens.prefix, partition=partition)
    a, b_side = sides(tokens.protected, tokens.prefix, partition)
    unit = (key / key.norm(dim=-1, keepdim=True)).double().numpy()
    for b in range(3):
        guard = tokens.protected[b].numpy().astype(int)
        side_a, side_b = a[b].tolist(), b_side[b].tolist()
        best = sorted(min((guard[i] + guard[j], -unit[b, i] @ unit[b, j], i, j) for j in side_b) for i in side_a)
        merged = {i: j for _, _, i, j in best[:r]}
        for i, j in merged.items():
            assert found.assign[b, i] == found.assign[b, j]
        assert found.assign[b].unique().numel() == tokens.x.shape[1] - r
        assert forced(found)[b] == sum(tier > 0 for tier, *_ in best[:r])
        spare = [1 for tier, *_ in best[r:] if tier == 0]
        assert not (forced(found)[b] and spare)


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_without_a_mask_parity_merges_what_tome_merges(prefix: int) -> None:
    """Bolya et al. 2023, Sec. 3 and Appendix D: even places of the whole list, class token at 0 included, are one side,
    odd places the other; a token of the first that may not merge scores -inf, the r best edges merge, as means."""
    generator = torch.Generator().manual_seed(prefix)
    count, r = prefix + PATCHES, 5
    tokens = Tokens.of(torch.randn(1, count, 8, generator=generator), GRID, prefix)
    key = torch.randn(1, count, 4, generator=generator)
    unit = (key / key.norm(dim=-1, keepdim=True))[0]
    scores = unit @ unit.T
    scores[:prefix], scores[:, :prefix] = -torch.inf, -torch.inf
    scores[1::2], scores[:, ::2] = -torch.inf, -torch.inf
    best, partner = scores.max(1)
    groups = {i: [i] for i in range(count)}
    for i in best.argsort(descending=True)[:r].tolist():
        groups[int(partner[i])] += groups.pop(i)
    wanted = torch.stack([tokens.x[0, groups[i]].mean(0) for i in sorted(groups)])
    torch.testing.assert_close(reduced(tokens, key, r, "parity").x[0], wanted)


@settings(max_examples=100)
@given(cases(), st.permutations(range(3)))
def test_a_frame_does_not_see_its_batch(case: tuple[Tokens, Tensor, int, Partition], order: list[int]) -> None:
    tokens, key, r, partition = case
    found = match(key, tokens.protected, r, prefix=tokens.prefix, partition=partition)
    mixed = match(key[order], tokens.protected[order], r, prefix=tokens.prefix, partition=partition)
    assert (mixed.assign == found.assign[order]).all()
    alone = match(key[:1], tokens.protected[:1], r, prefix=tokens.prefix, partition=partition)
    assert (alone.assign[0] == found.assign[0]).all()


@settings(max_examples=50)
@given(cases())
def test_grid_comes_back_after_two_merges(case: tuple[Tokens, Tensor, int, Partition]) -> None:
    tokens, key, r, partition = case
    once = reduced(tokens, key, r, partition)
    again = min(2, (once.x.shape[1] - once.prefix) // 2)
    out = reduced(once, torch.randn(3, once.x.shape[1], 4), again, partition)
    grid = out.to_grid()
    for row in range(GRID[0]):
        for column in range(GRID[1]):
            patch = row * GRID[1] + column
            for b in range(3):
                torch.testing.assert_close(grid[b, :, row, column], out.x[b, out.source[b, patch]])


def test_no_merge_is_identity() -> None:
    tokens = Tokens.of(torch.randn(2, PATCHES, 8), GRID)
    out = reduced(tokens, torch.randn(2, PATCHES, 4), 0, "parity")
    assert torch.equal(out.x, tokens.x) and torch.equal(out.source, tokens.source)


def test_unprotected_partition_wastes_no_pair() -> None:
    """All unprotected patches at even places: parity finds no unprotected pair, the even split finds three."""
    mask = (torch.arange(PATCHES) % 2 == 1)[None]
    tokens = Tokens.of(torch.randn(1, PATCHES, 8), GRID).protecting(mask)
    key = torch.randn(1, PATCHES, 4)
    assert forced(match(key, tokens.protected, 3)).item() == 3
    assert forced(match(key, tokens.protected, 3, partition="unprotected")).item() == 0


def test_forced_merges_of_equal_keys_are_counted() -> None:
    """Cosines of 1, as flat background gives, lie on the border of their tier and round to either side of it."""
    key = torch.randn(1, 1, 16, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 3, PATCHES)[:, None]
    protected = torch.arange(PATCHES)[None] < 7  # of the six on side A, four
    assert forced(match(key, protected, 6)).item() == 4


def test_positions_are_means_of_patches() -> None:
    tokens = Tokens.of(torch.randn(1, PATCHES, 8), GRID)
    out = reduced(tokens, torch.randn(1, PATCHES, 4), 5, "parity")
    rows, columns = np.divmod(np.arange(PATCHES), GRID[1])
    for t, position in enumerate(out.positions()[0]):
        held = (out.source[0] == t).numpy()
        np.testing.assert_allclose(position, (rows[held].mean(), columns[held].mean()), atol=1e-6)


def test_dropped_patches_are_gone_and_no_grid_comes_back() -> None:
    tokens = Tokens.of(torch.randn(2, 1 + PATCHES, 8), GRID, prefix=1)
    index = torch.tensor([[0, 2, 5, 7], [0, 1, 8, 12]])
    out = tokens.kept(index)
    assert torch.equal(out.x[1], tokens.x[1, index[1]])
    assert out.source[0].tolist() == [DROPPED, 1, DROPPED, DROPPED, 2, DROPPED, 3, *[DROPPED] * 5]
    with pytest.raises(BadInput, match="full grid"):
        out.to_grid()


def test_too_many_merges_are_refused() -> None:
    tokens = Tokens.of(torch.randn(1, PATCHES, 8), GRID)
    with pytest.raises(ValueError, match="7 pairs cannot merge"):
        match(torch.randn(1, PATCHES, 4), tokens.protected, 7)


def test_tiers_lie_further_apart_than_cosines() -> None:
    assert 1 - TIER < -TIER / 2 < -1


def test_coverage_is_the_share_of_the_patch() -> None:
    mask = torch.zeros(1, 64, 48, dtype=torch.bool)
    mask[0, :16, :8] = True
    assert coverage(mask, GRID)[0].tolist() == [0.5] + [0.0] * 11


def test_keys_of_almost_no_length_do_not_climb_over_protection():
    key, protected = torch.randn(1, 16, 8), torch.arange(16)[None] < 8
    key[:, :8] *= 1e-25
    found = match(key, protected, 4)
    assert forced(found).item() == 0 and found.score.abs().max() <= 1 + 1e-5
