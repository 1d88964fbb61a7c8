"""From what a network says of crops to motion: gaps, shape, and joints that are the body's."""

from __future__ import annotations

import numpy as np
import pytest
import roma
import torch

from hmr.animation.track import COCO, Track, named, rate
from hmr.body.files import load_body
from hmr.body.model import JOINT_NAMES
from hmr.video.crops import FrameCropper
from hmr.video.stages import Stages
from hmr.video.tracks import tracks_of, without_gaps
from tests.films import tiny


def records(moments: list[int], number: int = 1, seed: int = 0) -> dict[str, np.ndarray]:
    """What a network might say of one person at these moments."""
    draw, count = torch.Generator().manual_seed(seed), len(moments)
    rotations = roma.rotvec_to_rotmat(0.4 * torch.randn(count, 24, 3, generator=draw)).numpy()
    return {
        "id": np.full(count, number),
        "moment": np.array(moments),
        "box": np.array([[100.0 + m, 40, 160 + m, 190] for m in moments]),
        "score": np.linspace(0.5, 1, count).astype(np.float32),
        "global_orient": rotations[:, :1],
        "body_pose": rotations[:, 1:],
        "betas": torch.randn(count, 10, generator=draw).numpy(),
        "camera": np.tile(np.array([[0.9, 0.05, -0.1]], np.float32), (count, 1)),
        "features": torch.randn(count, 24, generator=draw).numpy(),
    }


def frames(count: int) -> dict[str, np.ndarray]:
    return {"frame": 2 * np.arange(count), "time": np.arange(count) / 25}


def tracks(given: dict[str, np.ndarray], count: int = 12, architecture: str = "reference") -> list[Track]:
    model = tiny(architecture)
    return tracks_of(given, frames(count), model, load_body(), FrameCropper(model, 400.0, (240, 320)), Stages())


@pytest.fixture(scope="module")
def track() -> Track:
    [found] = tracks(records([1, 2, 3, 6, 7, 8, 9]))
    return found


def test_a_gap_is_filled_between_its_neighbours_and_marked(track):
    assert track.frame.tolist() == [2, 4, 6, 8, 10, 12, 14, 16, 18]
    assert track.interpolated.tolist() == [False] * 3 + [True] * 2 + [False] * 4
    assert (track.confidence[3:5] == 0).all() and (track.confidence[~track.interpolated] >= 0.5).all()
    angle = [roma.rotmat_geodesic_distance(*torch.from_numpy(track.rotations[[2, i], 1:])) for i in (3, 4, 5)]
    assert torch.allclose(angle[0] * 2, angle[1], atol=1e-3) and torch.allclose(angle[0] * 3, angle[2], atol=1e-3)


def test_where_somebody_was_seen_nothing_is_changed():
    given = records([0, 1, 4, 5, 6])
    filled = without_gaps(given, np.arange(7))
    here = [0, 1, 4, 5, 6]
    assert all(np.array_equal(filled[name][here], given[name]) for name in ("body_pose", "camera", "betas", "box"))


def test_a_person_has_one_shape_and_the_joints_of_the_body_in_it(track):
    body, given = load_body(), records([1, 2, 3, 6, 7, 8, 9])
    assert track.betas == pytest.approx(np.average(given["betas"], 0, weights=given["score"]), abs=1e-5)
    posed = body(torch.from_numpy(track.rotations), torch.from_numpy(track.betas[None]))
    assert track.joints_m == pytest.approx(posed.joints.numpy() + track.translation_m[:, None], abs=1e-5)
    assert track.vertices_m(body) == pytest.approx(posed.vertices.numpy() + track.translation_m[:, None], abs=1e-5)


def test_cocos_keypoints_are_the_bodys(track):
    """Joints by their names; nose, eyes and ears lie on the posed surface, which hangs on the head alone there."""
    body, names = load_body(), named()
    assert len(names) == 17 and names[:5] == ("nose", "left_eye", "right_eye", "left_ear", "right_ear")
    for i in range(5, 17):
        assert np.array_equal(track.joints_coco_m[:, i], track.joints_m[:, JOINT_NAMES.index(names[i])])
    surface = track.vertices_m(body)[:, [point[1] for point in COCO[:5]]]
    assert np.linalg.norm(track.joints_coco_m[:, :5] - surface, axis=-1).max() < 0.02
    left = track.joints_coco_m[:, 1] - track.joints_coco_m[:, 2]  # from the right eye to the left one
    across = np.einsum("tij,tj->ti", surface_turn(track), left)
    assert (across[:, 0] > 0.04).all()


def surface_turn(track: Track) -> np.ndarray:
    """The head's rotation (T, 3, 3) undone."""
    body = load_body()
    _, turns = body.chain(torch.from_numpy(track.rotations), torch.from_numpy(track.betas[None]))
    return turns[:, JOINT_NAMES.index("head")].mT.numpy()


def test_where_the_pelvis_is_does_not_depend_on_the_shape_that_is_kept(track):
    """Each crop's own shape says how far away somebody is; the pelvis stays there when the track's shape is put on."""
    given, cropper = records([1, 2, 3, 6, 7, 8, 9]), FrameCropper(tiny(), 400.0, (240, 320))
    own = load_body().rest_joints(torch.from_numpy(given["betas"]))[:, 0]
    turns = torch.from_numpy(np.concatenate([given["global_orient"], given["body_pose"]], 1))
    _, pelvis = cropper.placed(given["box"], turns, torch.from_numpy(given["camera"]), own)
    assert track.joints_m[~track.interpolated, 0] == pytest.approx(pelvis.numpy(), abs=1e-4)


def test_short_tracks_are_no_people_and_crops_seen_twice_count_once():
    one, few, twice = records([0, 1, 2, 3, 4, 5]), records([2, 3], 2), records([3, 4], 1, seed=9)
    given = {name: np.concatenate([one[name], few[name], twice[name]]) for name in one}
    [found] = tracks(given)
    assert found.id == 1 and len(found) == 6
    assert found.rotations[3, 1:] == pytest.approx(one["body_pose"][3], abs=1e-5)
    assert [track.id for track in tracks(records([0]), count=1)] == [1]


def test_rates():
    assert rate(np.arange(5) / 25) == pytest.approx(25) and rate(np.array([3.0])) == 30
    assert rate(np.array([0, 0.1, 0.5])) == pytest.approx(4)
