from __future__ import annotations

import numpy as np
import pytest
import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import procrustes

from compress.errors import BadInput
from hmr.evaluation import metrics


def joints(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, 24, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def similarity(seed: int, frames: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    return roma.random_rotmat(frames, dtype=torch.float64), 0.3 + torch.rand(frames, 1, 1), torch.randn(frames, 1, 3)


def test_translation_costs_nothing():
    x = joints(0, 5)
    assert metrics.mpjpe(x + torch.tensor([0.1, -2.0, 3.0]), x).max() < 1e-9


def test_known_offset_of_one_joint():
    x = joints(1, 5)
    y = x.clone()
    y[:, 7, 2] += 0.048  # 48 mm on one of 24 joints
    assert torch.allclose(metrics.mpjpe(y, x), torch.full((5,), 2.0, dtype=torch.float64))
    per_joint = metrics.joint_errors(y, x)
    assert torch.allclose(per_joint[:, 7], torch.tensor(48.0, dtype=torch.float64))
    assert per_joint.sum() == pytest.approx(5 * 48.0)


@settings(max_examples=30)
@given(st.integers(0, 2**31))
def test_pa_error_of_a_similarity_is_zero(seed):
    x = joints(seed, 4)
    rotation, scale, shift = similarity(seed, 4)
    assert metrics.pa_mpjpe(scale * (x @ rotation.mT) + shift, x).max() < 1e-6


@settings(max_examples=20)
@given(st.integers(0, 2**31))
def test_pa_agrees_with_the_closed_form(seed):
    """Umeyama 1991, Eq. 40 to 42, frame by frame, as the metric was computed before roma did it: within 1e-5 mm."""
    x, y = joints(seed, 6).numpy(), joints(seed + 1, 6).numpy()
    expected = []
    for target, predicted in zip(x, y, strict=True):
        t, p = target - target.mean(0), predicted - predicted.mean(0)
        u, singular, vh = np.linalg.svd(t.T @ p)
        sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vh))])
        scale = (singular * sign).sum() / (p**2).sum()
        fitted = scale * p @ ((u * sign) @ vh).T
        expected.append(np.linalg.norm(fitted - t, axis=-1).mean() * 1000)
    found = metrics.pa_mpjpe(torch.from_numpy(y), torch.from_numpy(x)).numpy()
    assert np.abs(found - expected).max() < 1e-5


def test_pa_agrees_with_scipy_where_no_mirror_helps():
    x = joints(3)
    rotation, scale, shift = similarity(3, 1)
    y = (scale * (x @ rotation.mT) + shift)[0] + 0.05 * joints(4)
    standard, fitted, _ = procrustes(x.numpy(), y.numpy())
    expected = np.linalg.norm(standard - fitted, axis=-1).mean() * float((x - x.mean(0)).norm()) * 1000
    assert float(metrics.pa_mpjpe(y, x)) == pytest.approx(expected)


def test_pa_never_mirrors():
    x = joints(5, 3)
    assert metrics.pa_mpjpe(x * torch.tensor([-1.0, 1.0, 1.0]), x).min() > 100


def test_pa_of_frames_does_not_depend_on_the_batch():
    x, y = joints(6, 2, 3), joints(7, 2, 3)
    assert torch.allclose(metrics.pa_mpjpe(y, x)[1, 2], metrics.pa_mpjpe(y[1, 2], x[1, 2]))


def test_pa_of_a_single_point_is_finite():
    x = joints(8, 2)
    assert metrics.pa_mpjpe(torch.zeros_like(x), x).isfinite().all()


def test_pve_is_pelvis_aligned():
    vertices, pelvis = torch.randn(2, 50, 3), torch.randn(2, 3)
    moved = vertices + 1.0
    assert metrics.pve(moved, vertices, pelvis + 1.0, pelvis).max() < 1e-3
    assert torch.allclose(metrics.pve(moved, vertices, pelvis, pelvis), torch.tensor(3.0).sqrt() * 1000)


def test_accel_of_a_parabola():
    t = torch.arange(9.0, dtype=torch.float64)
    x = joints(9).expand(9, -1, -1).clone()
    y = x.clone()
    y[:, 3, 0] += 0.5 * 0.012 * t**2  # 12 mm per frame squared on one of 24 joints
    assert torch.allclose(metrics.accel(y, x), torch.full((7,), 0.5, dtype=torch.float64))


def test_accel_of_a_parabola_at_any_times():
    """A movement a t^2 / 2 has the acceleration a between any three moments; frames last as long as their mean."""
    times = torch.tensor([0.0, 0.03, 0.1, 0.11, 0.3, 0.34, 0.41], dtype=torch.float64)
    x = joints(9).expand(7, -1, -1).clone()
    y = x.clone()
    y[:, 3, 0] += 0.5 * 24.0 * times**2  # 24 m/s^2 on one of 24 joints
    wanted = 1000 * (times[-1] / 6).square()
    assert torch.allclose(metrics.accel(y, x, times=times), wanted.expand(5))
    steady = torch.arange(7.0, dtype=torch.float64) / 30
    assert torch.allclose(metrics.accel(y, x, times=steady), metrics.accel(y, x))
    assert metrics.accel(x + times[:, None, None], x, times=times).max() < 1e-9
    with pytest.raises(BadInput, match="have to grow"):
        metrics.accel(y, x, times=times.flip(0))


def test_accel_ignores_constant_velocity_and_short_clips():
    x = joints(10, 5)
    assert metrics.accel(x + 0.1 * torch.arange(5.0)[:, None, None], x).max() < 1e-9
    assert metrics.accel(x[:2], x[:2]).shape == (0,)


@pytest.mark.parametrize("measure", [metrics.mpjpe, metrics.pa_mpjpe, metrics.accel])
@pytest.mark.parametrize(
    "bad",
    [torch.full((4, 24, 3), torch.nan), torch.full((4, 24, 3), torch.inf), torch.zeros(4, 23, 3), torch.zeros(4, 24)],
)
def test_bad_positions_are_refused(measure, bad):
    with pytest.raises(BadInput):
        measure(bad, torch.zeros(4, 24, 3))
