"""Videos of any length and rate as clips, and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from diffusion.motion.clips import BATCH, cuts, decode_video, ramp, resampled


def turning(features: torch.Tensor, betas: torch.Tensor) -> torch.Tensor:
    """Every joint turned about z by the frame's feature, in radians."""
    angle = features[..., 0].numpy()
    turns = Rotation.from_rotvec(np.stack((0 * angle, 0 * angle, angle), -1).reshape(-1, 3)).as_matrix()
    return torch.from_numpy(turns).float().view(*features.shape[:2], 1, 3, 3).expand(-1, -1, 24, 3, 3)


@given(st.integers(3, 40), st.integers(0, 300), st.data())
@settings(max_examples=60)
def test_cuts_cover_every_frame_and_overlap(frames, more, data):
    overlap = data.draw(st.integers(0, frames // 2))
    starts = cuts(frames + more, frames, overlap)
    assert starts[0] == 0 and starts[-1] == more
    steps = np.diff(starts)
    assert (steps > 0).all() and (steps <= frames - overlap).all()


@pytest.mark.parametrize("count", [1, 2, 11, 12, 13, 30, 100])
@pytest.mark.parametrize("fps", [25.0, 30.0, 60.0])
def test_what_depends_on_a_frame_alone_comes_back(count, fps):
    """Whatever the length and the rate, a decoder that looks at one frame at a time is not changed by clips."""
    features = torch.linspace(0, 1.5, count)[:, None].repeat(1, 2)
    found = decode_video(turning, features, torch.zeros(count, 10), 12, fps)
    assert torch.allclose(found, turning(features[None], torch.zeros(1, count, 10))[0], atol=5e-3)


def test_clips_that_disagree_are_blended_without_a_jump():
    seen = []

    def disagreeing(features, betas):
        seen.append(len(features))
        turn = torch.arange(len(features)).float()[:, None, None] * 0.5 + 0 * features
        return turning(turn, betas)

    found = decode_video(disagreeing, torch.zeros(28, 1), torch.zeros(28, 10), 12)
    angle = torch.atan2(found[:, 0, 1, 0], found[:, 0, 0, 0])
    assert seen == [3] and angle[0] == 0 and angle[-1] == pytest.approx(1.0, abs=1e-5)
    assert (angle.diff() >= -1e-6).all() and angle.diff().max() < 0.25
    assert torch.allclose(found @ found.mT, torch.eye(3).expand_as(found), atol=1e-5)


def test_ten_thousand_frames_go_in_small_batches():
    largest = 0

    def watching(features, betas):
        nonlocal largest
        largest = max(largest, len(features))
        return torch.eye(3).expand(*features.shape[:2], 24, 3, 3)

    assert decode_video(watching, torch.zeros(10_000, 2), torch.zeros(10_000, 10), 81).shape == (10_000, 24, 3, 3)
    assert largest == BATCH


def test_weights_of_a_blend_add_up_and_fall_to_the_ends():
    weight = ramp(12, 4)
    assert weight[4:8].eq(1).all() and torch.allclose(weight, weight.flip(0)) and weight.min() > 0
    assert torch.allclose(weight[:4] + weight[-4:], torch.ones(4))


def test_resampling_is_numpys_interpolation():
    values = torch.randn(9, 2)
    for count in (1, 5, 9, 20):
        at = np.linspace(0, 8, count)
        wanted = np.stack([np.interp(at, np.arange(9), column) for column in values.T], 1)
        assert np.allclose(resampled(values, count), wanted, atol=1e-5)
