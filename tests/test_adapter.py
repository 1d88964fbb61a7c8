"""A network of a user's own as MODEL, through the commands, against what it gives when it is called as it is."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import hmr
from compress import artefact
from compress.errors import BadInput
from compress.policies.recover import Recover
from compress.recipe import Recipe
from hmr.adapters.adapted import PlacedJoints
from hmr.adapters.adapter import named
from hmr.video.frames import Film
from tests.adapters import FILE
from tests.films import film, two

RECIPE = """schema_version: 1
name: own
steps:
  - {policy: merge_layers, strategy: greedy, layers: 3}
  - {policy: merge_tokens, keep: 24, per_layer: 12, protect: mask}
  - {policy: recover, steps: 2}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Where my_adapter.py is, and pictures of noise with a person in the middle of each mask."""
    rng = np.random.default_rng(0)
    person = np.zeros((64, 48), np.uint8)
    person[8:56, 16:32] = 255
    for name in ("pictures", "masks"):
        (tmp_path / name).mkdir()
    for i in range(8):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 6, 3), dtype=np.uint8))
        coarse.resize((48, 64)).save(tmp_path / "pictures" / f"{i}.png")
        Image.fromarray(person).save(tmp_path / "masks" / f"{i}.png")
    (tmp_path / "my_adapter.py").write_text(FILE)
    (tmp_path / "own.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def crops_of(frames: Any, mean: Any, std: Any) -> Tensor:
    """Crops (B, 3, H, W) of frames, normalised here."""
    images = torch.from_numpy(np.stack([sample.image for sample in frames])).double() / 255
    wanted = (images - torch.tensor(mean, dtype=torch.double)) / torch.tensor(std, dtype=torch.double)
    return wanted.permute(0, 3, 1, 2).float()


def by_imagenet(frames: Any) -> Tensor:
    return crops_of(frames, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def frames_of(model: Any, **more: Any) -> Any:
    return hmr.frames("frames:test@pictures", model=model, masks="masks", label_free=True, **more)


@torch.no_grad()
def test_the_model_is_the_network_with_its_own_normalisation(folder):
    model = hmr.load("my_adapter.py")
    frames = frames_of(model)
    said, module = model(by_imagenet(frames)), model.module
    wanted = module(crops_of(frames, (0.5,) * 3, (0.5,) * 3)).unflatten(1, (5, 3))
    assert isinstance(said, PlacedJoints) and torch.equal(model.joints(said), said.joints)
    torch.testing.assert_close(said.joints, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(said.outputs["pose"], wanted.flatten(1), rtol=1e-4, atol=1e-4)


def compressed(fasthmr: Any, *more: object) -> dict[str, Any]:
    words = ["compress", "own.yaml", "--model", "my_adapter.py", "--data", "frames@pictures", "--masks", "masks"]
    code, out, err = fasthmr(*words, "--label-free", "--out", "small", "--json", *more)
    assert code == 0, err
    result: dict[str, Any] = json.loads(out)
    return result


def test_it_is_compressed_and_errors_are_distances_between_its_joints(fasthmr, folder):
    result = compressed(fasthmr)
    first, layers, tokens, recovered = result["rows"]
    assert first["mpjpe_mm"]["mean"] == pytest.approx(0, abs=0.01) and first["pve_mm"] is None
    assert (layers["layers"], tokens["tokens"][-1]) == (3, 25)
    assert (
        result["provenance"]["recover"]["name"] == "frames"
        and "<h2>Bodies" not in Path("small/report.html").read_text()
    )

    original, small = hmr.load("my_adapter.py"), hmr.load("small", adapter="my_adapter.py")
    frames = frames_of(original)
    masks = torch.from_numpy(np.stack([sample.mask for sample in frames]))
    with torch.no_grad():
        found = [model(by_imagenet(frames), masks).joints for model in (original, small)]
    one, two = (joints - joints[:, :1] for joints in found)
    by_hand = 1000 * (one - two).norm(dim=-1).mean().item()
    assert by_hand > 0.01 and recovered["mpjpe_mm"]["mean"] == pytest.approx(by_hand, rel=1e-3)

    words = ["evaluate", "small", "--adapter", "my_adapter.py", "--against", "my_adapter.py", "--label-free", "--json"]
    code, out, err = fasthmr(*words, "--data", "frames@pictures", "--masks", "masks")
    assert code == 0, err
    (row,) = json.loads(out)["rows"]
    assert row["mpjpe_mm"]["mean"] == pytest.approx(by_hand, rel=1e-3) and row["mpjpe_true_root_mm"] is None
    assert [*row["per_joint_mm"]] == [f"joint {i:03}" for i in range(5)]
    assert sum(row["per_joint_mm"].values()) / 5 == pytest.approx(by_hand, rel=1e-3)


def test_an_artefact_has_no_code_and_runs_that_of_its_adapter_alone(fasthmr, folder):
    compressed(fasthmr)
    assert not [*Path("small").rglob("*.py*")]
    recorded = artefact.read_manifest(Path("small")).origin.base.sizes
    assert recorded["adapter"] == "my_adapter.py" and recorded["licence"] == "MIT"
    assert recorded["sha256"] == artefact.sha256(Path("my_adapter.py").read_bytes())
    Path("other.py").write_text(FILE + "\nopen('was-run', 'w').close()\n")
    asked = ["cost", "small", "--json"]
    for words, said in (([], "--adapter my_adapter.py"), (["--adapter", "other.py"], "other.py is another adapter")):
        code, _, err = fasthmr(*asked, *words)
        assert code == 2 and said in err, err
    assert not Path("was-run").exists()
    Path("moved.py").write_text(FILE)  # the same file under another name
    code, out, err = fasthmr(*asked, "--adapter", "moved.py")
    assert code == 0, err
    assert json.loads(out)["layers"] == 3


def test_a_package_is_named_as_well_as_a_file(fasthmr, folder, monkeypatch):
    Path("mine_installed.py").write_text(FILE)
    monkeypatch.syspath_prepend(".")
    one, other = (named(name) for name in ("mine_installed:Mine", "my_adapter.py"))
    assert one.sha256 == other.sha256 and type(one.adapter).__name__ == "Mine"
    assert fasthmr("cost", "mine_installed:Mine", "--json")[0] == 0
    for name, said in (("mine_installed:Other", "one class that is"), ("no_such_thing:Mine", "no such package")):
        with pytest.raises(BadInput, match=said):
            named(name)
    sys.modules.pop("mine_installed", None)


CORNER = """
    def crops(self, frame, box):
        left, top = round(box[0]), round(box[1])
        return frame[top : top + CROP[0], left : left + CROP[1]]
"""


def test_crops_are_cut_as_the_adapter_cuts_them_and_masks_with_them(folder):
    Path("corner.py").write_text(FILE + CORNER)
    model = hmr.load("corner.py")
    Path("pictures/boxes.csv").write_text(
        "name,left,top,right,bottom\n" + "".join(f"{i}.png,5,9,40,60\n" for i in range(8))
    )
    frames = frames_of(model)
    names = sorted(Path("pictures").glob("*.png"))[-len(frames) :]  # test comes last
    for sample, path in zip(frames, names, strict=True):
        whole = np.asarray(Image.open(path))
        assert np.array_equal(sample.image, whole[9:41, 5:29])
        shown = np.asarray(Image.open(Path("masks") / path.name))[9:41, 5:29]
        assert np.array_equal(sample.mask, shown > 127) and sample.mask.any() and not sample.mask.all()


def test_each_block_is_left_out_without_labels(fasthmr, folder):
    code, out, err = fasthmr("depth", "my_adapter.py", "--data", "frames@pictures", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["mpjpe_mm"]["mean"] == 0 and len(result["rows"]) == 4
    assert all(row["rise_mm"]["mean"] > 0 for row in result["rows"])


def test_cost_counts_its_parts(fasthmr, folder):
    code, out, err = fasthmr("cost", "my_adapter.py", "--json")
    assert code == 0, err
    result, model = json.loads(out), hmr.load("my_adapter.py")
    parts = {part["name"]: part["params"] for part in result["parts"]}
    assert parts["module.head"] == sum(p.numel() for p in model.module.head.parameters())
    assert result["params"] == sum(parts.values()) == sum(p.numel() for p in model.parameters())
    assert result["latency_ms"]["median"] > 0 and "body" not in parts
    assert [row["name"] for row in result["stacks"]] == ["encoder", "rest"]
    assert sum(row["macs"]["true"] for row in result["stacks"]) == result["macs"]["true"]
    assert sum(row["time_share"] for row in result["stacks"]) == pytest.approx(1)


@pytest.mark.parametrize(
    "words, said",
    [
        ("evaluate my_adapter.py --data synth:test --frames 2", "--label-free"),
        (
            "evaluate my_adapter.py --data frames@pictures --label-free --against reference-small",
            "that adapter's alone",
        ),
        ("evaluate my_adapter.py --data real --label-free --against my_adapter.py", "real is cut for models of known"),
        ("train decoder --model my_adapter.py --out o --steps 1", "is an adapter"),
        ("cost none.py", "none.py: there is no such file"),
        ("cost empty.py", "empty.py: one class that is a hmr.Adapter is looked for there, and there are none"),
        ("cost broken.py", "broken.py: cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        ("cost lacking.py", "lacking.py: Mine has no read"),
    ],
)
def test_what_cannot_be_is_a_sentence(fasthmr, folder, words, said):
    Path("empty.py").write_text("import hmr\n")
    Path("broken.py").write_text("import nowhere\n")
    Path("lacking.py").write_text(FILE.replace("def read", "def reads"))
    code, out, err = fasthmr(*words.split())
    assert code == 2 and said in err and not out, err


def test_a_run_writes_the_joints_of_each_person_as_the_network_gives_them(fasthmr, folder):
    film(Path("walk.mp4"), 12)
    rows = "".join(f"{i},a,{x - 8},{y - 12},{x + 8},{y + 12}\n" for i in range(12) for _, x, y in two(i)[:1])
    Path("people.csv").write_text("frame,id,x1,y1,x2,y2\n" + rows)
    Path("corner.py").write_text(FILE + CORNER)
    words = ("run", "walk.mp4", "--model", "corner.py", "--people", "people.csv", "--out", "out", "--json")
    code, out, err = fasthmr(*words)
    assert code == 0, err
    (track,), model = json.loads(out)["tracks"], hmr.load("corner.py")
    with np.load(Path("out") / track["file"]) as file:
        joints, boxes = file["joints_m"], file["box_px"]
    assert joints.shape == (12, 5, 3) and track["frames"] == 12
    for i, shot in enumerate(Film(Path("walk.mp4")).shots()):
        left, top = (round(v) for v in boxes[i][:2])
        crop = torch.from_numpy(shot.image[top : top + 32, left : left + 24].copy()).permute(2, 0, 1)[None]
        with torch.no_grad():
            wanted = model.module((crop / 255 - 0.5) / 0.5).unflatten(1, (5, 3))[0]
        np.testing.assert_allclose(joints[i], wanted.numpy(), rtol=1e-3, atol=1e-3)
    assert json.loads(fasthmr(*words)[1])["skipped"]
    code, _, err = fasthmr(*words[:-2], "other", "--glb")
    assert code == 2 and "--glb: an adapter gives joints and no bodies" in err


def test_inspect_tells_of_an_adapter_and_a_card_its_licence(fasthmr, folder):
    code, out, err = fasthmr("inspect", "my_adapter.py", "--json")
    assert code == 0, err
    result = json.loads(out)
    said = {name: result[name] for name in ("architecture", "licence", "tokens", "head_needs")}
    assert said == {"architecture": "Mine", "licence": "MIT", "tokens": 48, "head_needs": "tokens"}
    assert result["sizes"] == {"depth": 4, "dim": 32, "crop": [32, 24]} and result["missing"] == []
    compressed(fasthmr)
    assert "made from: MIT. The code" in Path("small/card.md").read_text()
    words = ["compress", "own.yaml", "--model", "small", "--data", "frames@pictures", "--label-free", "--out", "again"]
    code, _, err = fasthmr(*words)
    assert code == 2 and "small was compressed already" in err
    code, _, err = fasthmr("attach", "none.safetensors", "small", "--out", "o")
    assert code == 2 and "this model's adapter gives joints alone" in err


def test_a_budget_is_a_recipe_that_runs_again(fasthmr, folder):
    words = ["--model", "my_adapter.py", "--data", "frames@pictures", "--masks", "masks", "--label-free", "--json"]
    code, out, err = fasthmr("compress", *words, "--budget", 0.6, "--out", "half")
    assert code == 0, err
    rows = json.loads(out)["rows"]
    assert 0.3 < rows[-1]["macs"]["true"] / rows[0]["macs"]["true"] <= 0.6
    code, again, err = fasthmr("compress", "half/recipe.yaml", *words, "--out", "again")
    assert code == 0, err
    assert json.loads(again)["artefact"]["id"] == json.loads(out)["artefact"]["id"]
    code, out, err = fasthmr("compress", *words, "--budget", 0.6, "--recover-minutes", 0.02, "--out", "recovered")
    assert code == 0, err
    found = Recipe.load(Path("recovered/recipe.yaml")).steps
    assert found == (*Recipe.load(Path("half/recipe.yaml")).steps, Recover(minutes=0.02))
    wrong = {"name a RECIPE, or --budget": (), "not both": ("own.yaml", "--budget", 0.5), "a share": ("--budget", 1.5)}
    wrong |= {"goes with --budget": ("own.yaml", "--recover-minutes", 1)}
    wrong |= {"--recover-minutes 0: more than 0": ("--budget", 0.6, "--recover-minutes", 0)}
    for said, more in wrong.items():
        code, _, err = fasthmr("compress", *more, *words, "--out", "none")
        assert code == 2 and said in err, err


def test_what_is_run_is_what_was_hashed_and_nothing_is_written_beside_it(folder):
    before = sorted(path.name for path in folder.iterdir())
    first = named("my_adapter.py")
    Path("my_adapter.py").write_text(FILE.replace("MIT", "XXX"))
    second = named("my_adapter.py")
    assert (first.adapter.licence, second.adapter.licence) == ("MIT", "XXX") and first.sha256 != second.sha256
    assert sorted(path.name for path in folder.iterdir()) == before
