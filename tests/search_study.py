"""A study on a tiny model, the folder it lies in, and commands that run there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from experiments.cli import main as cli
from experiments.search import storage
from experiments.search import workers as search
from experiments.search.study import parsed
from hmr.checkpoints.files import save
from hmr.models.model import build
from tests import sizes

TINY = {**sizes.TINY, "depth": 5, "mlp_dim": 32, "head_dim": 16}
STUDY = """\
schema_version: 1
name: tiny
model: tiny.safetensors
data: synth
frames: {calib: 4, val: 4, test: 4}
steps:
  - {policy: merge_layers, strategy: greedy, layers: 4}
  - {policy: prune_width, mlp_ratio: 0.5}
  - {policy: merge_tokens, keep: 100, per_layer: 48}
space:
  merge_layers.layers: [2, 5]
  prune_width.mlp_ratio: [0.0, 0.5, 0.25]
  prune_width.head_ratio: [0.0, 0.0]
  merge_tokens.keep: [96, 192, 48]
  merge_tokens.per_layer: [48, 48]
  merge_tokens.start: [0, 3]
rivals: [other.safetensors]
recover: {points: 1, steps: 1}
"""
BASELINES = ["original", "merge_layers alone", "prune_width alone", "merge_tokens alone", "all steps", "FastHMR"]
TRIALS = 12


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Path]:
    """A folder with two tiny models and a study."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("FASTHMR_HOME", str(folder / "home"))
        patch.delenv("FASTHMR_MOCAP", raising=False)
        patch.setattr("hmr.evaluation.measure.RECOVERY_FRAMES", 2)  # thousands take a minute to open
        for i, name in enumerate(("tiny", "other")):
            torch.manual_seed(i)
            save(build("reference", TINY), Path(f"{name}.safetensors"))
        Path("tiny.yaml").write_text(STUDY)
        yield folder


@pytest.fixture
def run(place, capsys, monkeypatch):
    """Run the command in that folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(place)

    def command(*words: object) -> tuple[int | str | None, str, str]:
        monkeypatch.setattr(sys, "argv", ["fasthmr", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    return command


def small(name: str, *changes: tuple[str, str]) -> search.SearchJob:
    text = STUDY.replace("name: tiny", f"name: {name}").replace("rivals: [other.safetensors]\n", "")
    text = text.replace("recover: {points: 1, steps: 1}\n", "")
    for change in changes:
        text = text.replace(*change)
    Path(f"{name}.yaml").write_text(text)
    return search.SearchJob(parsed(text, f"{name}.yaml"), storage.default_storage(name), 3)
