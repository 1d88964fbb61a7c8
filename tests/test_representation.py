"""133 numbers say what a pose is: round trips on mocap, the parts against scipy, and what no body can reach."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from diffusion.model.representation import JOINTS, TWISTS, WIDTH, decode, encode, nearest_rotation, swing
from hmr.body.files import load_body
from hmr.motion.recordings import shipped_clips

BODY = load_body()


def betas(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(1, 10, generator=torch.Generator().manual_seed(seed)).expand(count, 10)


def degrees_apart(one: torch.Tensor, two: torch.Tensor) -> np.ndarray:
    turns = Rotation.from_matrix(one.reshape(-1, 3, 3).double().numpy()).inv() * Rotation.from_matrix(
        two.reshape(-1, 3, 3).double().numpy()
    )
    return np.degrees(turns.magnitude())


@pytest.mark.parametrize("clip", shipped_clips(), ids=lambda clip: clip.name)
def test_clean_mocap_comes_back(clip):
    rotations, shape = torch.from_numpy(clip.rotations), betas(len(clip), len(clip))
    numbers = encode(rotations, shape, BODY)
    back = decode(numbers, shape, BODY)
    assert numbers.shape == (len(clip), WIDTH) == (len(clip), 133)
    assert degrees_apart(rotations, back).max() < 0.5
    moved = BODY.skeleton29(rotations, shape) - BODY.skeleton29(back, shape)
    assert moved.norm(dim=-1).max() < 0.5e-3


def test_numbers_are_joints_from_the_pelvis_and_points_of_circles():
    rotations, shape = torch.from_numpy(shipped_clips()[0].rotations[:7]), betas(7)
    numbers = encode(rotations, shape, BODY)
    joints = BODY(rotations, shape).joints29
    assert torch.allclose(numbers[:, : 3 * JOINTS].view(7, JOINTS, 3), joints - joints[:, :1], atol=1e-6)
    assert torch.allclose(numbers[:, 3 * JOINTS :].view(7, TWISTS, 2).norm(dim=-1), torch.ones(7, TWISTS), atol=1e-5)


def test_a_twist_about_the_bone_is_told_by_its_angle():
    rest = BODY.rest_joints29(torch.zeros(1, 10))[0].numpy()
    bone = rest[20] - rest[18]  # left elbow to left wrist
    angles = np.linspace(-3.1, 3.1, 9)
    rotations = torch.eye(3).repeat(len(angles), 24, 1, 1)
    rotations[:, 18] = torch.from_numpy(
        Rotation.from_rotvec(angles[:, None] * bone / np.linalg.norm(bone)).as_matrix()
    ).float()
    numbers = encode(rotations, torch.zeros(len(angles), 10), BODY)
    told = numbers[:, 3 * JOINTS :].view(-1, TWISTS, 2)[:, 18 - 1].numpy()
    assert np.allclose(np.arctan2(told[:, 1], told[:, 0]), angles, atol=1e-4)


@given(st.integers(0, 2**31))
@settings(max_examples=30)
def test_a_swing_is_the_shortest_turn(seed):
    start, end = torch.nn.functional.normalize(
        torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1
    )
    turn = swing(start, end)
    assert torch.allclose((turn @ start[..., None])[..., 0], end)
    angle = torch.atan2(torch.linalg.cross(start, end).norm(dim=-1), (start * end).sum(-1))
    assert np.allclose(Rotation.from_matrix(turn.numpy()).magnitude(), angle.numpy())


@pytest.mark.parametrize("away", [0.0, 1e-9, 1e-6, 1e-4, 1e-3])
def test_a_swing_to_the_opposite_is_a_rotation(away):
    start = torch.eye(3).repeat(2, 1)
    end = torch.nn.functional.normalize(-start + away * start.roll(1, -1), dim=-1)
    turn = swing(start, end)
    assert torch.allclose(turn @ turn.mT, torch.eye(3).expand(6, 3, 3), atol=2e-3)
    assert torch.allclose((turn @ start[..., None])[..., 0], end, atol=2e-3)


@pytest.mark.parametrize("scale", [0.0, 1e-6, 0.3, 30.0])
def test_joints_that_no_body_reaches_give_rotations_and_gradients(scale):
    numbers = (scale * torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(1))).requires_grad_()
    back = decode(numbers, betas(40), BODY)
    assert torch.allclose(back @ back.mT, torch.eye(3).expand_as(back), atol=1e-3)
    assert torch.allclose(torch.linalg.det(back), torch.ones(40, 24), atol=1e-3)
    BODY.skeleton29(back, betas(40)).square().sum().backward()
    assert numbers.grad is not None and numbers.grad.isfinite().all()


def test_a_wish_for_longer_bones_does_not_bend_the_limb():
    """Joints pulled out along straight bones ask for a longer arm: the rotations stay."""
    rotations, shape = torch.from_numpy(shipped_clips()[0].rotations[:5]), betas(5)
    numbers = encode(rotations, shape, BODY)
    joints = numbers[:, : 3 * JOINTS].view(5, JOINTS, 3)
    for leaf, hand in ((25, 22), (26, 23)):
        joints[:, leaf] += joints[:, leaf] - joints[:, hand]
    assert degrees_apart(decode(numbers, shape, BODY), rotations).max() < 0.5


def test_gradients_are_those_of_finite_differences():
    body = load_body().double()
    rotations = torch.from_numpy(shipped_clips()[0].rotations[3:5]).double()
    shape = betas(2).double()
    weights = torch.randn(2, 24, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    numbers = encode(rotations, shape, body).detach()
    assert torch.autograd.gradcheck(
        lambda n: (decode(n, shape, body) * weights).sum(), numbers.requires_grad_(), eps=1e-6, atol=1e-5
    )


def test_the_nearest_rotation_is_that_of_an_svd():
    matrices = torch.randn(4, 50, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    u, _, v = torch.linalg.svd(matrices)
    ones = torch.ones(4, 50, dtype=torch.float64)
    sign = torch.diag_embed(torch.stack((ones, ones, (u @ v).det()), -1))
    assert torch.allclose(nearest_rotation(matrices), u @ sign @ v, atol=1e-6)
    assert torch.equal(nearest_rotation(torch.zeros(1, 3, 3)), torch.eye(3)[None])
