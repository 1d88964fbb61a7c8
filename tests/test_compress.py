"""From a recipe to a folder that comes back: the command `compress`, whole."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

import hmr
from compress import Recipe, compress
from compress.context import Context
from compress.pipeline import run_all_steps
from compress.policy import MadeFor, Plan
from hmr import load
from hmr.checkpoints.files import save
from hmr.data.sample import batch
from hmr.models.model import build
from hmr.world.synthetic import open_world
from tests import sizes

TINY = {**sizes.TINY, "depth": 5, "mlp_dim": 32, "head_dim": 16}
HEAD = "schema_version: 1\nname: mine\nsteps:\n"
SEARCH = "  - {policy: merge_layers, strategy: greedy, layers: 3}\n"
GIVEN = "  - {policy: merge_layers, strategy: explicit, windows: [[1, 2]]}\n"
TOKENS = "  - {policy: merge_tokens, keep: 100, per_layer: 60}\n"
ROW = {
    *("step", "changed", "layers", "tokens", "params", "macs", "frames_per_s", "mpjpe_mm", "pa_mpjpe_mm", "pve_mm"),
    *("accel_mm_per_frame2", "protected_merged_share"),
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the weights of a tiny model in it, where the command runs."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save(build("reference", TINY), Path("tiny.safetensors"))
    return tmp_path


def recipe(*steps: str) -> str:
    Path("mine.yaml").write_text(HEAD + "".join(steps))
    return "mine.yaml"


def words(out: str = "out", data: str = "synth", frames: int = 8) -> list[str]:
    what = ["mine.yaml", "--model", "tiny.safetensors", "--data", data]
    return ["compress", *what, "--out", out, "--frames", str(frames)]


def test_from_a_recipe_to_a_model_that_comes_back(fasthmr, place):
    recipe(SEARCH, TOKENS)
    code, out, _ = fasthmr(*words(), "--json")
    assert code == 0
    result = json.loads(out)
    assert result == json.loads(Path("out/result.json").read_text())
    assert [row["step"] for row in result["rows"]] == ["original", "merge_layers", "merge_tokens"]
    assert [row["changed"] for row in result["rows"]] == [False, True, True]
    assert [row["tokens"] for row in result["rows"]] == [[193] * 5, [193] * 3, [133, 101, 101]]  # one of the class
    for before, after in zip(result["rows"], result["rows"][1:], strict=False):
        assert after["macs"]["true"] < before["macs"]["true"] and after["params"] <= before["params"]
    assert all(row.keys() >= ROW for row in result["rows"])
    source = result["provenance"]
    assert source["schema"] == "fasthmr.compress/1"
    assert (source["data"]["split"], source["data"]["frames"]) == ("test", 8)
    assert (source["calib"]["split"], source["calib"]["frames"]) == ("calib", 8)
    assert sorted(path.name for path in Path("out").iterdir()) == [
        *("card.md", "manifest.json", "model.safetensors", "plan.json", "recipe.yaml", "report.html", "result.json")
    ]
    assert not list((place / "home").rglob("*.jsonl"))  # the search is over

    code, out, _ = fasthmr("evaluate", "out", "--data", "synth", "--frames", 8, "--json")
    assert code == 0
    evaluated = json.loads(out)
    assert evaluated["rows"][0]["mpjpe_mm"] == pytest.approx(result["rows"][-1]["mpjpe_mm"])
    assert evaluated["provenance"]["model"]["sha256"] == result["artefact"]["id"]


def test_the_artefact_gives_the_outputs_of_the_model_it_was_saved_from(fasthmr, place, monkeypatch):
    recipe(GIVEN, TOKENS)
    monkeypatch.setenv("FASTHMR_HOME", str(place / "home"))
    made = compress(hmr.load("tiny.safetensors"), Recipe.load("mine.yaml"), test=hmr.frames("synth:test", 4))
    made.save("out")
    samples = [open_world("synth", "val")[i] for i in range(3)]
    given = batch(samples).inputs
    again = load(Path("out"))
    with torch.no_grad():
        one, two = made.model(*given), again(*given)
    for name in ("rotations", "betas", "camera", "features"):
        assert torch.equal(getattr(one, name), getattr(two, name))


def test_narrower_and_of_fewer_bits_comes_back_and_repeats(fasthmr, place):
    narrow = "  - {policy: prune_width, mlp_ratio: 0.5, head_ratio: 0.5}\n"
    recipe(GIVEN, narrow, TOKENS, "  - {policy: precision, dtype: bfloat16}\n")
    results = []
    for out in ("out", "again"):
        code, said, _ = fasthmr(*words(out, frames=6), "--json")
        assert code == 0
        results.append(json.loads(said))
    assert results[0]["artefact"]["id"] == results[1]["artefact"]["id"]
    rows = {row["step"]: row for row in results[0]["rows"]}
    assert list(rows) == ["original", "merge_layers", "prune_width", "merge_tokens", "precision"]
    assert all(row["changed"] for row in list(rows.values())[1:])
    assert rows["prune_width"]["macs"]["true"] < rows["merge_layers"]["macs"]["true"]
    assert rows["precision"]["macs"] == rows["merge_tokens"]["macs"]
    assert len(rows["prune_width"]["measured"]["energy_removed"]) == 4
    assert results[0]["provenance"]["calib"]["split"] == "calib"
    code, said, _ = fasthmr("evaluate", "out", "--data", "synth", "--frames", 6, "--json")
    assert json.loads(said)["rows"][0]["mpjpe_mm"] == pytest.approx(rows["precision"]["mpjpe_mm"])


def test_the_same_recipe_gives_the_same_id_and_another_another(fasthmr, place):
    ids = []
    for i, steps in enumerate([(SEARCH,), (SEARCH,), (GIVEN,)]):
        recipe(*steps)
        code, out, _ = fasthmr(*words(f"out-{i}", frames=6), "--json")
        assert code == 0
        ids.append(json.loads(out)["artefact"]["id"])
    assert ids[0] == ids[1] != ids[2]


def test_no_steps_change_nothing_and_an_empty_plan_says_so(fasthmr, place):
    recipe("  - {policy: merge_layers, threshold_mm: 0}\n", "  - {policy: merge_tokens, keep: 192}\n")
    code, out, _ = fasthmr(*words(frames=4), "--json")
    assert code == 0
    rows = json.loads(out)["rows"]
    tokens = rows[2]
    assert not tokens["changed"] and tokens["mpjpe_rise_mm"] == rows[1]["mpjpe_rise_mm"]
    Path("mine.yaml").write_text(HEAD.replace("steps:", "steps: []"))
    assert fasthmr(*words("same", frames=4))[0] == 0
    same, original = load(Path("same")), load("tiny.safetensors")
    crop = torch.randn(2, 3, 224, 168, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(same(crop).features, original(crop).features)


def test_table_has_a_row_per_step(fasthmr, place):
    recipe(GIVEN, TOKENS)
    code, out, _ = fasthmr(*words(frames=4))
    assert code == 0
    for word in ("original", "merge_layers", "merge_tokens", "synth:test", "seed 0"):
        assert word in out


def test_a_plan_that_changes_nothing_against_its_word_is_a_bug():
    class Lying(Plan):
        @property
        def empty(self) -> bool:
            return False

        def describe(self) -> str:
            return "Nothing is done."

        def shape(self, model):
            return model

    model = build("reference", TINY)
    with pytest.raises(RuntimeError, match="as it was"):
        run_all_steps(model, [Lying(policy="lying", made_for=MadeFor.of(model))], Context(model))


@pytest.mark.parametrize(
    "steps, change, hint",
    [
        ([TOKENS.replace("keep", "kep")], {}, "mine.yaml:4: steps[0].kep: there is no key 'kep'"),
        ([TOKENS.replace("100", "300")], {}, "more than the 192 tokens"),
        ([SEARCH, TOKENS.replace("60", "100").replace("keep: 100", "keep: 50")], {}, "lower per_layer"),
        ([GIVEN.replace("2]", "5]")], {}, "5"),
        ([TOKENS, GIVEN], {}, "put merge_tokens after merge_layers"),
        ([SEARCH.replace("layers: 3", "threshold_mm: -1")], {}, "threshold_mm"),
        ([TOKENS], {"data": "synth:calib"}, "choices are made on this split"),
        ([TOKENS], {"data": "synt"}, "did you mean 'synth'"),
        ([TOKENS], {"out": "full"}, "full"),
        ([TOKENS], {"out": "tiny.safetensors"}, "exists"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_overwritten(fasthmr, place, steps, change, hint):
    recipe(*steps)
    (place / "full").mkdir()
    (place / "full" / "letter.txt").write_text("mine")
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    code, out, err = fasthmr(*words(**change))
    assert (code, out) == (2, "")
    assert hint in err and err.count("\n") == 1 and "Traceback" not in err
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_what_was_compressed_is_not_compressed_again(fasthmr, place):
    recipe(GIVEN)
    assert fasthmr(*words(frames=4))[0] == 0
    code, _, err = fasthmr("compress", "mine.yaml", "--model", "out", "--data", "synth", "--out", "twice")
    assert code == 2 and "compressed already" in err
    content = bytearray(Path("out/model.safetensors").read_bytes())
    content[-1] ^= 1
    Path("out/model.safetensors").write_bytes(content)
    code, _, err = fasthmr("evaluate", "out", "--data", "synth")
    assert code == 2 and "damaged" in err and err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kill_9_leaves_nothing_or_a_whole_artefact(place):
    recipe(SEARCH, TOKENS)
    environment = {**os.environ, "FASTHMR_HOME": str(place / "home"), "PYTHONPATH": str(Path(hmr.__file__).parents[1])}

    def started(name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "experiments.cli", *words(name)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)

    begun = time.monotonic()
    assert started("whole").wait() == 0
    lasts = time.monotonic() - begun
    rng = random.Random(0)
    for i in range(20):
        process = started(f"out-{i}")
        with suppress(subprocess.TimeoutExpired):
            process.wait(lasts * (rng.uniform(0.9, 1.05) if i % 2 else rng.random()))
        process.kill()
        process.wait()
        if Path(f"out-{i}").exists():
            load(Path(f"out-{i}"))
        assert {path.name for path in place.iterdir() if not path.name.startswith(".")} <= {
            *("home", "mine.yaml", "tiny.safetensors", "whole"), *(f"out-{j}" for j in range(i + 1))
        }  # fmt: skip
