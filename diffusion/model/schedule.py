"""Noise: how much of it a timestep means, what the denoiser is asked for, and the way back (FastHMR, Sec. 3.3).

The scheduler is diffusers'. abar_t is the share of a latent's variance that is left at step t; z_t = sqrt(abar) z_0 +
sqrt(1 - abar) eps and v = sqrt(abar) eps - sqrt(1 - abar) z_0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

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
    steps, latent = scheduler(objective), noise
    steps.set_timesteps(count)
    for time in steps.timesteps.tolist():
        predicted = denoise(latent, torch.full((len(latent),), time, device=latent.device))
        found = steps.step(predicted, time, latent)
        latent = found.prev_sample
        if pull is not None:
            guess = found.pred_original_sample
            before = (
                steps.alphas_cumprod[time - STEPS // count] if time >= STEPS // count else steps.final_alpha_cumprod
            )
            latent = latent + before.sqrt() * (pull(guess, float(1 - steps.alphas_cumprod[time])) - guess)
    return latent


def noise(shape: tuple[int, ...], seed: int, device: torch.device) -> Tensor:
    """The noise that a decoder starts from, the same for each clip and on each device; the seed is part of an artefact.

    Each clip's is the same, so that what a clip is decoded to does not depend on the clips beside it.
    """
    one = torch.randn(shape[1:], generator=torch.Generator().manual_seed(seed))
    return one.expand(shape).to(device)
