"""Curves of trainings: what a resumed run wrote twice counts once, and the weights given are those of least loss."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compress.errors import BadInput
from experiments.paper.curves import curve, drawn
from experiments.reports import plots


def looks(folder: Path, *rows: tuple[int, float, float]) -> Path:
    folder.mkdir()
    lines = [json.dumps({"step": step, "loss": loss, "mpjpe_mm": mm}) for step, loss, mm in rows]
    (folder / "curve.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "training.json").write_text('{"steps": 300}')
    return folder


def test_a_curve_gives_the_first_of_the_least_losses(tmp_path):
    found = curve(looks(tmp_path / "run", (25, 0.9, 118.0), (50, 0.7, 119.0), (50, 0.7, 119.0), (75, 0.7, 117.0)))
    assert [found[key] for key in ("asked_steps", "steps", "chosen")] == [300, 75, 50]
    assert [found[key] for key in ("first_mm", "chosen_mm", "last_mm")] == [118.0, 119.0, 117.0]
    assert [look["step"] for look in found["curve"]] == [25, 50, 75]
    assert plots.svg(drawn([found])).startswith("<svg")


def test_a_folder_without_a_curve_is_told(tmp_path):
    with pytest.raises(BadInput, match=r"curve\.jsonl: no such file; name folders"):
        curve(tmp_path)
