from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import roma
import torch
from torch import Tensor, nn

from compress import provenance
from compress.choices import one_of
from compress.errors import BadInput
from compress.policies.precision import Precision
from compress.stack import Schedule
from hmr import load
from hmr.body.files import load_body
from hmr.body.model import JOINT_NAMES
from hmr.checkpoints.files import save
from hmr.data.crop import IMAGE_MEAN, IMAGE_STD
from hmr.data.dataset import DataSpec, Frames, frames_of
from hmr.data.datasets import open_data, parse
from hmr.data.sample import Sample
from hmr.evaluation.depth import depth
from hmr.evaluation.errors import Errors, row
from hmr.evaluation.evaluate import evaluate, mean_rotations
from hmr.models.head import HMROutput
from hmr.models.model import build
from hmr.models.vit import Block
from tests.planning import applied, planned

CPU = torch.device("cpu")


class Labels:
    """Poses of frames whose number stands in their first pixel, of two recordings; `fps` makes them a video."""

    def __init__(self, frames: int = 40, fps: float | None = None):
        torch.manual_seed(0)
        self.fps = fps
        self.notes: dict[str, Any] = {}
        self.rotations = roma.rotvec_to_rotmat(0.4 * torch.randn(frames, 24, 3))
        self.betas = torch.randn(frames, 10)
        self.recordings = [f"clip-{2 * i // frames}" for i in range(frames)]
        self.drawn = 0

    @property
    def frames(self) -> Frames:
        return Frames(self.draw, self.recordings.__getitem__, len(self.betas), self.fps, self.notes)

    def draw(self, index: int) -> Sample:
        self.drawn += 1
        image = np.zeros((256, 192, 3), np.uint8)
        image[0, 0, 0] = index
        labels = {"rotations": self.rotations[index].numpy(), "betas": self.betas[index].numpy()}
        return Sample(image, self.recordings[index], **labels)


class Oracle(nn.Module):
    """Predicts what `change` makes of the truth, which it knows by the frame's number in the first pixel."""

    takes_clips, protect = False, None

    def __init__(self, data: Labels, change=lambda rotations: rotations):
        super().__init__()
        self.data, self.change, self.schedule, self.body = data, change, Schedule(), load_body()
        self.unused = nn.Parameter(torch.zeros(1))

    @property
    def encoder(self):
        return self

    def encode(self, crop: Tensor, mask: Tensor | None = None) -> Tensor:
        return ((crop[:, 0, 0, 0] * IMAGE_STD[0] + IMAGE_MEAN[0]) * 255).round().long()

    def read(self, index: Tensor, condition: Tensor | None = None) -> HMROutput:
        rotations, unused = self.change(self.data.rotations[index].clone()), torch.zeros(len(index), 3)
        return HMROutput(rotations[:, :1], rotations[:, 1:], self.data.betas[index], unused, unused)

    def forward(self, crop: Tensor, mask: Tensor | None = None, condition: Tensor | None = None) -> HMROutput:
        return self.read(self.encode(crop))


def rows(model: nn.Module, data: Labels) -> dict:
    result = evaluate(model, data.frames, mean_rotations(data.frames))
    assert result["frames_per_s"] > 0
    return {row["name"]: row for row in result["rows"]}


def test_whoever_knows_the_truth_makes_no_error():
    row = rows(Oracle(data := Labels()), data)["model"]
    for key in ("mpjpe_mm", "pa_mpjpe_mm", "pve_mm"):
        assert set(row[key]) == {"mean", "lo", "hi"}
        assert row[key]["hi"] < 0.01
    assert row["accel_mm_per_frame2"] is None
    assert list(row["per_joint_mm"]) == list(JOINT_NAMES)


def test_a_turned_root_is_forgiven_by_procrustes_alone():
    turn = roma.rotvec_to_rotmat(torch.tensor([0.0, 0.5, 0.0]))
    row = rows(Oracle(data := Labels(), lambda r: torch.cat((turn @ r[:, :1], r[:, 1:]), 1)), data)["model"]
    assert row["pa_mpjpe_mm"]["mean"] < 0.01
    assert row["mpjpe_mm"]["mean"] > 20


def test_trivial_rows_are_those_of_a_model_that_says_the_mean():
    data = Labels()
    mean = mean_rotations(data.frames)

    def says_mean(rotations: Tensor) -> Tensor:
        return torch.cat((rotations[:, :1], mean[1:].expand(len(rotations), -1, -1, -1)), 1)

    data.betas.zero_()
    found = rows(Oracle(data, says_mean), data)
    assert found["model"]["mpjpe_mm"] == pytest.approx(found["mean_pose_true_root"]["mpjpe_mm"])
    assert found["mean_pose_mean_root"]["mpjpe_mm"]["mean"] > found["mean_pose_true_root"]["mpjpe_mm"]["mean"]
    assert found["mean_pose_mean_root"]["pa_mpjpe_mm"]["mean"] == pytest.approx(
        found["mean_pose_true_root"]["pa_mpjpe_mm"]["mean"], rel=1e-3
    )


def test_clips_and_joints_add_up_to_the_whole():
    row = rows(Oracle(data := Labels(), lambda r: r @ r[:, :1]), data)["model"]
    assert [clip["clip"] for clip in row["per_clip"]] == ["clip-0", "clip-1"]
    assert np.mean([clip["mpjpe_mm"] for clip in row["per_clip"]]) == pytest.approx(row["mpjpe_mm"]["mean"])
    assert np.mean(list(row["per_joint_mm"].values())) == pytest.approx(row["mpjpe_mm"]["mean"])


def test_each_recording_counts_once_and_only_papers_conventions_have_a_mean_over_frames(monkeypatch):
    data = Labels()
    data.recordings = ["long"] * 39 + ["short"]
    found = rows(Oracle(data, lambda r: r @ r[:, :1]), data)["model"]
    long, short = (clip["mpjpe_mm"] for clip in found["per_clip"])
    assert found["mpjpe_mm"]["mean"] == pytest.approx((long + short) / 2) and found["frames_mean"] is None
    data.notes = {"convention": "h36m14-hips"}
    monkeypatch.setattr(sys.modules[evaluate.__module__], "body_for", lambda frames, model: load_body())
    found = rows(Oracle(data, lambda r: r @ r[:, :1]), data)["model"]
    assert found["frames_mean"]["mpjpe_mm"] == pytest.approx((39 * long + short) / 40)
    assert found["frames_mean"]["accel_mm_per_frame2"] is None


def test_acceleration_by_each_frames_own_time():
    """One joint of 24 with 24 m/s^2 in two recordings: second differences over frames as long as their mean."""
    times = torch.tensor([[0.0, 0.03, 0.1, 0.11, 0.3], [0.0, 0.1, 0.15, 0.3, 0.4]], dtype=torch.float64)
    joints = torch.zeros(10, 24, 3, dtype=torch.float64)
    joints[:, 3, 0] = 0.5 * 24 * times.flatten() ** 2
    none, still = torch.zeros(10), torch.zeros_like(joints)
    errors = Errors(torch.zeros(10, 24), none, none, joints, still, none, none)
    names = ["a"] * 5 + ["b"] * 5
    every, seconds = [Sample(np.zeros((), np.uint8), name) for name in names], tuple(times.flatten().tolist())
    frames = Frames(every.__getitem__, names.__getitem__, 10, times=seconds)
    found = row("model", errors, frames)
    wanted = [1000 * 0.075**2, 1000 * 0.1**2]
    assert [clip["accel_mm_per_frame2"] for clip in found["per_clip"]] == pytest.approx(wanted)
    assert found["accel_mm_per_frame2"]["mean"] == pytest.approx(sum(wanted) / 2)
    assert row("model", errors, replace(frames, times=None))["accel_mm_per_frame2"] is None


def test_of_one_recording_means_have_no_interval():
    data = Labels()
    data.recordings = ["alone"] * 40
    found = rows(Oracle(data, lambda r: r @ r[:, :1]), data)["model"]["mpjpe_mm"]
    assert found["mean"] > 20 and found["lo"] is None and found["hi"] is None


def test_acceleration_stays_within_recordings():
    """Two still recordings: whoever sees no motion within each has no error, though between them everything jumps."""
    data = Labels(fps=30.0)
    still = data.rotations[torch.arange(40) // 20]
    data.rotations, data.betas = still, data.betas[:1].expand(40, -1).clone()
    row = rows(Oracle(data), data)["model"]
    assert row["accel_mm_per_frame2"]["hi"] < 0.01
    assert row["per_clip"][0]["accel_mm_per_frame2"] < 0.01


def test_a_model_that_says_nan_is_refused():
    with pytest.raises(BadInput, match="not finite"):
        rows(Oracle(data := Labels(), lambda r: r * torch.nan), data)


def test_two_models_are_compared_on_frames_that_are_drawn_once():
    data = Labels()
    knows, errs = Oracle(data), Oracle(data, lambda r: r @ r[:, :1])
    mean = torch.eye(3).expand(24, 3, 3)
    result = evaluate(knows, data.frames, mean, errs)
    alone = evaluate(errs, data.frames, mean)["rows"][0]["mpjpe_mm"]
    paired = result["paired"]["mpjpe_mm"]
    assert data.drawn == 2 * len(data.betas)  # once for each of the two calls
    assert paired["mean"] == pytest.approx(-alone["mean"], abs=0.01)
    assert paired["lo"] <= paired["mean"] <= paired["hi"] < 0
    assert [row["name"] for row in result["rows"]] == ["model", "mean_pose_true_root", "mean_pose_mean_root"]
    same = evaluate(errs, data.frames, mean, errs)["paired"]["mpjpe_mm"]
    assert same == {"mean": 0.0, "lo": 0.0, "hi": 0.0}


def test_a_block_that_does_nothing_is_worth_nothing():
    torch.manual_seed(0)
    model, data = build("reference-small", {"depth": 3}).eval(), Labels(6)
    idle = model.backbone.blocks[1]
    assert isinstance(idle, Block)
    with torch.no_grad():
        for last in (idle.attn.proj, idle.mlp.fc2):
            last.weight.zero_()
            last.bias.zero_()
        model.smpl_head.decpose.get_parameter("weight").mul_(100)  # a fresh head hardly listens to its tokens
    seen: list[int] = []
    blocks = model.backbone.blocks
    result = depth(model, data.frames, seen.append)
    assert [row["block"] for row in result["rows"]] == [0, 1, 2]
    assert result["rows"][1]["rise_mm"] == {"mean": 0.0, "lo": 0.0, "hi": 0.0}
    assert all(abs(result["rows"][i]["rise_mm"]["mean"]) > 1e-3 for i in (0, 2))
    assert model.backbone.blocks is blocks and seen == [1, 2, 3, 4]
    row = rows(model, data)["model"]["mpjpe_mm"]
    assert result["mpjpe_mm"] == pytest.approx(row, rel=1e-4)


def test_mean_rotation_is_a_rotation_between_two():
    data = Labels(2)
    angles = torch.tensor([[0.2, 0.0, 0.0], [0.6, 0.0, 0.0]])
    data.rotations = roma.rotvec_to_rotmat(angles)[:, None].expand(-1, 24, -1, -1)
    middle = roma.rotvec_to_rotmat(torch.tensor([0.4, 0.0, 0.0]))
    assert torch.allclose(mean_rotations(data.frames), middle.expand(24, 3, 3), atol=1e-6)


def test_truth_of_the_synthetic_world_poses_the_body_as_rendered():
    data, body = open_data(DataSpec("synth", "val"), frames=8), load_body()
    for i in range(8):
        sample = data[i]
        joints = body(torch.tensor(sample.rotations)[None], torch.tensor(sample.betas)[None]).joints[0]
        assert torch.allclose(joints - joints[0], torch.tensor(sample.joints), atol=1e-3)


@pytest.mark.parametrize(
    "text, spec",
    [
        ("synth", DataSpec("synth", "test")),
        ("synth:val", DataSpec("synth", "val")),
        ("synth-video:calib", DataSpec("synth-video", "calib")),
    ],
)
def test_data_is_parsed(text, spec):
    assert parse(text) == spec


@pytest.mark.parametrize(
    "text, hint",
    [
        ("sinth", "did you mean 'synth'"),
        ("synth:tset", "did you mean 'test'"),
        ("synth:", "choose one of train"),
        ("", "choose one of synth"),
        ("synth@folder", "leave '@folder' out"),
    ],
)
def test_wrong_data_is_told(text, hint):
    with pytest.raises(BadInput, match=hint):
        parse(text)


def test_one_of_takes_no_guess():
    assert one_of("a", ["a", "b"], "letter") == "a"
    with pytest.raises(BadInput, match="letter 'x': choose one of a, b"):
        one_of("x", ["a", "b"], "letter")


def test_a_model_file_is_resolved_with_its_hash(tmp_path):
    model = build("reference-small", {"depth": 1})
    path = save(model, tmp_path / "mine.safetensors")
    found = load(path)
    assert len(found.sha256) == 64 and found.base.sha256 == found.sha256 and found.name == str(path)
    assert found.architecture == "reference-small"
    assert not found.training
    for key, value in model.state_dict().items():
        assert torch.allclose(found.state_dict()[key], value, atol=1e-2)


@pytest.mark.parametrize(
    "name, hint",
    [("refrence", "did you mean 'reference'"), ("a/b", "no such file"), ("camerahmr", "from its authors")],
)
def test_unknown_models_are_told(name, hint):
    with pytest.raises(BadInput, match=hint):
        load(name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_precision_is_what_the_blocks_compute_with(dtype):
    model = build("reference-small", {"depth": 1})
    applied(planned(Precision(dtype=dtype), model), model)
    assert provenance.precision_of(model) == dtype


def test_provenance_has_every_key_of_the_contract(tmp_path):
    path = save(build("reference-small", {"depth": 1}), tmp_path / "mine.safetensors")
    drawn = Labels(40, fps=30.0).frames
    spec, notes = DataSpec("synth-video"), {"mask_source": "renderer"}
    data, model = frames_of(list(drawn), drawn.fps, spec=spec, notes=notes), load(path)
    found = provenance.provenance("evaluate", model, CPU, **data.provenance(model))
    keys = ["schema", "commit", "seed", "device", "threads", "precision", "versions", "body", "model", "data"]
    assert list(found) == [*keys, "label_free"]
    assert (found["schema"], found["device"], found["precision"]) == ("fasthmr.evaluate/1", "cpu", "float32")
    assert found["body"]["name"] == "open"
    assert found["data"] == {
        "name": "synth-video",
        "split": "test",
        "frames": 40,
        "clips": 2,
        "fps": 30.0,
        "mask_source": "renderer",
    }
    json.dumps(found)


def test_commit_is_the_checkouts_and_nobody_elses(tmp_path):
    def git(*words: str) -> str:
        told = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *words]
        return subprocess.run(told, check=True, capture_output=True, text=True).stdout.strip()

    inside = tmp_path / "environment"
    inside.mkdir()
    version = provenance.commit(inside)
    git("init")
    git("commit", "--allow-empty", "-m", "first")
    assert provenance.commit(tmp_path.resolve()) == git("rev-parse", "HEAD") != version
    assert provenance.commit(inside) == version  # the repository around an environment is not ours


def test_the_root_is_measured_by_its_angle_and_taken_out():
    """Under the true root a body errs as one whose root was right."""
    data = Labels()
    turn = roma.rotvec_to_rotmat(torch.tensor([0.0, 0.5, 0.0]))
    row = rows(Oracle(data, lambda r: torch.cat((turn @ r[:, :1], r[:, 1:]), 1)), data)["model"]
    assert row["root_error_deg"] == pytest.approx(np.degrees(0.5), abs=0.01)
    assert row["mpjpe_true_root_mm"]["mean"] < 0.01 < 20 < row["mpjpe_mm"]["mean"]
    bent = rows(Oracle(data, lambda r: torch.cat((turn @ r[:, :1], r[:, 1:] @ turn), 1)), data)["model"]
    straight = rows(Oracle(data, lambda r: torch.cat((r[:, :1], r[:, 1:] @ turn), 1)), data)["model"]
    assert bent["mpjpe_true_root_mm"]["mean"] == pytest.approx(straight["mpjpe_mm"]["mean"], rel=1e-4)
