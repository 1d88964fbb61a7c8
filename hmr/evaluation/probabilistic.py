"""Scores of a predictor that gives several answers, of which one point may be the only one.

Samples go in as (S, ..., D) with the truth (..., D), in any unit, which distances come out in.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from compress.errors import BadInput


def energy_score(samples: Tensor, truth: Tensor) -> Tensor:
    """How far samples (S, ..., D) are from the truth (..., D), less half of how far they are apart: (...).

    E |X - y| - E |X - X'| / 2, without bias in either mean (Gneiting and Raftery 2007, Sec. 4.3; pairs are of different
    samples, as Ferro 2014 has them for an ensemble). It is least in the mean for the true distribution, and of one
    sample it is the distance, so that a mean over joints is a point predictor's MPJPE.
    """
    far = (samples - truth).norm(dim=-1).mean(0)
    if len(samples) == 1:
        return far
    return far - apart(samples) / 2


def apart(samples: Tensor) -> Tensor:
    """Mean distance (...) between two different ones of samples (S, ..., D); 0 where they have collapsed to one."""
    count = len(samples)
    total = sum((samples[i + 1 :] - samples[i]).norm(dim=-1).sum(0) for i in range(count - 1))
    return torch.as_tensor(total) * (2 / (count * (count - 1)))


def covered(samples: Tensor, truth: Tensor, share: float = 0.9) -> Tensor:
    """Whether each number of the truth (...) is within the central `share` of samples (S, ...): bool (...).

    Between order statistics k and S + 1 - k of S samples lies one more of the same distribution with probability
    (S + 1 - 2 k) / (S + 1), whatever the distribution. Raises BadInput where no k gives `share` exactly.
    """
    outside = (1 - share) / 2 * (len(samples) + 1)
    k = round(outside)
    if k < 1 or abs(outside - k) > 1e-9 * len(samples):
        raise BadInput(f"{len(samples)} samples have no order statistics with {share:.0%} between them: take 19 or 39")
    ordered = samples.sort(0).values
    return (truth >= ordered[k - 1]) & (truth <= ordered[-k])


def best_of(errors: Tensor, count: int) -> Tensor:
    """The mean of the least of `count` errors over all choices of as many of S: (S, ...) -> (...).

    The i-th least, from 0, is the least of C(S - 1 - i, count - 1) of C(S, count) choices. Raises BadInput where there
    are fewer errors.
    """
    total = len(errors)
    if total < count:
        raise BadInput(f"the best of {count} needs as many samples: there are {total}")
    chance = [math.comb(total - 1 - i, count - 1) / math.comb(total, count) for i in range(total)]
    weight = torch.tensor(chance, dtype=errors.dtype, device=errors.device)
    return torch.tensordot(weight, errors.sort(0).values, dims=1)


def gaussian_samples(mean: Tensor, residuals: Tensor, count: int, seed: int = 0) -> Tensor:
    """Samples (count, N, D) about means (N, D), drawn from the Gaussian that fits residuals (M, D), truth less mean.

    Its own mean is part of it: what is wrong on the whole is put right.
    """
    wrong = residuals.double()
    centred = wrong - wrong.mean(0)
    covariance = centred.mT @ centred / max(len(wrong) - 1, 1)
    return gaussian_about(mean + wrong.mean(0).to(mean), covariance.to(mean), count, seed)


def gaussian_about(mean: Tensor, covariance: Tensor, count: int, seed: int = 0) -> Tensor:
    """Samples (count, N, D) of Gaussians of means (N, D) and covariances (D, D) or (N, D, D), which may be flat."""
    generator = torch.Generator().manual_seed(seed)
    values, axes = torch.linalg.eigh(covariance.double())  # where joints never move there is no Cholesky factor
    factor = axes * values.clamp_min(0).sqrt()[..., None, :]
    noise = torch.randn(count, *mean.shape, generator=generator, dtype=torch.float64)
    return (mean.double() + (factor @ noise[..., None])[..., 0]).to(mean.dtype)
