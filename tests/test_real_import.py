"""`fasthmr data import pose2sim`: a wheel of small videos of a known scene, seen by networks that know it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.atomic import atomic_folder
from compress.errors import BadInput
from hmr.body.limbs import LIMBS
from hmr.data.real_people.importing import CALIBRATION, VIDEOS, import_pose2sim
from hmr.data.real_people.manifest import read_manifest
from hmr.data.real_people.offsets import LIMB_LANDMARKS
from hmr.data.real_people.people import LOST, followed, matched, people_in
from hmr.data.real_people.recording import load_recording
from hmr.data.real_people.silver import LIMB_POINTS, silver, spread
from tests.cameras import four
from tests.real_wheel import FRAMES, MAN, WOMAN, Finder, picture, seen, write_wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return write_wheel(tmp_path_factory.mktemp("wheel") / "pose2sim-1.whl")


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    path = tmp_path / "home"
    monkeypatch.setenv("FASTHMR_HOME", str(path))
    return path


def test_a_wheel_becomes_two_recordings(wheel, home, monkeypatch):
    """The man, and the woman although a camera misses her; with the places that made the videos; twice the same
    bytes."""
    folder = import_pose2sim(wheel, (Finder(), Finder()))
    assert folder == home / "real"
    manifest = read_manifest(folder, "fasthmr data import")
    assert manifest["source"]["version"] == "1" and manifest["source"]["licence"] == "BSD-3-Clause"
    assert (folder / "LICENSE").read_text() == "BSD 3-Clause License"
    for name, person in (("real", MAN), ("real-avatar", WOMAN)):
        found = load_recording(folder / f"{name}.npz")
        joints = person[:, LIMB_LANDMARKS]
        assert (
            found.fps == 25 and found.points.shape == (4, FRAMES, 16, 3) and found.masks.shape == (4, FRAMES, 256, 256)
        )
        assert (found.points[:, :, LIMB_POINTS] - joints).norm(dim=-1).max() < 0.005
        assert found.error.max() < 0.005 and found.masks[0, 0, 100, 100] and not found.masks[0, 0, 0, 0]
        assert (found.cameras.centre - four().centre).abs().max() < 0.1
        assert found.cameras[1].project(joints[3]) == pytest.approx(found.pixels[1, 3][LIMB_LANDMARKS], abs=0.1)
        figures = manifest["sets"][name]
        assert figures["frames"] == FRAMES and figures["median_residual_px"]["refined_principal_points"] < 0.1
        assert set(LIMBS) <= set(figures["error_mm"]) and max(figures["held_out"]["median_px"]) < 3
    again = home.parent / "other"
    monkeypatch.setenv("FASTHMR_HOME", str(again))
    import_pose2sim(wheel, (Finder(), Finder()))
    for path in sorted(folder.iterdir()):
        assert (again / "real" / path.name).read_bytes() == path.read_bytes(), path.name
    assert sorted(path.name for path in home.iterdir()) == ["real"]  # nothing half-made is left beside it


def test_a_failed_import_leaves_what_was_there(home):
    (home / "real").mkdir(parents=True)
    (home / "real" / "old").write_text("old")
    with pytest.raises(RuntimeError), atomic_folder(home / "real", replace=True) as folder:
        (folder / "new").write_text("half")
        raise RuntimeError
    assert [path.name for path in home.rglob("*") if path.is_file()] == ["old"]
    with atomic_folder(home / "real", replace=True) as folder:
        (folder / "new").write_text("whole")
    assert [path.name for path in home.rglob("*") if path.is_file()] == ["new"]


def test_another_wheel_is_refused(wheel, home, tmp_path):
    finder = Finder(), Finder()
    for left_out, words in ((CALIBRATION, "holds no"), ("METADATA", "holds no METADATA"), (VIDEOS[2], "0.10.49")):
        other = tmp_path / "other.whl"
        with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(other, "w") as target:
            for name in source.namelist():
                if not name.endswith(left_out):
                    target.writestr(name, source.read(name))
        with pytest.raises(BadInput, match=words):
            import_pose2sim(other, finder)
    with zipfile.ZipFile(other, "w") as target:
        target.writestr("a-1.dist-info/METADATA", "Name: A\nVersion: 1\n")
        target.writestr("a-1.dist-info/LICENSE", "")
    with pytest.raises(BadInput, match=r"a wheel of a: .*0\.10\.49"):
        import_pose2sim(other, finder)
    other.write_bytes(b"PK no zip")
    with pytest.raises(BadInput, match="not a wheel"):
        import_pose2sim(other, finder)
    assert not home.exists()


def test_changed_files_are_noticed(home):
    folder = home / "real"
    with pytest.raises(BadInput, match="make it by fasthmr data import"):
        read_manifest(folder, "fasthmr data import")
    folder.mkdir(parents=True)
    (folder / "a").write_bytes(b"a")
    good = {
        "schema": "fasthmr.real/1",
        "files": {"a": "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"},
    }
    for facts, words in (
        (good, None),
        ({**good, "schema": "fasthmr.real/0"}, "another version"),
        ({}, "not a manifest"),
    ):
        (folder / "manifest.json").write_text(json.dumps(facts))
        if words is None:
            assert read_manifest(folder, "x") == good
        else:
            with pytest.raises(BadInput, match=words):
                read_manifest(folder, "x")
    (folder / "manifest.json").write_text(json.dumps(good))
    (folder / "a").write_bytes(b"b")
    with pytest.raises(BadInput, match="damaged or changed"):
        read_manifest(folder, "x")


def test_people_are_told_apart():
    """Each camera sees both in an order of its own; one misses the woman, two see somebody else far away."""
    cameras = four()
    stranger = MAN[0] + torch.tensor([9.0, 9.0, 0.0], dtype=torch.float64)
    man, woman, other = ([seen(person, cameras[v]) for v in range(4)] for person in (MAN[0], WOMAN[0], stranger))
    found = matched([[woman[0], man[0], other[0]], [man[1], woman[1]], [man[2]], [other[3], man[3], woman[3]]], cameras)
    assert len(found) == 2
    assert all(one is other for one, other in zip(found[0], man, strict=True))
    assert all(one is other for one, other in zip(found[1], [*woman[:2], None, woman[3]], strict=True))
    assert matched([[man[0]], [man[1]], [woman[2]], []], cameras) == []


def test_a_view_that_has_lost_its_person_finds_them_again():
    """The third camera starts on the woman; from the first picture on it follows the man."""
    moments = [[picture(moment, view, 1) for view in range(4)] for moment in range(FRAMES)]
    squares = [seen(MAN[0], four()[view]).square for view in range(4)]
    squares[2] = seen(WOMAN[0], four()[2]).square
    found = list(followed(moments, four(), squares, Finder()))
    for moment, views in enumerate(found):
        for view, one in enumerate(views):
            assert one.pixels == pytest.approx(four()[view].project(MAN[moment]).numpy())
    assert np.hypot(*np.subtract(squares[2].centre, found[0][2].next.centre)) > LOST * squares[2].side


def test_a_view_without_a_person_is_filled_from_the_others():
    pictures = [picture(0, view, 1) for view in range(4)]
    people = people_in(pictures, four(), Finder(), Finder())
    assert len(people) == 2
    expected = seen(WOMAN[0], four()[2]).pixels
    assert people[1][2].centre == pytest.approx(expected[[23, 24]].mean(0))
    assert 0.5 < people[1][2].side / seen(WOMAN[0], four()[2]).square.side < 1.5


def test_truth_of_a_view_is_not_of_its_own_making():
    """One camera errs by 12 pixels: that is in the truth of the others, and in its own hardly, by principal points."""
    pixels = torch.stack([four()[view].project(MAN.flatten(0, 1)).view(FRAMES, 33, 2) for view in range(4)])
    pixels[1] += 12 * torch.randn(FRAMES, 33, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    visibility = torch.ones(pixels.shape[:3], dtype=torch.float64)
    found = silver(four(), pixels, visibility, 25.0)
    off = (found.points[:, :, LIMB_POINTS] - MAN[:, LIMB_LANDMARKS]).norm(dim=-1).mean((1, 2))
    assert off[1] < 0.5 * off[[0, 2, 3]].min()
    given, refined = found.figures["median_residual_px"].values()
    assert refined <= given


def test_the_jackknife_of_a_mean_is_its_standard_error():
    """Of the mean of V values whose leave-one-out means are given: deviation / sqrt(V), coordinate by coordinate."""
    values = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    held = (values.sum(0) - values) / 4
    assert spread(held).item() == pytest.approx((values.std(0) / 5**0.5).norm().item())


def test_the_command_names_what_is_missing(fasthmr, wheel):
    code, out, err = fasthmr("data", "import", "pose2sim", wheel)
    assert code == 2 and not out and "fasthmr masks import" in err
    code, _, err = fasthmr("data", "import", "pose3sim", wheel)
    assert code == 2 and "pose2sim" in err
