"""Noise: how much of it a timestep means, what the denoiser is asked for, and the way back (FastHMR, Sec. 3.3).

The scheduler is diffusers'. abar_t is the share of a latent's variance that is left at step t; z_t = sqrt(abar) z_0 +
sqrt(1 - abar) eps and v = sqrt(abar) eps - sqrt(1 - abar) z_0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Literal, NamedTuple

import torch
from diffusers import DDIMScheduler
from torch import Tensor

Objective = Literal["v", "noise", "hybrid"]
STEPS = 1000


def scheduler(objective: Objective = "hybrid") -> DDIMScheduler:
    """1000 steps, scaled-linear beta, rescaled to zero terminal SNR (Lin et al., arXiv:2305.08891), trailing steps.

    For `noise` the schedule is not rescaled: where nothing of z_0 is left, noise cannot recover it.
    """
    noise = objective == "noise"
    return DDIMScheduler(
        num_train_timesteps=STEPS,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        rescale_betas_zero_snr=not noise,
        prediction_type="epsilon" if noise else "v_prediction",
        timestep_spacing="trailing",
    )


def denoising_loss(
    denoise: Callable[[Tensor, Tensor], Tensor], latent: Tensor, objective: Objective, steps: DDIMScheduler
) -> Tensor:
    """A scalar, for latents z_0 (B, T, D) at mean 0 and deviation 1; `denoise(z_t, t)` predicts v, or eps for `noise`.

    `hybrid` is |v_hat - v|^2 + |eps_hat - eps|^2 = (1 + abar) |v_hat - v|^2, since eps_hat = sqrt(abar) v_hat +
    sqrt(1 - abar) z_t. Half of the latents are at the last step, at which one step decodes.
    """
    noise, time = torch.randn_like(latent), torch.randint(STEPS, (len(latent),), device=latent.device)
    time[: len(time) // 2] = STEPS - 1
    noisy = steps.add_noise(latent, noise, time)
    wanted = noise if objective == "noise" else steps.get_velocity(latent, noise, time)
    error = (denoise(noisy, time).float() - wanted).square().mean((1, 2))  # (B,)
    if objective == "hybrid":
        error = error * (1 + steps.alphas_cumprod.to(error.device)[time])
    return error.mean()


def denoised(
    denoise: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    count: int,
    objective: Objective = "hybrid",
    pull: Callable[[Tensor, float], Tensor] | None = None,
) -> Tensor:
    """From noise (B, T, D) to z_0 in `count` deterministic (DDIM) steps, of which one is the paper's.

    pull: (guess of z_0, share of its variance that is noise) -> a better guess, at every step.
    """
    latent = noise
    for step in ddim(count, objective):
        predicted = denoise(latent, torch.full((latent.shape[0],), step.time, device=latent.device))
        found, guess = (kept * latent + added * predicted for kept, added in (step.latent, step.guess))
        latent = found if pull is None else found + step.share * (pull(guess, step.spread) - guess)
    return latent


class Step(NamedTuple):
    """A step of DDIM, which is linear: what it keeps of a latent and adds of what is predicted, for the next latent and
    for the guess of z_0."""

    time: int
    latent: tuple[float, float]
    guess: tuple[float, float]
    spread: float  # share of the latent's variance that is noise
    share: float  # of the guess in the next latent


@cache
def ddim(count: int, objective: Objective) -> tuple[Step, ...]:
    """The scheduler's `count` steps as numbers, so that its tables are no part of a graph that is traced."""
    steps, found, noisy = scheduler(objective), [], (torch.zeros(()), torch.ones(()))
    steps.set_timesteps(count)
    for time in steps.timesteps.tolist():
        kept, added = (steps.step(predicted, time, z) for predicted, z in (noisy, noisy[::-1]))
        earlier = time - STEPS // count
        before = steps.alphas_cumprod[earlier] if earlier >= 0 else steps.final_alpha_cumprod
        latent, guess = (
            (getattr(kept, name).item(), getattr(added, name).item())
            for name in ("prev_sample", "pred_original_sample")
        )
        spread = 1 - steps.alphas_cumprod[time].item()
        found.append(Step(time, latent, guess, spread, before.sqrt().item()))
    return tuple(found)


def noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """The noise that a decoder starts from, the same on each device; the seed is part of an artefact."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), device="cpu")
