"""Crops of people and the way back to the frame's camera, against a body whose place is known."""

from __future__ import annotations

import numpy as np
import pytest
import roma
import torch
from scipy.ndimage import binary_erosion

from compress.errors import BadInput
from hmr.body.files import load_body
from hmr.data.crop import cut
from hmr.data.real_people.crops import taken
from hmr.models.model import build
from hmr.video.crops import FrameCropper, seen
from tests.sizes import TINY

SIZE, FOCAL = (300, 400), 380.0
BOX = (250.0, 60.0, 330.0, 240.0)


def cropper(architecture: str = "reference") -> FrameCropper:
    return FrameCropper(build(architecture, TINY).eval(), FOCAL, SIZE)


def waves() -> np.ndarray:
    """A smooth picture: it looks the same however it is sampled."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    bands = [128 + 100 * np.sin(columns / 17), 128 + 100 * np.cos(rows / 23), 128 + 90 * np.sin((rows + columns) / 31)]
    return np.stack(bands, -1).round().astype(np.uint8)


@pytest.mark.parametrize("box", [BOX, (-30.0, 10.0, 60.0, 290.0), (10.0, 20.0, 30.0, 60.0)])
def test_a_turned_crop_is_what_a_camera_turned_there_takes(box):
    """By homography and by sampling rays, which are two programs, of boxes inside and across the edge."""
    made, image = cropper(), waves()
    crop, _ = made.cut(image, None, box)
    expected = taken(image, made.camera, made.turned(box), made.model.crop_size)
    whole = seen(np.full(SIZE, 255, np.uint8), made.camera, made.turned(box), made.model.crop_size) == 255
    inside = binary_erosion(whole, iterations=6)  # at the picture's edge one program repeats it, and one is black
    assert crop.shape == expected.shape and inside.mean() > 0.3
    assert np.abs(crop.astype(int) - expected)[inside].max() <= 3


def test_a_plain_crop_is_the_square_of_its_family():
    made, image = cropper("hmr2"), waves()
    crop, mask = made.cut(image, np.ones(SIZE, bool), BOX)
    side = made.model.family.box.side(80, 180)
    assert np.array_equal(crop, cut(image, (290.0, 150.0), side, (256, 192)))
    assert mask is not None and mask.shape == (256, 192) and mask[128, 96]


@pytest.mark.parametrize("architecture", ["reference", "hmr2"])
@pytest.mark.parametrize("box", [(5.0, 5.0, 5.0, 5.0), (0.0, 0.0, 1e5, 1e5)])
def test_absurd_boxes_are_refused(architecture, box):
    with pytest.raises(BadInput, match="cannot be cut"):
        cropper(architecture).cut(waves(), None, box)


def person(place: list[float]):
    """Somebody at `place` in the frame's camera: rotations (1, 24, 3, 3), joints (1, 24, 3) m, its origin (3,)."""
    pose = 0.4 * torch.randn(1, 24, 3, generator=torch.Generator().manual_seed(2))
    rotations = roma.rotvec_to_rotmat(pose)
    joints = load_body().skeleton(rotations, torch.zeros(1, 10))
    return rotations, joints + torch.tensor(place), torch.tensor(place)


@pytest.mark.parametrize("place", [[0.9, -0.3, 4.0], [-1.1, 0.4, 3.0], [0.0, 0.1, 9.0]])
def test_what_a_crop_says_is_put_back_where_the_body_is(place):
    """The crop's own camera sees the body turned and moved; said so as s, tx, ty, it lands where it was."""
    made, body = cropper(), load_body()
    rotations, joints, at = person(place)
    pixels = made.camera.project(joints[0].double()).numpy()
    box = tuple(map(float, (*pixels.min(0), *pixels.max(0))))
    camera = made.turned(box)  # type: ignore[arg-type]
    turn = camera.rotation.float()
    pelvis = body.rest_joints(torch.zeros(1, 10))[0, 0]
    there = turn @ (at + pelvis) - pelvis  # the origin that the crop's camera sees
    said = torch.tensor([[2 * float(camera.focal[0]) / (224 * there[2]), there[0], there[1]]])
    own = torch.cat([turn @ rotations[:, :1], rotations[:, 1:]], 1)
    back, found = made.placed(np.array([box]), own, said, pelvis[None])
    assert torch.allclose(back, rotations, atol=1e-5)
    assert torch.allclose(body.skeleton(back, torch.zeros(1, 10)) - pelvis + found[:, None], joints, atol=1e-4)


def test_a_plain_crop_puts_the_body_where_its_weak_camera_draws_it():
    """A point tx, ty at scale s lies at that place of the square: so does its place in metres, in the picture."""
    made = cropper("hmr2")
    place = made.square(BOX)
    said = torch.tensor([[0.8, 0.15, -0.2]])
    turns, found = made.placed(np.array([BOX]), torch.eye(3).expand(1, 24, 3, 3), said, torch.zeros(1, 3))
    pixel = FOCAL * found[0, :2] / found[0, 2] + torch.tensor([200.0, 150.0])
    expected = torch.tensor(place.centre) + place.side / 2 * 0.8 * torch.tensor([0.15, -0.2])
    assert torch.allclose(pixel, expected, atol=1e-2) and torch.equal(turns[0, 0], torch.eye(3))


def test_a_scale_of_nothing_is_far_away_and_not_behind():
    still, said = torch.eye(3).expand(1, 24, 3, 3), torch.tensor([[-1.0, 0, 0]])
    _, found = cropper().placed(np.array([BOX]), still, said, torch.zeros(1, 3))
    assert found.isfinite().all() and found[0, 2] > 0
