"""Errors on people by several cameras, against a scene whose truth a model may know."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import roma
import torch
from torch import Tensor, nn

from compress.stack import Schedule
from hmr.body.files import load_body
from hmr.body.limbs import LIMBS, ROWS
from hmr.data.dataset import DataSpec
from hmr.data.real_people.dataset import Keypoints, RealFrames, Truth, from_hips
from hmr.data.sample import Sample
from hmr.evaluation import multiview
from hmr.evaluation.evaluate import evaluate
from hmr.evaluation.multiview import evaluate_real, keypoint_shares
from hmr.models.head import HMROutput

VIEWS, MOMENTS, SIZE = 3, 5, (32, 24)
COUNT = VIEWS * MOMENTS


class Scene:
    """Somebody who moves, in the axes of three cameras; each frame's number is the red of its picture."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(0)
        self.body = load_body()
        pose = roma.rotvec_to_rotmat(0.3 * torch.randn(MOMENTS, 24, 3, generator=draw))
        to_camera = roma.random_rotmat(COUNT)
        self.rotations = pose.repeat(VIEWS, 1, 1, 1)
        self.rotations[:, 0] = to_camera @ self.rotations[:, 0]
        self.skeleton = self.body.skeleton(self.rotations, torch.zeros(COUNT, 10))[:, list(ROWS)].double()
        self.camera = torch.tensor([0.6, 0.1, -0.2]).repeat(COUNT, 1)
        views = tuple(f"cam0{view + 1}" for view in range(VIEWS) for _ in range(MOMENTS))
        joints = from_hips(self.skeleton)
        truth = Truth(
            views,
            tuple(range(MOMENTS)) * VIEWS,
            to_camera.double(),
            joints,
            joints[..., :2],
            0 * joints[..., 0],
            0.9 * joints,
        )
        self.focal = torch.full((COUNT,), 60.0).double()
        self.frames = RealFrames(
            draw=lambda i: Sample(np.full((*SIZE, 3), i, np.uint8), views[i]),
            recording_of=views.__getitem__,
            count=COUNT,
            fps=30.0,
            spec=DataSpec("real-avatar"),
            notes={"convention": "limbs12-hips"},
            size=SIZE,
            keypoints=self.keypoints(),
            truth=truth,
        )

    def keypoints(self) -> Keypoints:
        """By a pinhole camera before which the body's origin stands 2 f / (H s) away."""
        place = torch.tensor([0.1, -0.2, 2 * 60 / (32 * 0.6)]).double()
        seen = self.skeleton + place
        places = 60 * seen[..., :2] / seen[..., 2:] + torch.tensor([12.0, 16.0])
        return Keypoints(places, torch.ones(COUNT, 12, dtype=torch.bool), torch.full((COUNT,), 20.0), self.focal)


class Knowing(nn.Module):
    """Predicts what `change` makes of the true rotations."""

    takes_clips, protect = False, None

    def __init__(self, scene: Scene, change: Any = lambda rotations: rotations) -> None:
        super().__init__()
        self.scene, self.change, self.schedule, self.body = scene, change, Schedule(), scene.body
        self.unused = nn.Parameter(torch.zeros(1))

    @property
    def encoder(self) -> Knowing:
        return self

    def encode(self, crop: Tensor, mask: Tensor | None = None) -> Tensor:
        return ((crop[:, 0, 0, 0] * 0.229 + 0.485) * 255).round().long()

    def read(self, index: Tensor, condition: Tensor | None = None) -> HMROutput:
        rotations, betas = self.change(self.scene.rotations[index].clone()), torch.zeros(len(index), 10)
        return HMROutput(rotations[:, :1], rotations[:, 1:], betas, self.scene.camera[index], betas)

    def forward(self, crop: Tensor, mask: Tensor | None = None, condition: Tensor | None = None) -> HMROutput:
        return self.read(self.encode(crop))


@pytest.fixture
def scene(monkeypatch) -> Scene:
    monkeypatch.setattr(multiview, "read_offsets", lambda: torch.zeros(12, 5, dtype=torch.float64))
    return Scene()


def rows(model: nn.Module, scene: Scene, **given: Any) -> dict[tuple[str, str | None], dict[str, Any]]:
    found = evaluate(model, scene.frames, **given)["rows"]
    json.dumps(found, allow_nan=False)
    return {(row["name"], row["view"]): row for row in found}


def test_whoever_knows_the_truth_makes_no_error(scene):
    found = rows(Knowing(scene), scene)
    assert [key for key in found if key[0] == "model"] == [
        ("model", view) for view in (None, "cam01", "cam02", "cam03")
    ]
    for row in (found["model", None], found["model", "cam02"]):
        for key in ("mpjpe_mm", "pa_mpjpe_mm", "mpjpe_true_root_mm", "accel_mm_per_frame2"):
            assert row[key]["mean"] < 0.01 and row[key]["lo"] is row[key]["hi"] is None
        assert row["root_error_deg"] < 0.05 and row["keypoint_error_share"] < 1e-4 and not row["favoured"]
        assert list(row["per_joint_mm"]) == list(LIMBS) and row["pve_mm"] is None
    assert found["model", None]["disagreement_mm"] < 0.01 and found["model", "cam01"]["disagreement_mm"] is None


def test_a_turned_root_is_all_in_the_root(scene):
    turn = roma.rotvec_to_rotmat(torch.tensor([0.0, 0.7, 0.0]))
    row = rows(Knowing(scene, lambda r: torch.cat((turn @ r[:, :1], r[:, 1:]), 1)), scene)["model", None]
    assert row["root_error_deg"] == pytest.approx(np.degrees(0.7), abs=0.1)
    assert row["mpjpe_true_root_mm"]["mean"] < 0.01 and row["pa_mpjpe_mm"]["mean"] < 0.01
    assert row["mpjpe_mm"]["mean"] > 100 and row["disagreement_mm"] > 100 and row["keypoint_error_share"] > 0.05


def test_a_turn_in_the_world_makes_no_disagreement(scene):
    """Whoever errs in every view alike is not found out by other views."""
    to_camera, turn = scene.frames.truth.rotations.float(), roma.rotvec_to_rotmat(torch.tensor([0.0, 0.0, 0.5]))

    def turned(rotations: Tensor) -> Tensor:
        root = to_camera @ turn @ to_camera.mT @ rotations[:, 0]
        return torch.cat((root[:, None], rotations[:, 1:]), 1)

    row = rows(Knowing(scene, turned), scene)["model", None]
    assert row["disagreement_mm"] < 0.01 and row["mpjpe_mm"]["mean"] > 50


def test_the_mean_pose_under_the_true_root_has_no_disagreement(scene):
    mean = torch.eye(3).expand(24, 3, 3)
    found = rows(Knowing(scene), scene, mean=mean)
    for view in (None, "cam01", "cam03"):
        row = found["mean_pose_true_root", view]
        assert row["root_error_deg"] < 0.05 and row["mpjpe_mm"]["mean"] == pytest.approx(
            row["mpjpe_true_root_mm"]["mean"]
        )
        assert row["mpjpe_mm"]["mean"] > 50 and row["keypoint_error_share"] is None
        model = found["model", view]["mpjpe_mm"]["mean"]
        assert row["paired_mpjpe_mm"]["mean"] == pytest.approx(model - row["mpjpe_mm"]["mean"])
    assert found["mean_pose_true_root", None]["disagreement_mm"] < 0.01


def test_blazepose_is_measured_as_a_predictor_and_marked(scene):
    """Here its joints are nine tenths of the truth: errors are a tenth of the way from the hips, and none is in PA."""
    row = rows(Knowing(scene), scene)["blazepose", None]
    away = 1000 * scene.frames.truth.joints.norm(dim=-1).mean().item()
    assert row["favoured"] and row["mpjpe_mm"]["mean"] == pytest.approx(away / 10)
    assert row["pa_mpjpe_mm"]["mean"] < 0.01 and row["root_error_deg"] < 0.05


def test_all_views_are_the_mean_of_each(scene):
    wrong = Knowing(scene, lambda r: r @ roma.rotvec_to_rotmat(torch.tensor([0.3, 0.0, 0.2])))
    found = rows(wrong, scene)
    for key in ("mpjpe_mm", "pa_mpjpe_mm", "accel_mm_per_frame2"):
        views = [found["model", f"cam0{view}"][key]["mean"] for view in (1, 2, 3)]
        assert found["model", None][key]["mean"] == pytest.approx(np.mean(views))


def test_two_models_are_compared_on_the_same_frames(scene):
    turn = roma.rotvec_to_rotmat(torch.tensor([0.0, 0.7, 0.0]))
    turned = Knowing(scene, lambda r: torch.cat((turn @ r[:, :1], r[:, 1:]), 1))
    found = evaluate(turned, scene.frames, against=Knowing(scene))
    alone = found["rows"][0]["mpjpe_mm"]["mean"]
    assert found["paired"]["mpjpe_mm"] == {"mean": pytest.approx(alone, abs=0.01), "lo": None, "hi": None}


def test_what_compression_measures_is_what_evaluate_does(scene):
    turn = roma.rotvec_to_rotmat(torch.tensor([0.0, 0.7, 0.0]))
    turned = Knowing(scene, lambda r: torch.cat((turn @ r[:, :1], r[:, 1:]), 1))
    original, measured = (scene.frames.measure(model) for model in (Knowing(scene), turned))
    row, found = measured.row(original), rows(turned, scene)
    assert row["mpjpe_mm"] == found["model", None]["mpjpe_mm"] and row["frames_per_s"] > 0
    assert row["mpjpe_rise_mm"] == {"mean": pytest.approx(row["mpjpe_mm"]["mean"], abs=0.01), "lo": None, "hi": None}
    assert [view["clip"] for view in row["per_clip"]] == ["cam01", "cam02", "cam03"]
    assert all(view["mpjpe_mm"] == found["model", view["clip"]]["mpjpe_mm"]["mean"] for view in row["per_clip"])
    assert original.row()["mpjpe_rise_mm"] is None and sum(view["frames"] for view in row["per_clip"]) == COUNT
    json.dumps(row, allow_nan=False)


def test_single_frames_have_no_acceleration(scene):
    object.__setattr__(scene.frames, "fps", None)
    assert rows(Knowing(scene), scene)["model", None]["accel_mm_per_frame2"] is None


def test_what_blazepose_does_not_see_does_not_count(scene):
    keypoints = scene.keypoints()
    keypoints.places[:, 3] += 1000
    keypoints.visible[:, 3] = False
    shares = keypoint_shares(scene.skeleton, scene.camera.double(), keypoints, SIZE)
    assert shares[:, 3].isnan().all() and shares.nanmean() < 1e-6


def test_without_a_focal_length_perspective_is_weak(scene):
    """All points are drawn as far apart as at the depth of the body's origin: s H / 2 pixels a metre."""
    points = scene.skeleton
    places = (points[..., :2] + torch.tensor([0.1, -0.2])) * 0.6 * 16 + torch.tensor([12.0, 16.0])
    visible, box = torch.ones(COUNT, 12, dtype=torch.bool), torch.full((COUNT,), 20.0)
    keypoints = Keypoints(places, visible, box, torch.full((COUNT,), torch.inf).double())
    assert keypoint_shares(points, scene.camera.double(), keypoints, SIZE).max() < 1e-6


def test_people_without_truth_add_a_row_of_two_dimensions(scene):
    flat = RealFrames(
        draw=scene.frames.draw,
        recording_of=lambda i: "sports2d",
        count=COUNT,
        spec=DataSpec("sports2d"),
        size=SIZE,
        keypoints=scene.keypoints(),
    )
    found = evaluate_real(Knowing(scene), scene.frames, flat, None, None, lambda done: None)["rows"]
    assert [row["view"] for row in found].count("sports2d") == 1 and found[-1]["view"] == "sports2d"
    assert set(found[-1]) == set(found[0]) and found[-1]["mpjpe_mm"] is None
    assert found[-1]["keypoint_error_share"] < 1e-4
