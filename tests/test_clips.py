"""Videos of any length and rate as clips, and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from diffusion.motion.clips import BATCH, cuts, decode_video, filled, ramp, resampled


def turning(features: torch.Tensor, betas: torch.Tensor, seen: torch.Tensor | None = None) -> torch.Tensor:
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
    sizes = []

    def disagreeing(features, betas, seen):
        sizes.append(len(features))
        turn = torch.arange(len(features)).float()[:, None, None] * 0.5 + 0 * features
        return turning(turn, betas)

    found = decode_video(disagreeing, torch.zeros(28, 1), torch.zeros(28, 10), 12)
    angle = torch.atan2(found[:, 0, 1, 0], found[:, 0, 0, 0])
    assert sizes == [3] and angle[0] == 0 and angle[-1] == pytest.approx(1.0, abs=1e-5)
    assert (angle.diff() >= -1e-6).all() and angle.diff().max() < 0.25
    assert torch.allclose(found @ found.mT, torch.eye(3).expand_as(found), atol=1e-5)


def test_ten_thousand_frames_go_in_small_batches():
    largest = 0

    def watching(features, betas, seen):
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


def test_gaps_are_straight_lines_between_what_is_seen():
    values, seen = torch.randn(3, 9, 2), torch.ones(3, 9, dtype=torch.bool)
    seen[0, [0, 1, 4, 5, 8]], seen[2] = False, False
    found, at = filled(values, seen), np.arange(9)
    wanted = [np.interp(at, at[seen[0]], column[seen[0]]) for column in values[0].T]
    assert np.allclose(found[0], np.stack(wanted, 1), atol=1e-6)
    assert torch.equal(found[1], values[1]) and not found[2].any()


def test_what_is_not_seen_does_not_matter_and_is_known_to_be_so():
    features, seen = torch.randn(20, 2), torch.ones(20, dtype=torch.bool)
    seen[5:8] = False
    other = torch.where(seen[:, None], features, torch.nan)
    told: list[torch.Tensor] = []

    def noting(given, betas, inside):
        told.append(inside)
        return turning(filled(given, inside), betas)

    found = [decode_video(noting, one, torch.zeros(20, 10), 12, 30.0, seen) for one in (features, other)]
    assert torch.equal(*found) and (~told[0]).sum() == 3
    at = np.interp(np.arange(20), np.arange(20)[seen], features[seen, 0])
    assert torch.allclose(found[0], turning(torch.tensor(at)[None, :, None].float(), torch.zeros(1))[0], atol=1e-5)


@pytest.mark.parametrize("look_ahead", [0, 4, 11])
def test_nothing_is_known_beyond_the_look_ahead(look_ahead):
    """A decoder that turns by the sum of all it sees: of two videos that part at frame 15, all before has to agree."""

    def summing(features, betas, seen):
        return turning((features * seen[..., None]).sum(1, keepdim=True).expand_as(features), betas)

    one = torch.randn(30, 2)
    two = one.clone()
    two[15:] += 1
    first, second = (decode_video(summing, v, torch.zeros(30, 10), 12, look_ahead=look_ahead) for v in (one, two))
    same = torch.isclose(first, second, atol=1e-5).flatten(1).all(1)
    assert same[: 15 - look_ahead].all() and not same[15 - look_ahead : 30].any()


@pytest.mark.parametrize("fps", [25.0, 50.0, 60.0])
def test_clips_are_at_thirty_frames_a_second_whatever_the_rate(fps):
    """What a decoder sees of a feature that is the time itself grows by a thirtieth of a second a frame."""
    count, told = int(4 * fps) + 1, []

    def noting(features, betas, seen):
        told.append(features)
        return turning(features, betas)

    seconds = torch.arange(count)[:, None].repeat(1, 2) / fps
    decode_video(noting, seconds, torch.zeros(count, 10), 12, fps)
    assert torch.allclose(told[0][..., 0].diff(dim=1), torch.tensor(1 / 30), atol=1e-4)


def test_a_short_video_is_not_stretched():
    told = []

    def noting(features, betas, seen):
        told.append((features, seen))
        return turning(features, betas)

    decode_video(noting, torch.arange(5.0)[:, None], torch.zeros(5, 10), 12)
    features, seen = told[0]
    assert features[0, :, 0].tolist() == [0, 1, 2, 3, 4, *[4] * 7] and seen[0].tolist() == [True] * 5 + [False] * 7
