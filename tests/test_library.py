"""The Python of README.md, docs/start.md and docs/deploy.md, run as it stands there, on a few frames."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import hmr
from compress import Compressed
from hmr.data.sample import batch

ROOT = Path(__file__).resolve().parents[1]
COUNTS = {'"synth:calib", 128': '"synth:calib", 4', '"synth:test", 256': '"synth:test", 8'}


def python_of(page: str) -> str:
    (block,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    return block


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTHMR_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def test_the_library_of_the_readme_runs(home):
    text = python_of("README.md")
    for many, few in COUNTS.items():
        assert many in text
        text = text.replace(many, few)
    crops, masks, _ = batch(list(hmr.frames("synth:test", 3))).inputs
    found: dict[str, Any] = {"crops": crops, "masks": masks}
    exec(text, found)
    made, small, out = found["made"], found["small"], found["out"]
    assert isinstance(made, Compressed)
    assert [row["step"] for row in made.rows] == ["original", "merge_layers", "merge_tokens"]
    again, original = made.model(crops, masks), found["model"](crops, masks)
    assert torch.equal(out.rotations, again.rotations) and torch.equal(out.camera, again.camera)
    assert not torch.equal(out.rotations, original.rotations)
    joints, vertices = small.joints(out), small.vertices(out)
    assert joints.shape == (3, 24, 3) and vertices.shape[::2] == (3, 3) and vertices.shape[1] > 1000
    for page in ("docs/start.md", "docs/deploy.md"):  # the latter loads what was saved
        exec(python_of(page), found := {})
        assert found["out"].rotations.shape == (8, 24, 3, 3)
