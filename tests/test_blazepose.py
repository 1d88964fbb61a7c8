"""BlazePose's steps around its networks, against pictures and heat maps of known places. No network is needed."""

from __future__ import annotations

import numpy as np
import pytest

from compress.errors import BadInput
from hmr.data import blazepose
from hmr.data.blazepose import COUNT, NAMES, Detector, LandmarkNetwork, Output, Square, anchors, refined, suppressed

COLD = np.full((64, 64, 39), -20.0, np.float32)


def output(places: np.ndarray, world: np.ndarray) -> Output:
    """What a network would give for landmarks (39, 2) in a unit square."""
    landmarks = np.concatenate([places * 256, np.zeros((39, 3))], 1)
    return Output(landmarks, world, 0.9, np.zeros((256, 256), np.float32), COLD)


@pytest.fixture
def network(monkeypatch):
    """A landmark network that sees in every square what `seen` holds."""
    monkeypatch.setattr(blazepose, "interpreter", lambda name, file: None)
    net = LandmarkNetwork()
    seen = {"output": output(np.full((39, 2), 0.5), np.zeros((39, 3)))}
    monkeypatch.setattr(net, "run", lambda square: seen["output"])
    return net, seen


@pytest.mark.parametrize("angle", [0.0, 0.4, -2.0, np.pi])
def test_a_square_shows_the_pixels_that_its_affine_map_names(angle):
    """Of a ramp, whose values are places."""
    rows, columns = np.mgrid[:240, :250]
    ramp = np.stack([columns, rows, 0 * rows], -1).astype(np.uint8)
    square = Square((125.0, 120.0), 128.0, angle)
    middles = (np.stack(np.meshgrid(np.arange(64), np.arange(64)), -1) + 0.5) / 64
    places = middles @ square.affine[:, :2].T + square.affine[:, 2]
    assert np.abs(square.cut(ramp, 64)[..., :2] - (places - 0.5)).max() < 1.01


@pytest.mark.parametrize("centre", [(80.0, 60.0), (-30.0, 200.0), (900.0, -500.0)])
def test_what_is_pasted_is_the_whole_pictures_map(centre):
    """Though no more of it is computed than the square covers."""
    part = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    square = Square(centre, 150.0, 0.4)
    whole = np.linalg.inv(np.concatenate([square.affine, [[0, 0, 1]]]))
    expected = blazepose.moved(part, (np.diag([32, 32, 1]) @ whole)[:2], (240, 160))
    assert np.array_equal(square.pasted(part, (240, 160)), expected)


def test_a_square_stands_upright_on_the_hips():
    """From hips to the head, which lies on the circle, is up in the square, whichever way it is in the picture."""
    hips, head = np.array([300.0, 200.0]), np.array([360.0, 120.0])
    square = blazepose.square_of(hips, head)
    assert square.side == pytest.approx(2 * 1.25 * 100)
    inverse = np.linalg.inv(np.vstack([square.affine, [0, 0, 1]]))
    assert inverse @ [*hips, 1] == pytest.approx([0.5, 0.5, 1])
    assert inverse @ [*head, 1] == pytest.approx([0.5, 0.1, 1])  # 0.5 / 1.25 above the middle


def test_landmarks_are_placed_in_the_picture_and_turned_upright(network):
    """In a square on its side: what is up there points to the right in the picture, in pixels and in metres."""
    net, seen = network
    places, world = np.full((39, 2), 0.5), np.zeros((39, 3))
    places[0], world[0] = (0.5, 0.25), (0, -0.6, 0.2)
    seen["output"] = output(places, world)
    person = net.see(np.zeros((100, 100, 3), np.uint8), Square((50.0, 60.0), 80.0, np.pi / 2))
    assert person.pixels.shape == (COUNT, 2) and len(NAMES) == COUNT
    assert person.pixels[0] == pytest.approx([50 + 20, 60]) and person.pixels[1] == pytest.approx([50, 60])
    assert person.world[0] == pytest.approx([0.6, 0, 0.2])


def test_the_next_square_follows_the_person(network):
    """A network that sees the hips a tenth of the square to the right of its middle moves the square there."""
    net, seen = network
    places = np.full((39, 2), 0.5)
    places[33], places[34] = (0.6, 0.5), (0.6, 0.1)  # a circle of 0.4: the side stays
    seen["output"] = output(places, np.zeros((39, 3)))
    square = Square((10.0, 20.0), 100.0)
    for centre in (20, 30):
        square = net.see(np.zeros((50, 50, 3), np.uint8), square).next
        assert square.centre[0] == pytest.approx(centre) and square.side == pytest.approx(100)


def test_heat_maps_move_landmarks_to_their_middle():
    heat = COLD.copy()
    heat[30, 21, 0], heat[30, 22, 0] = 5, 5  # row 30, between columns 21 and 22
    heat[10, 10, 1] = -1  # below one half: not trusted
    heat[0, 63, 2] = 9  # at the edge
    places = np.array([[20, 31], [10.7, 9.7], [63.5, 1.2], [70, 3]]) / 64
    moved = refined(places, heat[..., :4]) * 64
    assert moved[0] == pytest.approx([21.5, 30], abs=0.01)
    assert moved[1] == pytest.approx([10.7, 9.7]) and moved[3] == pytest.approx([70, 3])
    assert moved[2] == pytest.approx([63, 0], abs=0.01)


def test_anchors_are_as_many_as_the_detector_has():
    found = anchors()
    assert (
        found.shape == (2254, 2) and found.min() == pytest.approx(0.5 / 28) and found.max() == pytest.approx(27.5 / 28)
    )
    assert found[0] == pytest.approx(found[1]) and found[2] == pytest.approx([1.5 / 28, 0.5 / 28])  # along a row
    assert len(np.unique(found[-294:], axis=0)) == 49


def test_boxes_of_one_person_become_one():
    """Two that overlap are averaged by their scores, a third elsewhere stays, one that is unsure goes."""
    places = np.zeros((4, 6, 2))
    places[:, 0] = [(0.3, 0.3), (0.32, 0.3), (0.8, 0.8), (0.1, 0.9)]
    places[:, 1] = 0.2
    found = suppressed(places, np.array([0.9, 0.6, 0.7, 0.2]), 0.5)
    assert found[:, 0] == pytest.approx(np.array([[(0.3 * 0.9 + 0.32 * 0.6) / 1.5, 0.3], [0.8, 0.8]]))
    assert suppressed(places, np.zeros(4), 0.5).shape == (0, 6, 2)


def test_the_detector_gives_squares_of_the_picture(monkeypatch):
    """One anchor fires; the picture is wider than high, so black lies above and below it in the detector's square."""
    raw, logits = np.zeros((1, 2254, 12), np.float32), np.full((1, 2254, 1), -20, np.float32)
    chosen = 28 * 2 * 10 + 2 * 20  # row 10, column 20 of the finest grid
    logits[0, chosen] = 5
    raw[0, chosen, 2:4] = 50
    raw[0, chosen, 7] = -56  # the circle's point: a quarter of the square above the hips
    monkeypatch.setattr(blazepose, "interpreter", lambda name, file: None)
    monkeypatch.setattr(blazepose, "run", lambda network, square: {raw.shape: raw, logits.shape: logits})
    [square] = Detector().people(np.zeros((300, 400, 3), np.uint8))
    assert square.centre == pytest.approx((20.5 / 28 * 400, 10.5 / 28 * 400 - 50))
    assert square.side == pytest.approx(2.5 * 100) and square.angle == pytest.approx(0)


def test_another_network_is_refused(monkeypatch):
    monkeypatch.setattr(blazepose, "interpreter", lambda name, file: None)
    monkeypatch.setattr(blazepose, "run", lambda network, square: {(1, 5): np.zeros((1, 5), np.float32)})
    with pytest.raises(BadInput, match="not pose_landmark_full"):
        LandmarkNetwork().run(np.zeros((256, 256, 3), np.uint8))
    with pytest.raises(BadInput, match="not pose_detection"):
        Detector().people(np.zeros((30, 40, 3), np.uint8))
