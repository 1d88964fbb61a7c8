"""What tasks hide, how answers are scored, and the whole table at a tiny size."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from compress.errors import BadInput
from diffusion.motion.occlusion import beyond, covered_half, half_hidden, hidden_joints
from experiments.paper import decoder_tasks
from experiments.paper.decoder_tasks import AGAINST, GAUSSIAN, ROWS, SAMPLES, TaskComparison, TaskRow, gap, scores
from experiments.paper.decoders import RowBudget
from hmr.body.files import load_body
from hmr.data.dataset import DataSpec, frames_of
from hmr.data.sample import Sample
from tests.killed_retraining import encoder, sample, tiny_vae

LENGTH = 12  # frames of a video, and of a clip


def pictured(index: int) -> Sample:
    """A picture with joints in it, the pelvis in its middle."""
    made = sample(index % 8)
    places = np.random.default_rng(index).uniform(-0.4, 0.4, (24, 2)).astype(np.float32)
    places[0] = 0
    mask = np.ones(made.image.shape[:2], bool)
    return replace(made, recording=f"video-{index // LENGTH}", keypoints=places, mask=mask)


@pytest.fixture(scope="module")
def videos():
    samples = [pictured(i) for i in range(2 * LENGTH)]
    return frames_of(samples, 30.0, spec=DataSpec("synth-video"))


def test_half_of_somebody_is_hidden_for_a_second(videos):
    hidden, shown = hidden_joints(videos), half_hidden(videos)
    changed = np.array([not np.array_equal(shown[i].image, videos[i].image) for i in range(len(videos))])
    assert changed.tolist() == hidden.any(1).tolist() and changed.sum() == 2 * LENGTH  # videos of half a second
    assert not hidden[:, 0].any() and shown.identity != videos.identity
    assert np.array_equal(hidden, hidden_joints(videos))
    with pytest.raises(BadInput, match="pictures"):
        half_hidden(replace(videos, fps=None))


@pytest.mark.parametrize("side", ["left", "right", "upper", "lower"])
def test_what_is_hidden_is_beyond_the_pelvis(side):
    whole = pictured(3)
    found = covered_half(whole, side)
    assert whole.mask is not None and found.mask is not None and whole.keypoints is not None
    assert found.mask.mean() == pytest.approx(0.5, abs=0.01)
    assert np.unique(found.image[~found.mask], axis=0).shape == (1, 3)
    assert np.array_equal(found.image[found.mask], whole.image[found.mask])
    height, width = found.mask.shape
    at = ((whole.keypoints[1:] + 0.5) * (width, height)).astype(int)
    assert np.array_equal(~found.mask[at[:, 1], at[:, 0]], beyond(whole.keypoints, side)[1:])


def test_gaps_are_a_trackers():
    gaps = [(~gap(81, 30.0, f"video-{i}")).nonzero()[0] for i in range(100)]
    assert all(9 <= len(one) <= 45 and one[-1] - one[0] == len(one) - 1 for one in gaps)
    assert (~gap(3, 30.0, "short")).sum() == 2


def test_scores_are_of_what_counts_alone():
    torch.manual_seed(0)
    true, counts = torch.randn(5, 24, 3), torch.zeros(5, 24, dtype=torch.bool)
    counts[1, 3], counts[4, 5:9] = True, True
    samples = true + 0.1 * torch.randn(SAMPLES, 5, 24, 3)
    found = scores(samples, true, counts)
    far = 1000 * (samples.mean(0) - true).norm(dim=-1)
    assert torch.allclose(found["mpjpe_mm"], torch.stack((far[1, 3], far[4, 5:9].mean())), atol=1e-3)
    elsewhere = torch.where(counts[..., None], samples, 9.0)
    assert all(torch.allclose(found[name], value) for name, value in scores(elsewhere, true, counts).items())
    once = scores(samples[:1], true, counts)
    assert torch.equal(once["energy_mm"], once["mpjpe_mm"]) and once.keys() == {"energy_mm", "mpjpe_mm"}


FEW_ROWS = (ROWS[0], AGAINST, GAUSSIAN, TaskRow("diffusion, 2 steps", "diffusion", 2, SAMPLES))


def test_every_kind_answers_for_what_is_hidden(videos, tmp_path, monkeypatch):
    """What is one answer has no spread, and what differs from itself differs by nothing."""
    monkeypatch.setenv("FASTHMR_HOME", str(tmp_path))
    monkeypatch.setattr(decoder_tasks, "opened", lambda *asked: videos)
    monkeypatch.setattr(decoder_tasks, "ROWS", FEW_ROWS)
    model = encoder()
    comparison: Any = SimpleNamespace(
        encoder=lambda form: model,
        body=load_body(),
        vae=lambda row: (tiny_vae(), "vae"),
        test=videos,
        frames=None,
        train_frames=None,
        mocap=None,
        budget=RowBudget(2, 0, batch=2),
        model=model,
        recipe="tiny",
        observer=lambda *told: None,
        place=lambda *key: tmp_path / "-".join(map(str, key)),
    )
    made = TaskComparison(comparison)
    for task in ("gaps", "half hidden", "keypoints"):
        rows = {row["name"]: row for row in made.task(task)}
        assert [*rows] == [row.name for row in FEW_ROWS]
        assert rows[AGAINST.name]["mpjpe_mm_over_regressor"]["mean"] == 0
        assert rows[GAUSSIAN.name]["energy_mm_over_regressor"]["mean"] == 0
        assert rows["linear"]["coverage"] is None and rows["linear"]["energy_mm"] == rows["linear"]["mpjpe_mm"]
        for name in [row.name for row in FEW_ROWS if row.samples > 1]:
            assert 0 <= rows[name]["coverage"]["mean"] <= 1 and rows[name]["apart_mm"]["mean"] > 0
            assert rows[name]["best_of_10_mm"]["mean"] > 0
        json.dumps(rows, allow_nan=False)
    monkeypatch.setattr(made, "task", lambda task: [{"task": task}])
    told = made.table("tasks")
    assert [task["task"] for task in told["rows"]] == ["as they are", "gaps", "half hidden", "few labels"]
    assert [task["task"] for task in made.table("keypoints")["rows"]] == ["keypoints"]
    assert told["provenance"]["schema"] == "fasthmr.decoders/1"
