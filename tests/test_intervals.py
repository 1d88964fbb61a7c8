"""Intervals of means over recordings: their closed form, and how often they hold the true mean."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from compress.card import formatted
from compress.errors import BadInput
from hmr.evaluation.intervals import Interval, clip_means, half_width, interval, paired_interval

CLIPS = ["a"] * 2 + ["b"] * 5 + ["c"] * 1 + ["d"] * 3 + ["e"] * 4
SAMPLES = 40_000  # the standard error of a coverage of 95 % is 0.1 %


def values() -> np.ndarray:
    return np.random.default_rng(0).normal(50, 20, len(CLIPS))


def ends(found: Interval) -> tuple[float, float]:
    assert found.lo is not None and found.hi is not None
    return found.lo, found.hi


def test_the_interval_is_a_t_test_of_means_of_recordings():
    each = [values()[[clip == name for clip in CLIPS]].mean() for name in "abcde"]
    found, wanted = interval(values(), CLIPS), stats.ttest_1samp(each, 0.0).confidence_interval(0.95)
    assert found.mean == pytest.approx(np.mean(each))
    assert ends(found) == pytest.approx((wanted.low, wanted.high))


def test_the_interval_is_the_cluster_robust_one_of_a_weighted_regression():
    """Of values on a constant, each frame weighted by one over its recording's frames: the CR1 sandwich."""
    y, names = values(), np.array(CLIPS)
    frames = {name: np.sum(names == name) for name in names}
    weights, x = np.diag([1 / frames[name] for name in names]), np.ones((len(y), 1))
    bread = np.linalg.inv(x.T @ weights @ x)
    slope = (bread @ x.T @ weights @ y).item()
    scores = [(x.T @ weights)[:, names == name] @ (y - slope)[names == name] for name in frames]
    groups = len(frames)
    variance = groups / (groups - 1) * (bread @ sum(np.outer(s, s) for s in scores) @ bread).item()
    wanted = stats.t.interval(0.95, groups - 1, loc=slope, scale=variance**0.5)
    assert ends(interval(y, CLIPS)) == pytest.approx(wanted)


def test_each_recording_counts_once():
    assert interval([0, 0, 0, 4], list("aaab")).mean == 2.0


def test_neither_the_order_of_frames_nor_the_names_matter():
    order = np.random.default_rng(1).permutation(len(CLIPS))
    found, wanted = interval(values()[order], [f"z{CLIPS[i]}" for i in order]), interval(values(), CLIPS)
    assert (found.mean, *ends(found)) == pytest.approx((wanted.mean, *ends(wanted)))


def test_one_recording_has_a_mean_and_no_interval():
    assert interval([1.0, 3.0], ["a", "a"]) == Interval(2.0, None, None)
    assert paired_interval([1.0, 3.0], [0.0, 1.0], ["a", "a"]) == Interval(1.5, None, None)


def test_a_paired_interval_cancels_what_recordings_share():
    rng = np.random.default_rng(1)
    clips = [str(i // 10) for i in range(200)]
    hard = rng.normal(100, 30, 20).repeat(10)  # recordings differ much more than models do
    found = paired_interval(hard - 5 + rng.normal(0, 1, 200), hard, clips)
    low, high = ends(found)
    assert found.mean == pytest.approx(-5, abs=0.5)
    assert -6 < low < high < -4


def test_means_of_recordings_are_taken_of_each_column():
    columns = np.random.default_rng(2).normal(size=(len(CLIPS), 3))
    means = clip_means(columns, CLIPS)
    assert means.shape == (5, 3)
    assert means[1] == pytest.approx(columns[2:7].mean(0))


@pytest.mark.parametrize("some, clips", [([], []), ([1.0], []), ([1.0, np.nan], ["a", "b"]), ([[1.0]], ["a"])])
def test_bad_values_are_refused(some, clips):
    with pytest.raises(BadInput):
        interval(some, clips)


def test_a_paired_interval_refuses_other_frames():
    with pytest.raises(BadInput):
        paired_interval([1.0, 2.0], [1.0], ["a", "b"])


def test_a_missing_interval_is_never_printed_as_one():
    assert formatted({"mean": 2.5, "lo": 1.25, "hi": 3.75}) == "2.5 [1.2, 3.8]"
    assert formatted({"mean": 2.5, "lo": None, "hi": None}, "+.1f") == "+2.5"
    assert formatted(None) == "-"


# ---- how often the interval holds the true mean


def sampled(rng: np.random.Generator, clips: int) -> np.ndarray:
    """Means (SAMPLES, clips) of the frames of recordings of very unequal length, around 0.

    Recordings differ by a normal deviation of 1. Within one, errors of frames deviate by 1 too, and about as many of
    them as one in 20 are independent.
    """
    frames = np.exp(rng.uniform(np.log(40), np.log(1200), (SAMPLES, clips)))
    return rng.normal(size=frames.shape) + rng.normal(size=frames.shape) / np.sqrt(frames / 20)


def coverage(means: np.ndarray, truth: float) -> float:
    """The share of samples (S, G) whose interval holds the truth."""
    return float(np.mean(np.abs(means.mean(-1) - truth) <= half_width(means)))


@pytest.mark.parametrize("clips", [5, 10, 24])
def test_of_normal_recordings_of_unequal_length_95_in_100_intervals_hold(clips):
    rng = np.random.default_rng(clips)
    assert coverage(sampled(rng, clips), 0.0) == pytest.approx(0.95, abs=0.01)  # 93 to 97 % is asked for


@pytest.mark.parametrize(
    "deviation, clips, share",
    [(0.5, 5, 0.916), (0.5, 10, 0.922), (0.5, 24, 0.933), (1.0, 5, 0.820), (1.0, 10, 0.840), (1.0, 24, 0.873)],
)
def test_of_skewed_recordings_fewer_intervals_hold(deviation, clips, share):
    """Log-normal means, by the deviation of their logarithm: 0.5 is that of MPJPE on `synth-video`, 1.0 is extreme."""
    means = np.random.default_rng(clips).lognormal(0, deviation, (SAMPLES, clips))
    assert coverage(means, np.exp(deviation**2 / 2)) == pytest.approx(share, abs=0.006)
