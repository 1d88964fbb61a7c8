"""`fasthmr adapter check`: what holds of a network, and of each thing that does not, a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compress.errors import BadInput
from hmr.adapters.adapter import named
from hmr.adapters.check import checked
from tests.adapters import FILE


@pytest.fixture
def folder(tmp_path, monkeypatch) -> None:
    (tmp_path / "my_adapter.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)


def test_what_holds_of_an_adapter_is_told(fasthmr, folder):
    code, out, err = fasthmr("adapter", "check", "my_adapter.py", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert [*result["proved"]] == ["blocks", "crops", "joints", "read", "order", "prefix", "grid", "batch"]
    assert "1 tokens before 48 patches" in result["proved"]["prefix"] and result["licence"] == "MIT"


GRID = """
    head_needs = "grid"

    def forward(self, model, crops, masks):
        x = model.vit(crops)[:, 1:]
        return {"pose": model.head(x[:, 7] - 0.5 * x[:, 20])}

    def read(self, model, tokens):
        x = tokens.to_grid().flatten(2).transpose(1, 2)
        return {"pose": model.head(x[:, 7] - 0.5 * x[:, 20])}
"""


@pytest.mark.parametrize(
    "more, said",
    [
        (GRID, None),
        (GRID.replace("tokens.to_grid().flatten(2).transpose(1, 2)", "tokens.x[:, 1:]"), "order of merged tokens"),
        (GRID.replace("tokens.to_grid()", "tokens.x[:, 1:].mT.reshape(-1, 32, 8, 6)"), "cannot take merged tokens"),
        ("    def read(self, model, tokens):\n        return {'pose': model.head(tokens.x.mean(1))}\n", "other joints"),
        ("    def joints(self, outputs):\n        return 1000 * outputs['pose'].unflatten(1, (5, 3))\n", "millimetres"),
        ("    def joints(self, outputs):\n        return outputs['pose']\n", "are \\(B, J, 3\\) metres"),
        (
            "    def joints(self, outputs):\n        x = outputs['pose'].unflatten(1, (5, 3))\n"
            "        return x - x[:1]\n",
            "frames beside it",
        ),
        ("    def crops(self, frame, box):\n        return frame / 255\n", "crops\\(frame, box\\)"),
        ("    blocks = 'vit.norms'\n", "name its list of blocks"),
    ],
)
def test_what_does_not_hold_is_told(folder, more, said):
    Path("changed.py").write_text(FILE + more)
    if said is None:
        assert "8 x 6" in checked(named("changed.py"))["grid"]
        return
    with pytest.raises(BadInput, match=said):
        checked(named("changed.py"))
