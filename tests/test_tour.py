"""docs/tour.ipynb: its cells run in order, as a notebook runs them, and say what their comments promise."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from hmr.models.head import HMROutput

TOUR = Path(__file__).resolve().parents[1] / "docs/tour.ipynb"
CELLS = json.loads(TOUR.read_text())["cells"]


def test_it_has_ten_cells_and_nothing_that_they_printed():
    assert len(CELLS) == 10 and len({cell["id"] for cell in CELLS}) == 10
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in CELLS)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_its_cells_run_in_order(monkeypatch, tmp_path, capsys):
    matplotlib.use("agg")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    names: dict = {}
    for cell in CELLS:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    said = capsys.readouterr().out
    first, *_, last = names["made"].rows
    assert last["macs"]["true"] < first["macs"]["true"] and f"{last['mpjpe_mm']['mean']:.1f} mm" in said
    assert isinstance(names["after"], HMROutput) and 0 < names["moved"] < 100
    assert (names["folder"] / "manifest.json").is_file()
    assert {len(frame.unique()) for frame in names["tokens"].source} == {130}
    original, compressed = names["bodies"]
    assert original.shape == compressed.shape and np.any(original != compressed)
    assert len(names["figure"].axes) == 4
