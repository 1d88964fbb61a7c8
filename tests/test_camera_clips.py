"""Motion as the VAE learns it: in the axes and by the cameras of the pictures, and augmented with time in order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation, Slerp

from diffusion.model.representation import encode
from diffusion.motion.camera_clips import FASTEST, Motion, at, crop_turn, mixed, warp
from hmr.body.files import load_body
from hmr.motion.recordings import shipped_clips
from hmr.world.synthetic import generator, open_world
from hmr.world.view import box_of, towards

BODY = load_body()


def test_a_pictures_labels_are_what_the_numbers_say():
    """The world that pictures are drawn in and the world that the VAE learns from name the same axes."""
    sample: Any = open_world("synth-video", "val", frames=3)[2]
    rotations, betas = torch.from_numpy(sample.rotations)[None], torch.from_numpy(sample.betas)[None]
    assert np.allclose(encode(rotations, betas, BODY)[0, : 24 * 3].view(24, 3), sample.joints, atol=1e-4)


def test_a_camera_turns_to_the_person_as_a_pictures_does():
    rng = np.random.default_rng(0)
    points = (rng.normal(size=(5, 29, 3)) * 0.4 + [0.3, -0.2, 4]).astype(np.float32)
    jitter = rng.normal(0, 0.05, (5, 2))
    ours = crop_turn(torch.from_numpy(points), torch.from_numpy(jitter).float())
    for one, cloud, moved in zip(ours, points, jitter, strict=True):
        low, high = box_of(cloud)
        assert np.allclose(one, towards((low + high) / 2 + moved * (high - low)), atol=1e-5)


@pytest.mark.parametrize("varied", [False, True])
def test_clips_are_those_of_a_body_in_front_of_a_camera(varied):
    motion = Motion(shipped_clips()[:4], 12, 5, BODY, varied=varied)
    clips = motion.draw([0, 3, 3], np.random.default_rng(0))
    again = motion.draw([0, 3, 3], np.random.default_rng(0))
    assert torch.equal(clips.numbers, again.numbers)
    betas = clips.betas[:, None].expand(-1, 12, -1).flatten(0, 1)
    direct = encode(clips.rotations.flatten(0, 1), betas, BODY).view(3, 12, -1)
    assert torch.allclose(direct, clips.numbers, atol=2e-4)
    steps = (clips.numbers[:, 1:, :87] - clips.numbers[:, :-1, :87]).abs().amax()
    assert steps < 0.5  # m from frame to frame: nobody jumps


def test_pieces_and_clips_do_not_depend_on_how_many_there_are():
    few, many = (Motion(shipped_clips()[:4], 12, n, BODY) for n in (2, 4))
    assert torch.equal(few.quaternions, many.quaternions[:2])


def test_a_warp_goes_one_way_within_its_piece_and_its_speed():
    places = warp(np.random.default_rng(0), 500, 20, 40)
    steps = np.diff(places, axis=1)
    forward = (steps > 0).all(1)
    assert (forward | (steps < 0).all(1)).all() and 150 < forward.sum() < 350
    assert places.min() >= 0 and places.max() <= 39
    assert np.abs(steps).max() <= FASTEST + 1e-4 and np.abs(steps).min() >= 1 / FASTEST - 1e-4
    steady = np.isclose(np.abs(steps), 1, atol=1e-4).all(1).mean()
    assert 0.4 < steady < 0.6
    assert warp(np.random.default_rng(0), 3, 20, 1).max() == 0


def test_between_frames_rotations_are_nearly_slerped():
    turns = Rotation.from_rotvec([[0, 0, 0], [0.2, 0.1, -0.3]])
    quaternions = torch.from_numpy(turns.as_quat()).float()[None, :, None]
    quaternions[:, 1] *= -1  # the same rotation
    middle = at(quaternions, torch.tensor([[0.25, 1.0]]))
    wanted = Slerp([0, 1], turns)([0.25, 1.0])
    found = Rotation.from_quat(torch.nn.functional.normalize(middle, dim=-1)[0, :, 0].numpy())
    assert np.degrees((found.inv() * wanted).magnitude()).max() < 0.1


def test_limbs_are_taken_whole():
    quaternions = torch.arange(6.0)[:, None, None, None].expand(6, 3, 24, 4)
    out = mixed(quaternions, generator("mix"))[:, 0, :, 0]
    assert (out != quaternions[:, 0, :, 0]).any()
    for limb in ((1, 4, 7, 10), (13, 16, 18, 20, 22)):
        assert (out[:, limb] == out[:, limb[:1]]).all()
