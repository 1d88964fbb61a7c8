"""Silver truth of real people: calibration, triangulation and skeletons, against scenes of known truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from compress.errors import BadInput
from hmr.data.real_people.camera import read_qualisys
from hmr.data.real_people.skeleton import BONES, POINTS, fitted
from hmr.data.real_people.triangulation import Views, refined_centres, triangulated
from tests.cameras import cloud, four, walk

CAMERA = """<camera serial="cam01"><transform r11="0" r12="1" r13="0" r21="0" r22="0" r23="1" r31="1" r32="0" r33="0"
x="1000" y="2000" z="3000"/><intrinsic centerPointU="34176" centerPointV="61440" focalLengthU="107520"
focalLengthV="107456" radialDistortion1="-0.05" radialDistortion2="0.14" tangentalDistortion1="0.0006"
tangentalDistortion2="0.0007"/></camera>"""


def calibration(*cameras: str) -> bytes:
    return f"<calibration><cameras>{''.join(cameras)}</cameras></calibration>".encode()


def views_of(points: torch.Tensor, noise: float = 0.0, seed: int = 0) -> Views:
    """What four cameras see of points (P, 3), with Gaussian noise in pixels."""
    cameras = four()
    pixels = cameras.project(points)
    draw = torch.Generator().manual_seed(seed)
    pixels = pixels + noise * torch.randn(pixels.shape, generator=draw, dtype=pixels.dtype)
    return Views(cameras, pixels, torch.ones(pixels.shape[:2], dtype=pixels.dtype))


def test_qualisys_cameras_are_read_in_pixels_and_metres():
    camera = read_qualisys(calibration(CAMERA, CAMERA), "a")[1]
    assert camera.focal.tolist() == [1680, 1679] and camera.centre.tolist() == [534.5, 960.5]
    assert camera.distortion.tolist() == [-0.05, 0.14, 0.0006, 0.0007]
    place = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert camera.seen(place[None]).abs().max() < 1e-12  # the camera is there
    # Qualisys: rows of r are x right, y up, z back; so the world's +y is right, +z up, and it looks along -x
    ahead = camera.seen((place + torch.tensor([-1.0, 0.2, 0.3], dtype=torch.float64))[None])[0]
    assert ahead.tolist() == pytest.approx([0.2, -0.3, 1.0])


@pytest.mark.parametrize(
    "text",
    [
        b"<calibration",
        calibration(),
        b'<!DOCTYPE a [<!ENTITY b "b">]>' + calibration(CAMERA),
        calibration(CAMERA.replace('r11="0"', 'r11="0.5"')),
        calibration(CAMERA.replace("107520", "nan")),
        calibration(CAMERA.replace("107520", "wide")),
        calibration(CAMERA.replace("focalLengthU", "focus")),
        calibration(CAMERA.replace("intrinsic", "lens")),
        b" " * 1_000_001 + calibration(CAMERA),
    ],
)
def test_what_is_no_calibration_is_refused(text):
    with pytest.raises(BadInput, match=r"^pose2sim\.whl: "):
        read_qualisys(text, "pose2sim.whl")


def test_lenses_bend_as_the_formula_of_brown():
    """And `rays` takes the bend back."""
    camera = four()[0]
    x, y = 0.31, -0.42
    k1, k2, p1, p2 = camera.distortion.tolist()
    r2 = x * x + y * y
    across = x * (1 + k1 * r2 + k2 * r2**2) + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    down = y * (1 + k1 * r2 + k2 * r2**2) + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    rays = torch.tensor([[x, y]], dtype=torch.float64)
    assert camera.pixels(rays)[0].tolist() == pytest.approx([534 + 1680 * across, 950 + 1675 * down])
    assert camera.rays(camera.pixels(rays))[0].tolist() == pytest.approx([x, y], abs=1e-12)
    both = four()[[0, 2]]
    points = cloud(5)
    torch.testing.assert_close(both.project(points)[1], four()[2].project(points), atol=1e-9, rtol=0)
    assert both.rays(both.project(points)) == pytest.approx(both.seen(points)[..., :2] / both.seen(points)[..., 2:])


def test_points_without_noise_are_found_exactly():
    points = cloud(200)
    views = views_of(points)
    assert (triangulated(views) - points).abs().max() < 1e-9
    assert (triangulated(views.without(1)) - points).abs().max() < 1e-9
    assert (triangulated(views.only([0, 3])) - points).abs().max() < 1e-9


def test_one_wrong_view_of_four_does_not_matter():
    """Each point is seen somewhere else, half a metre off, by one camera; noise moves points by less than 2 cm."""
    points = cloud(300)
    views = views_of(points, noise=3.0)
    wrong = torch.arange(300) % 4
    pixels = views.pixels.clone()
    pixels[wrong, torch.arange(300)] += torch.tensor([250.0, -140.0], dtype=pixels.dtype)
    found = triangulated(replace(views, pixels=pixels))
    alone = torch.stack([triangulated(views.without(v)) for v in range(4)])[wrong, torch.arange(300)]
    assert (found - alone).norm(dim=1).median() < 1e-3  # as if that camera were not there
    assert (found - points).norm(dim=1).quantile(0.95) < 0.02


def test_views_that_are_not_trusted_do_not_count():
    points = cloud(50)
    views = views_of(points)
    pixels, weight = views.pixels.clone(), views.weight.clone()
    pixels[2] += 9.0  # within what counts
    weight[2] = 0
    assert (triangulated(Views(views.cameras, pixels, weight)) - points).abs().max() < 1e-9


def test_moved_principal_points_are_recovered():
    """But for what a moved world explains, to a pixel; and then all views agree again."""
    points, move = cloud(400), torch.tensor([[12.0, -7.0], [-9.0, 16.0], [4.0, 3.0], [-6.0, -11.0]]).double()
    true = views_of(points)
    world = [
        (true.cameras.project(points + step) - true.pixels).mean(1).flatten() for step in 0.01 * torch.eye(3).double()
    ]
    across = torch.linalg.qr(torch.stack(world, 1)).Q
    move = (move.flatten() - across @ (across.mT @ move.flatten())).view(4, 2)  # (8,) -> (4, 2)
    moved = replace(true, cameras=replace(true.cameras, centre=true.cameras.centre - move))
    start = triangulated(moved)
    assert moved.residuals(start).norm(dim=-1).median() > 3
    views, found = refined_centres(moved, start)
    assert views.residuals(found).norm(dim=-1).median() < 0.3
    assert (views.cameras.centre - true.cameras.centre).abs().max() < 1
    assert (found - points).norm(dim=1).max() < 0.005


def test_right_principal_points_stay():
    """Noise of 10 pixels in 400 points moves them by less than two."""
    points = cloud(400)
    views, _ = refined_centres(views_of(points, noise=10.0), points)
    assert (views.cameras.centre - four().centre).abs().max() < 2


def lengths_of(points: torch.Tensor) -> torch.Tensor:
    """(T, B) m."""
    rows = [(POINTS.index(a), POINTS.index(b)) for a, b in BONES]
    return torch.stack([(points[:, b] - points[:, a]).norm(dim=-1) for a, b in rows], 1)


def test_bones_keep_their_lengths_and_noise_gets_less():
    truth = walk()
    views = views_of(truth.flatten(0, 1), noise=8.0)
    jittery = triangulated(views).view_as(truth)
    found = fitted(views, jittery, fps=60.0)
    lengths = lengths_of(found)
    assert (lengths - lengths[0]).abs().max() < 1e-12
    assert (lengths[0] - lengths_of(truth)[0]).abs().max() < 0.01
    error = [(each - truth).norm(dim=-1).square().mean().sqrt() for each in (found, jittery)]
    assert error[0] < 0.6 * error[1]


def test_a_limb_that_one_view_takes_for_the_other_is_drawn_in():
    """For 20 frames a camera of four sees left and right arm exchanged."""
    truth = walk()
    views = views_of(truth.flatten(0, 1), noise=2.0)
    pixels = views.pixels.clone().view(4, 60, len(POINTS), 2)
    left, right = ([POINTS.index(f"{side}_{joint}") for joint in ("elbow", "wrist")] for side in ("left", "right"))
    pixels[1, 20:40, left + right] = pixels[1, 20:40, right + left]
    views = replace(views, pixels=pixels.flatten(1, 2))
    found = fitted(views, triangulated(views).view_as(truth), fps=60.0)
    assert (found - truth).norm(dim=-1).max() < 0.05


def test_a_fit_is_the_same_every_time():
    truth = walk(30)
    views = views_of(truth.flatten(0, 1), noise=5.0)
    first, second = (fitted(views, truth, fps=60.0) for _ in range(2))
    assert np.array_equal(first.numpy(), second.numpy())
