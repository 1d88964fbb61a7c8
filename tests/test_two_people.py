"""The measurement of two rendered people: what perfect tracks get, and wrong ones; and that the truth fits pictures."""

from __future__ import annotations

import numpy as np
import pytest
import roma
import torch

from experiments.paper.two_people import SEGMENT, TRUTH, VIDEO, WORLD, in_world, measured, render
from hmr.video.frames import Film

FRAMES = 30


def truth() -> dict[str, np.ndarray]:
    """Two who walk in the world, by a camera that turns."""
    joints = np.random.default_rng(0).normal(0, 0.4, (1, 2, 24, 3)).repeat(FRAMES, 0)
    joints[..., 0] += np.linspace(0, 1, FRAMES)[:, None, None]
    joints[:, :, [7, 8, 10, 11]] = joints[:1, :, [7, 8, 10, 11]]  # feet stand
    boxes = np.array([[[10.0, 10, 40, 90], [80, 10, 110, 90]]]).repeat(FRAMES, 0)
    way = torch.zeros(FRAMES, 3)
    way[:, 1] = torch.linspace(0, 0.4, FRAMES)
    return {
        "joints": joints,
        "boxes": boxes,
        "rotation": roma.rotvec_to_rotmat(way).double().numpy(),
        "translation": np.tile([0.1, 0.2, 5.0], (FRAMES, 1)),
    }


def tracks(known: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Tracks that know it."""
    seen = np.einsum("tab,tpjb->tpja", known["rotation"], known["joints"]) + known["translation"][:, None, None]
    return [
        {
            "frame": np.arange(FRAMES),
            "box_px": known["boxes"][:, p].copy(),
            "joints_m": seen[:, p].copy(),
            "world_joints_m": known["joints"][:, p].copy(),
            "interpolated": np.zeros(FRAMES, bool),
        }
        for p in (0, 1)
    ]


def test_perfect_tracks_have_no_errors():
    known = truth()
    found = measured(known, tracks(known))
    assert found["found_percent"] == 100 and found["switches"] == 0
    assert [found[key] for key in ("mpjpe_mm", "accel_mm_per_frame2", *WORLD)] == pytest.approx([0] * 5, abs=1e-6)


def test_people_who_change_places_are_switches_and_gaps_are_not_found():
    known = truth()
    one, other = tracks(known)
    one["interpolated"][5:8] = True
    for name in ("box_px", "joints_m", "world_joints_m"):
        one[name][20:], other[name][20:] = other[name][20:].copy(), one[name][20:].copy()
    found = measured(known, [one, other])
    assert found["switches"] == 2 and found["found_percent"] == pytest.approx(95)
    assert found["mpjpe_mm"] == pytest.approx(0, abs=1e-6)


def test_errors_are_what_was_put_in():
    """A joint 240 mm off is 10 mm of 24; a body that drifts 2 mm a frame slides by that; who is turned from the start
    on has no error in the world."""
    known = truth()
    made = tracks(known)
    turn = roma.rotvec_to_rotmat(torch.tensor([0.0, 0.5, 0.0])).double().numpy()
    for track in made:
        track["joints_m"][:, 4, 0] += 0.24
        track["world_joints_m"] = track["world_joints_m"] @ turn.T + [1.0, 0, 2]
    found = measured(known, made)
    assert found["mpjpe_mm"] == pytest.approx(10) and found["world_mpjpe_mm"] == pytest.approx(0, abs=1e-3)
    for track in made:
        track["world_joints_m"][..., 2] += 0.002 * np.arange(FRAMES)[:, None]
    found = measured(known, made)
    assert found["sliding_mm"] == pytest.approx(2, rel=1e-3) and 20 < found["world_mpjpe_mm"] < 60
    assert found["aligned_world_mpjpe_mm"] < found["world_mpjpe_mm"] / 1.5


def test_errors_in_the_world_start_anew_with_each_segment():
    """Somebody who turns at once, between two segments, errs in neither; without segments by metres."""
    known = torch.from_numpy(np.random.default_rng(0).normal(0, 1, (2 * SEGMENT, 24, 3)))
    turn = roma.rotvec_to_rotmat(torch.tensor([0.0, 1.0, 0.0])).double()
    mine = torch.cat([known[:SEGMENT], known[SEGMENT:] @ turn.mT + 3])
    assert max(in_world(mine, known)["world_mpjpe_mm"]) < 1e-3


def test_a_rendered_video_shows_people_where_its_truth_says(tmp_path):
    """Joints lie in their boxes, boxes in the picture, and the picture changes where somebody moves."""
    render(tmp_path / "scene", 3, True, (90, 160), 0, lambda *_: None)
    with np.load(tmp_path / "scene" / TRUTH) as file:
        known = {name: file[name] for name in file.files}
    seen = np.einsum("tab,tpjb->tpja", known["rotation"], known["joints"]) + known["translation"][:, None, None]
    pixels = known["focal"] * seen[..., :2] / seen[..., 2:] + [80, 45]
    low, high = known["boxes"][:, :, None, :2], known["boxes"][:, :, None, 2:]
    assert (seen[..., 2] > 2).all() and ((pixels >= low - 0.5) & (pixels <= high + 0.5)).all()
    assert (low >= -1).all() and (high <= [161, 91]).all()
    assert len(list(Film(tmp_path / "scene" / VIDEO).shots())) == 3
    assert np.abs(known["rotation"][0] - known["rotation"][2]).max() > 1e-4
