"""Crops by a turned camera, against bodies that are rendered off the axis of a picture."""

from __future__ import annotations

import numpy as np
import pytest
import roma
import torch
from scipy.optimize import least_squares

from hmr.body.files import load_body
from hmr.data.real_people.camera import Camera
from hmr.data.real_people.crops import sources, taken, toward, turned
from hmr.models.families.family import Box
from hmr.world import geometry, raster

SIZE = (224, 168)
SIDE = Box(1.2).side


def camera(bend: float = 0.0) -> Camera:
    """Of a picture of 1,600 x 1,200 pixels, which looks along the world's z."""
    eye = torch.eye(3, dtype=torch.float64)
    focal, centre, lens = (torch.tensor(each).double() for each in ([1100.0, 1100.0], [800.0, 600.0], [bend, 0, 0, 0]))
    return Camera(eye, torch.zeros(3, dtype=torch.float64), focal, centre, lens)


@pytest.fixture(scope="module")
def person() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Someone 25 degrees to the right of the axis and 10 above it: vertices (V, 3) and the pelvis (3,) in camera axes,
    the root's rotation (3, 3), faces."""
    body = load_body()
    pose = 0.3 * torch.randn(1, 24, 3, generator=torch.Generator().manual_seed(3))
    pose[0, 0] = torch.tensor([2.6, 0.4, 0.7])
    posed = body(pose, torch.zeros(1, 10))
    place = np.array([1.7, -0.65, 3.6])
    vertices = posed.vertices[0].numpy() - posed.joints[0, 0].numpy() + place
    return vertices, place, roma.rotvec_to_rotmat(pose[0, 0]).numpy(), body.faces.numpy()


def rendered(
    vertices: np.ndarray, faces: np.ndarray, focal: float, size: tuple[int, int], colours: np.ndarray
) -> tuple:
    """A picture (H, W, 3) of vertices in colours (V, 3) 0..255, and where the body is (H, W)."""
    height, width = size
    none, still = np.zeros(len(vertices), np.float32), (np.eye(3, dtype=np.float32), np.zeros(3, np.float32))
    screen = geometry.project(vertices.astype(np.float32), *still, focal, width, height, none)
    face_id, near = np.full(size, raster.NO_FACE, np.int32), np.zeros(size, np.float32)
    bary = np.zeros((*size, 2), np.float32)
    raster.rasterise(screen, none, faces.astype(np.int32), np.zeros(len(faces), bool), face_id, bary, near)
    there = face_id >= 0
    bary = np.concatenate([bary, 1 - bary.sum(-1, keepdims=True)], -1)
    image = np.einsum("hwk,hwkc->hwc", bary, colours[faces[face_id]]) * there[..., None]
    return image.round().astype(np.uint8), there


def pixels_of(points: np.ndarray, seen_by: Camera) -> torch.Tensor:
    return seen_by.project(torch.from_numpy(np.asarray(points, np.float64)))


def test_the_smallest_rotation_takes_a_ray_to_the_axis():
    ray = torch.tensor([0.4, -0.7], dtype=torch.float64)
    rotation = toward(ray)
    straight = torch.tensor([0.4, -0.7, 1.0], dtype=torch.float64)
    assert (rotation @ straight)[:2].abs().max() < 1e-12 and torch.linalg.det(rotation) == pytest.approx(1)
    angle = np.arccos((rotation.trace().item() - 1) / 2)
    assert angle == pytest.approx(np.arccos(1 / straight.norm().item()))


def test_the_box_lies_in_the_middle_of_the_crop(person):
    """And the crop's height is the square of the family's rule."""
    own = camera(-0.1)
    crop = turned(own, pixels_of(person[0], own), SIDE, SIZE)
    seen = pixels_of(person[0], crop)
    low, high = seen.min(0).values, seen.max(0).values
    assert ((low + high) / 2).tolist() == pytest.approx([84, 112], abs=0.01)
    assert SIDE(*(high - low).tolist()) == pytest.approx(224, abs=0.01)


def test_a_crop_shows_what_its_camera_sees(person):
    """The outline of a body rendered for the turned camera is that of the body cut out of the picture."""
    vertices, _, _, faces = person
    own = camera()
    crop = turned(own, pixels_of(vertices, own), SIDE, SIZE)
    _, there = rendered(vertices, faces, 1100.0, (1200, 1600), np.zeros((len(vertices), 3)))
    cut = taken(there.astype(np.uint8) * 255, own, crop, SIZE) / 255
    seen = vertices @ crop.rotation.numpy().T
    _, fine = rendered(seen, faces, 8 * crop.focal[0].item(), (8 * SIZE[0], 8 * SIZE[1]), np.zeros((len(vertices), 3)))
    expected = fine.reshape(SIZE[0], 8, SIZE[1], 8).mean((1, 3))
    edge = (expected > 0) & (expected < 1)
    assert np.abs(cut - expected).sum() < 0.15 * edge.sum()  # of a pixel, along the outline
    places = np.argwhere(np.ones(SIZE))
    middles = [(places * share.reshape(-1, 1)).sum(0) / share.sum() for share in (cut, expected)]
    assert np.abs(middles[0] - middles[1]).max() < 0.05


@pytest.mark.parametrize("bend", [0.0, -0.12])
def test_the_body_is_turned_as_its_labels_are(person, bend):
    """Where each pixel of the crop lies on the body is its colour; the root that explains them is the label's, within
    a tenth of a degree, and all pixels are explained within one. The lens of the second camera bends."""
    vertices, place, root, faces = person
    own, straight = camera(bend), camera()
    own_axes = (vertices - place) @ root  # in the root's axes
    low, high = own_axes.min(), own_axes.max()
    picture, there = rendered(vertices, faces, 1100.0, (1200, 1600), 255 * (own_axes - low) / (high - low))
    if bend:  # the same picture through the lens: where it shows what, the straight one tells
        rays = torch.from_numpy(np.stack(np.meshgrid(np.arange(1600) + 0.5, np.arange(1200) + 0.5), -1)).flatten(0, 1)
        from_straight = straight.pixels(own.rays(rays)).round().long().clamp_min(0)
        column, row = from_straight.clamp(max=torch.tensor([1599, 1199])).unbind(1)
        picture, there = (each[row, column].reshape(1200, 1600, -1) for each in (picture, there))
    crop = turned(own, pixels_of(vertices, own), SIDE, SIZE)
    inside = taken(there.reshape(1200, 1600).astype(np.uint8) * 255, own, crop, SIZE) == 255
    colours = taken(picture, own, crop, SIZE)[inside].astype(np.float64)
    points = low + colours / 255 * (high - low)
    found = np.stack(np.nonzero(inside)[::-1], 1) + 0.5

    def off(unknown: np.ndarray) -> np.ndarray:
        turn = roma.rotvec_to_rotmat(torch.from_numpy(unknown[:3])).numpy()
        seen = points @ turn.T + unknown[3:]
        return (crop.focal[0].item() * seen[:, :2] / seen[:, 2:] + [84, 112] - found).ravel()

    label = crop.rotation.numpy() @ root
    start = roma.rotmat_to_rotvec(torch.from_numpy(label)).numpy() + 0.2
    solved = least_squares(off, [*start, 0, 0, 4], loss="soft_l1").x
    turn = roma.rotvec_to_rotmat(torch.from_numpy(solved[:3])).numpy()
    assert np.degrees(np.arccos((np.trace(turn.T @ label) - 1) / 2)) < 0.1
    assert solved[3:] == pytest.approx(crop.rotation.numpy() @ place, abs=0.01)
    assert np.percentile(np.abs(off(solved)), 95) < 1
    plain = np.degrees(np.arccos((np.trace(turn.T @ root) - 1) / 2))
    assert plain > 20  # what a plain crop's labels would be wrong by


def test_pixels_come_from_where_the_camera_says():
    """A crop straight ahead, at half the focal length: each of its pixels is the middle of two by two."""
    own = camera()
    half = Camera(own.rotation, own.translation, own.focal / 2, torch.tensor([84.0, 112.0]).double(), own.distortion)
    places = sources(own, half, SIZE)
    assert places.shape == (224, 168, 2)
    assert places[112, 84].tolist() == pytest.approx([801, 601]) and places[0, 0].tolist() == pytest.approx([633, 377])
    image = np.zeros((1200, 1600), np.uint8)
    image[600:602, 800:802] = 200
    cut = taken(image, own, half, SIZE)
    assert cut[112, 84] == 200 and cut.sum() == 200


def test_outside_of_the_picture_is_black(person):
    own = camera()
    crop = turned(own, torch.tensor([[1500.0, 100.0], [1700.0, 700.0]]).double(), SIDE, SIZE)
    cut = taken(np.full((1200, 1600, 3), 99, np.uint8), own, crop, SIZE)
    assert cut.shape == (224, 168, 3) and (cut[100, :80] == 99).all() and (cut[100, 100:] == 0).all()
