"""Steady distances: on the same rays, exactly as the sum of squares has it, unchanged where nothing is noisy."""

from __future__ import annotations

import numpy as np
import pytest

from hmr.video.distance import LEAST, noise_of, smoothed, steadied

TIMES = np.arange(90) / 30


def walk(noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Somebody who walks across and away: their pelvis (T, 3) m, as it is and as it is seen."""
    rng = np.random.default_rng(seed)
    true = np.stack([0.8 * np.sin(TIMES), 0.1 * np.cos(3 * TIMES), 4 + 0.7 * TIMES], 1)
    near = 1 / np.linalg.norm(true, axis=1) + noise * rng.standard_normal(len(true))
    return true, (true / np.linalg.norm(true, axis=1, keepdims=True) / near[:, None]).astype(np.float32)


def test_a_noisy_distance_comes_much_nearer_to_the_truth_on_the_same_ray():
    true, seen = walk(0.02)
    found = steadied(seen, np.ones(90, bool), TIMES)
    off, before = (np.linalg.norm(places - true, axis=1).mean() for places in (found, seen))
    assert off < 0.25 * before
    assert found[:, :2] / found[:, 2:] == pytest.approx(true[:, :2] / true[:, 2:], abs=1e-5)


def test_a_steady_distance_stays():
    true, seen = walk(0)
    assert steadied(seen, np.ones(90, bool), TIMES) == pytest.approx(true, abs=0.01)
    still = np.tile(np.array([[0.5, 0, 3]], np.float32), (9, 1))
    assert np.array_equal(steadied(still, np.ones(9, bool), TIMES[:9]), still)


def test_an_outlier_and_a_frame_that_was_not_seen_pull_at_nothing():
    true, seen = walk(0.005)
    whole = steadied(seen, np.ones(90, bool), TIMES)
    shown = np.ones(90, bool)
    shown[40:44] = False
    far = seen.copy()
    far[20] *= 4
    far[40:44] *= 9
    found = steadied(far, shown, TIMES)
    assert np.linalg.norm(found - true, axis=1).max() < np.linalg.norm(whole - true, axis=1).max() + 0.1


def test_few_frames_stay_as_they_are():
    _, seen = walk(0.02)
    assert np.array_equal(steadied(seen[: LEAST - 1], np.ones(LEAST - 1, bool), TIMES[: LEAST - 1]), seen[: LEAST - 1])


def test_the_smoothest_values_are_those_of_the_dense_equations():
    """At times of any distance: diag(w) + stiffness D' S D with D by Newton's divided differences."""
    rng = np.random.default_rng(1)
    times, values, weights = np.cumsum(rng.uniform(0.01, 0.1, 12)), rng.standard_normal(12), rng.uniform(0.1, 1, 12)
    second = np.zeros((10, 12))
    for i in range(10):
        a, b, c = times[i : i + 3]
        second[i, i : i + 3] = 2 / ((a - b) * (a - c)), 2 / ((b - a) * (b - c)), 2 / ((c - a) * (c - b))
    span = (times[2:] - times[:-2]) / 2
    whole = np.diag(weights) + 0.01 * second.T @ (span[:, None] * second)
    assert smoothed(values, weights, times, 0.01) == pytest.approx(np.linalg.solve(whole, weights * values), rel=1e-9)


def test_noise_is_found_beside_motion():
    rng = np.random.default_rng(2)
    times = np.arange(3000) / 30
    found = noise_of(np.sin(times) + 0.1 * rng.standard_normal(3000), times)
    assert found == pytest.approx(0.1, rel=0.05)
