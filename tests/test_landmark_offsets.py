"""Axes of limbs and trunk, and the way from BlazePose's landmarks to a body's joints and back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import roma
import torch

import hmr
from experiments.build.landmark_offsets import fitted, measured
from hmr.body.files import load_body
from hmr.body.limbs import LIMBS, ROWS, bone_axes, trunk
from hmr.data.blazepose import LandmarkNetwork
from hmr.data.real_people.offsets import AXES, KINDS, LIMB_LANDMARKS, joints_of, landmarks_of, read_offsets
from hmr.data.sample import Sample

OFFSETS = torch.tensor([[0.1, -0.05, 0.07, 0, 0.06]] * 2 + [[0, 0, 0, 0.05, -0.04]] * 2 + [[0, 0, 0, 0.05, 0]] * 2)
OFFSETS = OFFSETS.double().repeat(2, 1)


def poses(count: int = 20) -> torch.Tensor:
    """Limbs (B, 12, 3) of the open body in random poses."""
    draw = torch.Generator().manual_seed(0)
    rotations = 0.3 * torch.randn(count, 24, 3, generator=draw)
    rotations[:, 0] *= 6
    return load_body().skeleton(rotations, torch.randn(count, 10, generator=draw))[:, list(ROWS)].double()


def test_the_trunk_of_a_resting_body_faces_forward():
    """SMPL's rest shape has its left on +x, its head on +y and looks along +z; hips lie a little before shoulders."""
    rest = load_body().skeleton(torch.zeros(1, 24, 3), torch.zeros(1, 10))[0, list(ROWS)]
    assert trunk(rest) == pytest.approx(torch.eye(3), abs=0.1)
    left = [i for i, name in enumerate(LIMBS) if name.startswith("left")]
    assert (rest[left, 0] > 0).all() and len(left) == 6


def test_trunk_and_bones_turn_and_grow_with_the_body():
    joints, turn = poses(), roma.random_rotmat(20, dtype=torch.float64)
    moved = 1.7 * joints @ turn.mT + 3
    assert trunk(moved) == pytest.approx(turn @ trunk(joints), abs=1e-9)
    assert bone_axes(moved) == pytest.approx(1.7 * bone_axes(joints) @ turn.mT[:, None], abs=1e-9)
    assert trunk(joints).mT @ trunk(joints) == pytest.approx(torch.eye(3).double().expand(20, 3, 3), abs=1e-9)
    assert torch.linalg.det(trunk(joints)) == pytest.approx(torch.ones(20).double())


def test_left_and_right_are_mirrored():
    """A body in a mirror: each joint's axes are its partner's, mirrored."""
    joints, flip = poses(), torch.tensor([-1.0, 1, 1]).double()
    partner = [
        LIMBS.index(f"{'right' if name.startswith('left') else 'left'}_{name.partition('_')[2]}") for name in LIMBS
    ]
    assert bone_axes((joints * flip)[:, partner]) == pytest.approx(bone_axes(joints)[:, partner] * flip, abs=1e-9)


def test_bones_are_those_of_the_joint():
    joints = poses(1)
    axes, at = bone_axes(joints)[0], dict(zip(LIMBS, joints[0], strict=True))
    elbow, ankle, hip = (LIMBS.index(name) for name in ("right_elbow", "left_ankle", "left_hip"))
    assert axes[elbow, 3].tolist() == pytest.approx((at["right_elbow"] - at["right_shoulder"]).tolist())
    assert axes[elbow, 4].tolist() == pytest.approx((at["right_wrist"] - at["right_elbow"]).tolist())
    assert axes[hip, 4].tolist() == pytest.approx((at["left_knee"] - at["left_hip"]).tolist())
    assert not axes[elbow, :3].any() and not axes[ankle, 4].any() and not axes[hip, 3].any()


def test_landmarks_lead_back_to_joints():
    joints = poses()
    landmarks = landmarks_of(joints, OFFSETS)
    assert (landmarks - joints).norm(dim=-1).min() > 1e-3
    assert joints_of(landmarks, OFFSETS) == pytest.approx(joints, abs=1e-6)


def test_shipped_offsets_are_small_and_mirrored():
    offsets = read_offsets()
    assert offsets.shape == (12, len(AXES)) and (offsets[0::2] == offsets[1::2]).all()
    moved = (landmarks_of(poses(), offsets) - poses()).norm(dim=-1)
    assert moved.max() < 0.12
    assert [name.partition("_")[2] for name in LIMBS[0::2]] == list(KINDS)


def test_offsets_are_found_among_mistakes():
    """From 400 landmarks seen from one side each, with noise of 1 cm; a fifth of them lies half a metre off."""
    draw = torch.Generator().manual_seed(2)
    slopes = 0.4 * torch.randn(400, 2, 5, generator=draw, dtype=torch.float64)
    error = slopes @ OFFSETS[0] + 0.01 * torch.randn(400, 2, generator=draw, dtype=torch.float64)
    error[::5] += 0.5
    sure = torch.ones(400, dtype=torch.bool)
    sure[1] = False
    error[1] = torch.nan
    found, left = fitted(slopes, error, sure)
    assert found == pytest.approx(OFFSETS[0], abs=0.01)
    assert left.median() == pytest.approx(0.0125, abs=0.005)


def test_offsets_of_rendered_bodies_are_measured(monkeypatch):
    """By a network that sees exactly the landmarks of the bodies it is shown: what it was told comes out."""
    frames = hmr.frames("synth:train", 12, size=(64, 48))
    shown: list[Sample] = []

    def see(image, square):
        sample = shown[-1]
        height, width = sample.image.shape[:2]
        assert sample.joints is not None and sample.keypoints is not None and sample.camera is not None and sample.focal
        joints = torch.from_numpy(sample.joints).double()
        pixels = (sample.keypoints[0] + 0.5) * (width, height) - np.array([width, height]) / 2
        depth = 2 * sample.focal / (height * float(sample.camera[0]))
        root = torch.tensor([*(pixels / sample.focal * depth), depth]).double()
        places = landmarks_of(joints[list(ROWS)], OFFSETS) + root
        found = np.full((33, 2), np.nan)
        found[LIMB_LANDMARKS] = sample.focal * (places[:, :2] / places[:, 2:]).numpy() + [width / 2, height / 2]
        return SimpleNamespace(score=1.0, pixels=found, visibility=np.ones(33), next=square)

    def each():
        for sample in frames:
            shown.append(sample)
            yield sample

    found = measured(each(), cast(LandmarkNetwork, SimpleNamespace(see=see)))
    assert found["pictures"] == 12
    for kind, i in zip(KINDS, range(0, 12, 2), strict=True):
        assert [found["offsets"][kind][axis] for axis in AXES] == pytest.approx(OFFSETS[i].tolist(), abs=0.02)
        assert found["median_distance"][kind]["with_mm"] < 1.5 < found["median_distance"][kind]["without_mm"]
