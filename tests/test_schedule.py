"""Noise: zero terminal SNR, the identity behind the hybrid loss, and a way back that finds what it is told."""

from __future__ import annotations

import pytest
import torch

from diffusion.model.schedule import STEPS, ddim, denoised, denoising_loss, noise, scheduler


def test_nothing_is_left_at_the_last_step_and_only_where_v_is_asked_for():
    assert scheduler("hybrid").alphas_cumprod[-1] == 0
    assert scheduler("noise").alphas_cumprod[-1] > 0.001
    beta = torch.linspace(0.00085**0.5, 0.012**0.5, STEPS, dtype=torch.float64) ** 2  # scaled-linear, in closed form
    assert torch.allclose(scheduler("noise").alphas_cumprod.double(), (1 - beta).cumprod(0), atol=1e-5)


def test_error_of_noise_is_a_share_of_the_error_of_v():
    """eps_hat - eps = sqrt(abar) (v_hat - v), where eps_hat = sqrt(abar) v_hat + sqrt(1 - abar) z_t."""
    steps = scheduler()
    latent, eps, said = torch.randn(3, 200, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    time = torch.arange(0, STEPS, 5)
    abar = steps.alphas_cumprod.double()[time][:, None, None]
    noisy = abar.sqrt() * latent + (1 - abar).sqrt() * eps
    v = abar.sqrt() * eps - (1 - abar).sqrt() * latent
    assert torch.allclose(steps.get_velocity(latent, eps, time), v, atol=1e-6)
    assert torch.allclose(steps.add_noise(latent, eps, time), noisy, atol=1e-6)
    eps_hat = abar.sqrt() * said + (1 - abar).sqrt() * noisy
    assert torch.allclose(eps_hat - eps, abar.sqrt() * (said - v))


def test_hybrid_loss_is_that_of_v_plus_that_of_noise():
    latent = torch.randn(64, 3, 5)
    said = torch.randn(64, 3, 5)
    torch.manual_seed(1)
    hybrid = denoising_loss(lambda z, t: said, latent, "hybrid", scheduler())
    torch.manual_seed(1)
    seen: list[torch.Tensor] = []
    steps = scheduler()

    def once(z, t):
        seen.extend((z, t))
        return said

    of_v = denoising_loss(once, latent, "v", steps)
    noisy, time = seen
    abar = steps.alphas_cumprod[time][:, None, None]
    torch.manual_seed(1)
    eps = torch.randn_like(latent)
    of_noise = (abar.sqrt() * said + (1 - abar).sqrt() * noisy - eps).square().mean()
    assert hybrid.item() == pytest.approx((of_v + of_noise).item(), rel=1e-4)


@pytest.mark.parametrize("objective", ["v", "hybrid"])
@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_who_knows_the_answer_gives_it_in_any_number_of_steps(count, objective):
    answer, start = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    abar = scheduler().alphas_cumprod

    def oracle(z, t):  # v of the noise that would have led from the answer to z
        a = abar[t][:, None, None]
        eps = (z - a.sqrt() * answer) / (1 - a).sqrt()
        return a.sqrt() * eps - (1 - a).sqrt() * answer

    assert torch.allclose(denoised(oracle, start, count, objective), answer, atol=1e-4)


def test_one_step_asks_at_full_noise():
    asked: list[int] = []
    denoised(lambda z, t: asked.extend(t.tolist()) or z, torch.randn(2, 3, 4), 1)  # type: ignore[func-returns-value]
    assert asked == [STEPS - 1] * 2


def test_noise_follows_from_its_seed_alone():
    assert torch.equal(noise((3, 4), 7), noise((3, 4), 7)) and not torch.equal(noise((3, 4), 7), noise((3, 4), 8))


@pytest.mark.parametrize("objective", ["v", "noise"])
def test_a_step_is_the_schedulers(objective):
    latent, predicted = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    steps = scheduler(objective)
    steps.set_timesteps(5)
    for step in ddim(5, objective):
        wanted = steps.step(predicted, step.time, latent)
        for (kept, added), value in ((step.latent, wanted.prev_sample), (step.guess, wanted.pred_original_sample)):
            torch.testing.assert_close(kept * latent + added * predicted, value)
    assert [step.time for step in ddim(5, objective)] == steps.timesteps.tolist()


def test_half_of_the_latents_are_at_the_last_step():
    seen: list[torch.Tensor] = []
    denoising_loss(lambda z, t: seen.append(t) or z, torch.randn(8, 2, 3), "v", scheduler("v"))  # type: ignore[func-returns-value]
    assert (seen[0][:4] == STEPS - 1).all() and (seen[0][4:] != STEPS - 1).any()
