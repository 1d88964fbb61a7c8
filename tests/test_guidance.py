"""What 2D keypoints make of an answer: against closed formulas and brute force."""

import numpy as np
import torch

from diffusion.model.guidance import NOISE, conditioned, energy, pulled, scaled
from diffusion.model.schedule import denoised, noise
from hmr.evaluation.probabilistic import gaussian_about


def test_a_gaussian_is_conditioned_as_in_the_textbook():
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(9, 9)) * 0.1
    covariance, mean = factor @ factor.T, rng.normal(size=(2, 9))
    known = np.array([[True, False, True], [False, False, False]])
    aims = rng.normal(size=(2, 3, 2))
    middle, after = conditioned(*(torch.from_numpy(x) for x in (mean, covariance, aims, known)))
    seen = [0, 1, 6, 7]  # x and y of the first and the third joint
    gain = covariance[:, seen] @ np.linalg.inv(covariance[np.ix_(seen, seen)] + NOISE**2 * np.eye(4))
    wanted = mean[0] + gain @ (aims[0, [0, 2]].ravel() - mean[0, seen])
    assert np.allclose(middle[0], wanted) and np.allclose(middle[1], mean[1])
    assert np.allclose(after[0], covariance - gain @ covariance[seen]) and np.allclose(after[1], covariance)


def test_samples_have_the_mean_and_the_covariance_they_are_drawn_from():
    factor = torch.randn(2, 3, 3)
    covariance, mean = factor @ factor.mT, torch.randn(2, 3)
    found = gaussian_about(mean, covariance, 40_000)
    assert torch.allclose(found.mean(0), mean, atol=0.1)
    assert all(torch.allclose(found[:, i].mT.cov(), covariance[i], rtol=0.1, atol=0.1) for i in range(2))


def test_a_guess_is_pulled_to_what_is_known_and_stays_where_nothing_is():
    guess = torch.zeros(1, 2, 3)
    known = torch.tensor([[True, False]])
    aims = torch.full((1, 2, 2), 0.5)
    found = pulled(guess, 1.0, lambda z: energy(z, aims, known))
    assert energy(found, aims, known) < 0.1 * energy(guess, aims, known)
    assert torch.equal(found[0, 1], guess[0, 1]) and found[0, 0, 2] == 0


def test_what_pulls_nowhere_changes_nothing_and_the_last_pull_is_what_comes_out():
    start = noise((4, 3), 0).expand(2, -1, -1)

    def network(latent, time):
        return 0.3 * latent + time[:, None, None] / 1000

    plain = denoised(network, start, 5)
    assert torch.equal(denoised(network, start, 5, pull=lambda guess, spread: guess), plain)
    assert torch.allclose(denoised(network, start, 5, pull=lambda guess, spread: torch.ones_like(guess)), plain * 0 + 1)


def test_pixels_become_metres_at_the_scale_of_the_joints():
    joints = torch.randn(5, 24, 3)
    assert torch.allclose(scaled(300 * joints[..., :2], joints), joints[..., :2], atol=1e-5)
    others = torch.randn(5, 24, 3)
    for guess in (others, -others, joints * torch.tensor([-1.0, 1.0, 1.0])):  # it may face the other way
        assert torch.allclose(
            scaled(300 * joints[..., :2], guess).flatten(1).norm(dim=1), guess[..., :2].flatten(1).norm(dim=1)
        )
    assert (scaled(torch.zeros(1, 24, 2), joints[:1]) == 0).all()
