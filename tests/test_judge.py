"""The joint judge against errors computed another way: the full body model, and the model's own forward pass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import roma
import torch

from compress.errors import BadInput
from compress.frames import Judge
from compress.policies.merge_layers import MergeLayers
from compress.stack import encode
from hmr.body.files import load_body
from hmr.data.crop import normalised
from hmr.data.sample import Sample, known
from hmr.evaluation import metrics
from hmr.evaluation.judge import JointJudge
from hmr.models.model import build
from tests.planning import applied, planned

SIZES = {"dim": 16, "depth": 3, "heads": 2, "mlp_dim": 32, "head_dim": 16, "head_depth": 1}


@pytest.fixture(scope="module")
def body():
    return load_body()


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = build("reference-small", SIZES)
    for linear in (model.smpl_head.decpose, model.smpl_head.decshape):
        torch.nn.init.normal_(linear.get_parameter("weight"), std=0.3)  # so that frames differ
    return model


def samples(count: int, seed: int = 0) -> list[Sample]:
    rng = np.random.default_rng(seed)
    return [
        Sample(
            image=rng.integers(0, 256, (64, 48, 3), dtype=np.uint8),
            mask=rng.random((64, 48)) < 0.4,
            recording="noise",
            rotations=roma.random_rotmat(24).numpy().astype(np.float32),
            betas=rng.normal(size=10).astype(np.float32),
        )
        for _ in range(count)
    ]


def test_errors_are_pelvis_aligned_joint_distances(model, body) -> None:
    """By hand: the forward pass, the full body model, a plain norm, frame by frame."""
    frames = samples(7)
    judge: Judge = JointJudge(model.eval(), frames, body, size=3)
    assert [len(crop) for crop in judge.crops] == [3, 3, 1]
    with torch.no_grad():
        found = torch.cat([judge.errors(i, encode(model.backbone, crop)) for i, crop in enumerate(judge.crops)])
        for frame, error in zip(frames, found, strict=True):
            output = model(normalised(torch.from_numpy(frame.image)[None]))
            guess = body(torch.cat((output.global_orient, output.body_pose), 1), output.betas).joints[0]
            truth = body(*(torch.from_numpy(known(x, "labels"))[None] for x in (frame.rotations, frame.betas))).joints[
                0
            ]
            distances = ((guess - guess[0]) - (truth - truth[0])).norm(dim=-1)
            assert error.item() == pytest.approx(1000 * distances.mean().item(), rel=1e-4)


def test_frames_without_poses_are_refused(model, body) -> None:
    blind = [replace(frame, rotations=None, betas=None) for frame in samples(5)]
    with pytest.raises(BadInput, match="no poses"):
        JointJudge(model, blind, body)


def test_search_on_a_model_reports_the_error_of_what_it_makes(model, body) -> None:
    """Greedy to two blocks, judged by true joints: the measured error is that of the compressed model's own forward."""
    judge = JointJudge(model, samples(5), body, size=2)
    plan = planned(MergeLayers(strategy="greedy", layers=2), model, judge)
    assert len(plan.windows) == 1 and plan.measured["path"][-1]["layers"] == 2
    applied(plan, model)
    with torch.no_grad():
        said = [model.eval()(crop) for crop in judge.crops]
        outputs = [body.joints_from_pelvis(one.rotations, one.betas) for one in said]
    errors = [metrics.mpjpe(output, truth) for output, truth in zip(outputs, judge.truth, strict=True)]
    assert plan.measured["error_mm"] == pytest.approx(torch.cat(errors).mean().item(), rel=1e-5)


def test_masks_stand_beside_the_crops(model, body) -> None:
    frames = samples(5)
    judge = JointJudge(model, frames, body, size=2)
    assert judge.masks is not None and [mask.shape for mask in judge.masks] == [(2, 64, 48), (2, 64, 48), (1, 64, 48)]
    assert (torch.cat(judge.masks).numpy() == np.stack([known(frame.mask, "masks") for frame in frames])).all()
    assert torch.equal(judge.crops[2], normalised(torch.from_numpy(frames[4].image)[None]))


def test_broken_model_has_an_infinite_error_and_the_frames_beside_it_their_own(model, body) -> None:
    judge = JointJudge(model.eval(), samples(3), body)
    with torch.no_grad():
        tokens = encode(model.backbone, judge.crops[0])
        x = tokens.x.clone()
        x[1] = torch.nan
        found, whole = judge.errors(0, replace(tokens, x=x)), judge.errors(0, tokens)
    assert found[1] == torch.inf
    torch.testing.assert_close(found[[0, 2]], whole[[0, 2]])


def test_no_frames_or_no_truth_is_refused(model, body) -> None:
    with pytest.raises(BadInput, match="none"):
        JointJudge(model, [], body)
    frames = samples(3)
    frames[2] = replace(frames[2], betas=np.full(10, np.nan, np.float32))
    with pytest.raises(BadInput, match="frames 2 to 2"):
        JointJudge(model, frames, body, size=2)
