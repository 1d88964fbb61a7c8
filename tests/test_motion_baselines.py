"""What a motion decoder has to beat: a pose head of each frame's own, and filters over time."""

from __future__ import annotations

import pytest
import torch

from compress.training.loop import train
from compress.training.task import OptimizerStep
from diffusion.model.decoder import ClipDecoder
from diffusion.model.vae import MotionVAE
from diffusion.motion import features
from diffusion.training.decoder import sizes_for
from experiments.paper.baselines import FrameHead, HeadTask, one_euro, savitzky_golay, share
from tests.motion import TINY, small_model, video
from tests.test_train_motion import config


def test_a_pose_head_starts_as_the_models_own_and_learns(tmp_path):
    model = small_model()
    torch.nn.init.normal_(model.smpl_head.decpose.weight, std=0.1)
    head = FrameHead(model.smpl_head)
    crop = torch.randn(2, 3, 256, 192)
    said = model(crop)
    assert torch.allclose(head(said.features), said.rotations, atol=1e-5)
    vae = MotionVAE(TINY)
    decoder = ClipDecoder(sizes_for(vae, [video()]), "linear", encoder="e", vae=vae)
    task = HeadTask(decoder, vae, [video(20, 0)], [video(12, 3)], 4).of(head)
    batch = task.batch(OptimizerStep(0))
    before = task.module(*batch)["loss"].item()
    trained = train(task, config(tmp_path / "run", steps=30, checkpoint_minutes=9.0)).weights
    assert trained(*batch)["loss"].item() < before


def test_filters_leave_what_is_still_and_calm_what_shakes():
    still = video(20, 0)
    still = features.VideoFeatures(**{**vars(still), "predicted_rotations": still.rotations[:1].expand(20, -1, -1, -1)})
    for found in (savitzky_golay(still, 30.0, 0.4), one_euro(still, 30.0, 1.0, 0.3)):
        assert torch.allclose(found, still.predicted_rotations, atol=1e-5)
    torch.manual_seed(0)
    noise = 0.05 * torch.randn(20, 24, 3, 3)
    shaky = features.VideoFeatures(**{**vars(still), "predicted_rotations": still.predicted_rotations + noise})
    for found in (savitzky_golay(shaky, 30.0, 0.6), one_euro(shaky, 30.0, 1.0, 0.0)):
        assert found.diff(2, 0).norm() < 0.5 * shaky.predicted_rotations.diff(2, 0).norm()
    assert torch.equal(savitzky_golay(video(2, 0), 30.0, 0.4), video(2, 0).predicted_rotations)


def test_a_causal_filter_does_not_look_ahead():
    one, two = video(20, 0), video(20, 0)
    changed = two.predicted_rotations.clone()
    changed[12:] = torch.eye(3)
    two = features.VideoFeatures(**{**vars(two), "predicted_rotations": changed})
    assert torch.equal(one_euro(one, 30.0, 1.0, 0.5)[:12], one_euro(two, 30.0, 1.0, 0.5)[:12])
    # an RC low pass of cutoff f takes dt / (dt + RC), RC = 1 / (2 pi f)
    assert share(2.0, 30.0) == pytest.approx((1 / 30) / (1 / 30 + 1 / (2 * torch.pi * 2.0)))
