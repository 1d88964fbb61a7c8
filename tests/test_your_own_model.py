"""docs/your-own-model.md, as a reader follows it: its files in a folder of their own, nothing of fasthmr changed."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from compress import artefact, registry
from compress.errors import BadInput
from compress.policy import MadeFor
from hmr import load
from hmr.checkpoints.files import save
from hmr.models.model import build
from tests import sizes
from tests.planning import planned

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(\w*) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TINY = {**sizes.TINY, "head_dim": 16}


@pytest.fixture
def blocks(tmp_path, monkeypatch) -> Iterator[list[tuple[str, str]]]:
    """(language, text) of each block; those with a name lie under it in the folder that is worked in."""
    found = BLOCK.findall((ROOT / "docs" / "your-own-model.md").read_text())
    for _, name, text in found:
        if name:
            (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    yield [(language, text) for language, _, text in found]
    for name in ("low_rank", "pose"):
        sys.modules.pop(name, None)
    registry.entries.cache_clear()


@pytest.fixture
def modules(blocks, monkeypatch) -> list[tuple[str, str]]:
    """The same, and its files can be imported."""
    monkeypatch.syspath_prepend(".")
    return blocks


def run(*words: str) -> str:
    """What a command says, with the packages of the folder `site` installed."""
    paths = os.pathsep.join((str(Path("site").absolute()), str(ROOT)))
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_commands_know_an_installed_policy(blocks, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTHMR_HOME", str(tmp_path / "home"))
    run("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", "site", ".")
    (command,) = (text.split() for language, text in blocks if not language and "mine.yaml" in text)
    assert command[:3] == ["fasthmr", "compress", "mine.yaml"] and "reference-small" in command
    save(build("reference", TINY), Path("tiny.safetensors"))
    tiny = [word.replace("reference-small", "./tiny.safetensors") for word in command[1:]]
    said = json.loads(run("-m", "experiments.cli", *tiny, "--frames", "4", "--json"))
    assert [row["step"] for row in said["rows"]] == ["original", "merge_tokens", "low_rank"]
    before, after = said["rows"][1:]
    assert after["changed"] and after["macs"]["true"] < before["macs"]["true"] and after["params"] < before["params"]
    with pytest.raises(BadInput, match="no policy 'low_rank' here"):
        load(Path("mine"))
    monkeypatch.syspath_prepend("site")
    registry.entries.cache_clear()
    assert sum(p.numel() for p in load(Path("mine")).parameters()) == after["params"]


def test_the_policy_keeps_the_best_of_its_rank(modules):
    from low_rank import LowRank, nearest  # type: ignore[import-not-found]

    model = build("reference", TINY).eval()
    plan = planned(LowRank(keep=0.5), model)
    assert plan.made_for == MadeFor.of(model) and not plan.empty and planned(LowRank(keep=1.0), model).empty
    layer = cast(Any, model.stack.blocks[0]).mlp.fc1
    pair, x = nearest(layer, 16), torch.randn(5, 32)
    lost = torch.linalg.svdvals(layer.weight.detach())[16:]
    off = pair[1].weight @ pair[0].weight - layer.weight
    assert off.norm().item() == pytest.approx(lost.norm().item(), rel=1e-4)
    torch.testing.assert_close(nearest(layer, 32)(x), layer(x), rtol=1e-4, atol=1e-5)
    assert set(LowRank().knobs()) == {"keep"}


def test_the_architecture_is_compressed_and_comes_back(modules):
    (script,) = (text for language, text in modules if language == "python" and "import pose" in text)
    found: dict = {}
    torch.manual_seed(0)
    exec(script, found)
    made, again, crop = found["made"], found["again"], found["calib"].crops[0]
    assert [plan.policy for plan in made.plans] == ["merge_layers", "merge_tokens"]
    assert [row["layers"] for row in made.rows] == [6, 4, 4]
    assert len(made.model.stack.blocks) == 4 and made.model.encode(crop).x.shape[1] == 24
    assert len(found["model"].stack.blocks) == 6  # the original stays as it was
    with torch.no_grad():
        assert torch.equal(again(crop), made.model(crop)) and again(crop).shape == (4, 17, 2)
    assert artefact.read_manifest(Path("small")).origin.base.architecture == "PoseTransformer"


def test_the_architecture_uncompressed_says_what_its_own_module_says(modules):
    from pose import build  # type: ignore[import-not-found]

    model, crop = build().eval(), torch.randn(2, 3, 128, 96)
    with torch.no_grad():
        torch.testing.assert_close(model(crop), model.module(crop), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_an_adapter_goes_through_every_command(blocks, fasthmr):
    """From a network of transformers to a front, by the commands of the page with less of everything."""
    short = {
        "depth": ["--frames", "4"],
        "compress": ["--frames", "6", "--calib-frames", "4"],
        "evaluate": ["--frames", "6"],
        "bench": ["--rounds", "1", "--batch", "1"],
        "search": ["--trials", "2"],
    }
    for name in ("vit_pose.yaml", "vit_study.yaml"):
        text = Path(name).read_text().replace("minutes: 1", "steps: 2")
        Path(name).write_text(re.sub(r"(calib|val|test): \d+", r"\1: 4", text))
    (text,) = (text for language, text in blocks if not language and "adapter check" in text)
    ran = []
    for line in text.splitlines():
        words = shlex.split(line, comments=True)[1:]
        code, out, err = fasthmr(*words, *short.get(words[0], []), "--json")
        assert code == 0, f"{line}: {err}"
        ran.append((words[0], json.loads(out)))
    said = dict(ran)
    small = said["compress"]["rows"][-1]
    assert small["layers"] == 5 and small["tokens"][-1] == 33 and small["mpjpe_mm"]["mean"] > 0
    (again,) = said["evaluate"]["rows"]
    assert again["mpjpe_mm"]["mean"] == pytest.approx(small["mpjpe_mm"]["mean"], rel=1e-4)
    assert said["report"]["front"] and Path("vit-front/report.html").is_file()
    path = [*Path("vit_pose.py").read_text().splitlines(), *Path("vit_study.yaml").read_text().splitlines()]
    assert len([line for line in path if line.strip()]) + len(["search", "report"]) <= 30


def test_frames_that_lack_what_a_step_asks_for_are_named(modules):
    import pose

    from compress import Recipe, compress

    steps = "  - {policy: merge_tokens, keep: 40, per_layer: 8, protect: none}\n  - {policy: recover, steps: 1}\n"
    recipe = Recipe.parse(f"schema_version: 1\nname: mine\nsteps:\n{steps}", "mine.yaml")
    with pytest.raises(BadInput, match=r"asks for pictures\(model\), which Crops does not have"):
        compress(pose.build().eval(), recipe, calib=pose.Crops([torch.randn(2, 3, 128, 96)]))
