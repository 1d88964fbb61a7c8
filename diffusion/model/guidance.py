"""What is known of a pose when it is decoded, though no decoder was trained on it: 2D keypoints.

A sampler's guess of the latent is pulled, at every step, towards what is known (Chung et al. 2023, Diffusion Posterior
Sampling, with the gradient of the guess alone); an answer with a Gaussian about it is conditioned on it in closed form.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

NOISE = 0.02  # m, of keypoints: seen in perspective, the true ones are 6 to 18 mm from where a scale puts them
PULLS, RATE = 8, 0.1  # steps of Adam, and their size in deviations of the latent


def energy(joints: Tensor, aims: Tensor, known: Tensor) -> Tensor:
    """How unlikely joints (..., J, 3) m are, whose `known` (..., J) should lie over aims (..., J, 2) m: a scalar."""
    wrong = (joints[..., :2] - aims).square().sum(-1)
    return (wrong * known).sum() / (2 * NOISE**2)


@torch.enable_grad()
def pulled(guess: Tensor, spread: float, energy: Callable[[Tensor], Tensor]) -> Tensor:
    """A latent (B, T, D) near a guess, from which it may be `spread` (a variance) away, that has a lower energy."""
    latent = guess.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([latent], RATE)
    for _ in range(PULLS):
        optimizer.zero_grad()
        (energy(latent) + (latent - guess.detach()).square().sum() / (2 * spread)).backward()
        optimizer.step()
    return latent.detach()


def conditioned(mean: Tensor, covariance: Tensor, aims: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Means (N, 3 J) and covariances (N, 3 J, 3 J) of joints about `mean` (N, 3 J) m with one covariance (3 J, 3 J),
    once x and y of those `known` (N, J) are seen at aims (N, J, 2) m with NOISE."""
    count, joints = known.shape
    precision = torch.zeros(count, joints, 3).to(mean)
    precision[..., :2] = known[..., None] / NOISE**2
    precision = precision.flatten(1)  # (N, 3 J), 0 of what is not seen
    told = torch.cat((aims, aims.new_zeros(count, joints, 1)), -1).flatten(1)
    # Woodbury, with the gain of what is not seen 0: (C^-1 + P)^-1 = (I + C P)^-1 C
    inner = torch.eye(3 * joints).to(mean) + covariance * precision[:, None]
    after = torch.linalg.solve(inner, covariance.expand(count, -1, -1))
    moved = (after @ (precision * (told - mean))[..., None])[..., 0]
    return mean + moved, after


def scaled(pixels: Tensor, joints: Tensor) -> Tensor:
    """2D keypoints (..., J, 2) from the pelvis, in pixels -> metres: at the scale at which they are as large as joints
    (..., J, 3) m from the pelvis.

    The scale at which they are nearest to those would be 0 or less where a pose faces the other way, and keypoints
    kilometres away.
    """
    size, aim = (each.square().sum((-1, -2)).sqrt() for each in (pixels, joints[..., :2]))
    return pixels * (aim / size.clamp_min(1e-6))[..., None, None]
