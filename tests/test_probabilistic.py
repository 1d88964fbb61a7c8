"""Scores of samples, against closed forms and against counting."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import norm

from compress.errors import BadInput
from hmr.evaluation.probabilistic import apart, best_of, covered, energy_score, gaussian_samples


def test_the_energy_score_of_a_normal_is_its_continuous_ranked_probability_score():
    """In one dimension they are one: of N(m, s) at m + s z it is s (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi))."""
    torch.manual_seed(0)
    mean, deviation, truth = 1.0, 2.0, torch.tensor([-1.0, 1.0, 4.0])
    samples = mean + deviation * torch.randn(2000, 3, 1)
    z = (truth.numpy() - mean) / deviation
    wanted = deviation * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))
    assert np.allclose(energy_score(samples, truth[:, None]), wanted, atol=0.08)


def test_the_energy_score_is_its_sum_over_pairs():
    torch.manual_seed(1)
    samples, truth = torch.randn(5, 4, 3), torch.randn(4, 3)
    far = sum((x - truth).norm(dim=-1) for x in samples) / 5
    pairs = sum((x - y).norm(dim=-1) for x in samples for y in samples) / (5 * 4)
    assert torch.allclose(energy_score(samples, truth), far - pairs / 2, atol=1e-6)
    assert torch.allclose(apart(samples), pairs, atol=1e-6)


def test_of_one_answer_it_is_the_distance_and_copies_do_not_help():
    one, truth = torch.randn(1, 7, 3), torch.randn(7, 3)
    distance = (one[0] - truth).norm(dim=-1)
    assert torch.allclose(energy_score(one, truth), distance)
    assert torch.allclose(energy_score(one.expand(9, -1, -1), truth), distance, atol=1e-6)


def test_it_is_least_for_the_true_distribution():
    """Of N(0, s) for truths of N(0, 1); too sure and too unsure both score worse."""
    torch.manual_seed(2)
    truth = torch.randn(4000, 3)
    scores = {s: energy_score(s * torch.randn(19, 4000, 3), truth).mean().item() for s in (0.3, 0.7, 1.0, 1.4, 2.5)}
    assert min(scores, key=scores.__getitem__) == 1.0


@pytest.mark.parametrize("count", [19, 39])
def test_nine_in_ten_truths_of_the_same_distribution_are_covered(count):
    torch.manual_seed(3)
    scale = torch.rand(20_000) ** 3  # whatever the distribution
    samples, truth = scale * torch.randn(count, 20_000).exp(), scale * torch.randn(20_000).exp()
    assert covered(samples, truth).float().mean().item() == pytest.approx(0.9, abs=0.01)
    assert not covered(samples, samples.amax(0) + 1).any()


def test_a_number_of_samples_without_such_quantiles_is_refused():
    for count in (1, 10, 20):
        with pytest.raises(BadInput, match="take 19 or 39"):
            covered(torch.zeros(count, 2), torch.zeros(2))


def test_the_best_of_some_is_the_mean_over_all_choices():
    errors = torch.rand(6, 3)
    for count in (1, 3, 6):
        wanted = torch.stack([errors[list(some)].amin(0) for some in combinations(range(6), count)]).mean(0)
        assert torch.allclose(best_of(errors, count), wanted, atol=1e-6)
    with pytest.raises(BadInput, match="best of 7"):
        best_of(errors, 7)


def test_a_gaussian_has_the_mean_and_the_covariance_of_its_residuals():
    torch.manual_seed(4)
    residuals = torch.randn(5000, 3) @ torch.tensor([[1.0, 0.5, 0], [0, 1, 0], [0, 0, 0]]) + torch.tensor([1.0, 0, 0])
    mean = torch.tensor([[0.0, 0, 0], [5, 5, 5]])
    samples = gaussian_samples(mean, residuals, 20_000)
    for i in range(2):
        assert torch.allclose(samples[:, i].mean(0), mean[i] + residuals.mean(0), atol=0.05)
        assert torch.allclose(torch.cov(samples[:, i].mT), torch.cov(residuals.mT), atol=0.06)
    assert torch.equal(samples, gaussian_samples(mean, residuals, 20_000))
