"""Compression judged without labels: errors against distances computed by hand from two models' outputs."""

from __future__ import annotations

import json

import av
import numpy as np
import pytest
import torch
from PIL import Image

from hmr import load
from hmr.body.files import load_body
from hmr.checkpoints import files as checkpoints
from hmr.checkpoints.files import save
from hmr.data.crop import normalised
from hmr.data.masks import MaskFiles
from hmr.data.pictures import open_pictures
from hmr.data.sample import known
from hmr.models.families.camerahmr import letterboxed
from hmr.models.model import build

RECIPE = """schema_version: 1
name: own
steps:
  - {policy: merge_layers, strategy: greedy, layers: 5}
  - {policy: merge_tokens, keep: 120, per_layer: 40, protect: PROTECT}
  - {policy: recover, steps: 2}
"""


@pytest.fixture
def folder(tmp_path):
    """Eight pictures of noise, and masks of a person in the middle of each."""
    rng = np.random.default_rng(0)
    for name in ("pictures", "masks"):
        (tmp_path / name).mkdir()
    person = np.zeros((64, 48), np.uint8)
    person[8:56, 16:32] = 255
    for i in range(8):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 6, 3), dtype=np.uint8))
        coarse.resize((48, 64)).save(tmp_path / "pictures" / f"{i}.png")
        Image.fromarray(person).save(tmp_path / "masks" / f"{i}.png")
    return tmp_path / "pictures"


def tiny(architecture: str, path, **sizes):
    """A file with a small model whose answers differ from picture to picture."""
    torch.manual_seed(0)
    small = {"dim": 16, "depth": 8, "heads": 2, "mlp_dim": 16, "head_dim": 16, "head_depth": 1, "head_mlp_dim": 16}
    model = build(architecture, {**small, **sizes}).eval()
    with torch.no_grad():
        model.head.decpose.get_parameter("weight").mul_(30)
        if hasattr(model, "fov_net"):
            model.get_parameter("fov_net.fc3.bias").fill_(1.0)
    return save(model, path)


def error_by_hand(folder, masks, original, compressed, *condition) -> float:
    """Mean distance in mm between the joints of two models on the pictures that report, pelvis on pelvis."""
    side = original.family.box.side
    pictures = open_pictures(folder, "test", None, side, original.crop_size, MaskFiles(masks))
    crops = normalised(torch.from_numpy(np.stack([p.image for p in pictures])))
    shown, body = torch.from_numpy(np.stack([known(p.mask, "masks") for p in pictures])), load_body()
    joints = []
    with torch.no_grad():
        for model in (original, compressed):
            said = model(crops, shown, *condition)
            posed = body(said.rotations, said.betas).joints
            joints.append(posed - posed[:, :1])
    return 1000 * (joints[0] - joints[1]).norm(dim=-1).mean().item()


def recipe(tmp_path, protect: str):
    file = tmp_path / "own.yaml"
    file.write_text(RECIPE.replace("PROTECT", protect))
    return file


def asked(folder, tmp_path, protect: str, *more, model: object = "reference-small") -> list:
    data = f"frames@{folder}"
    words = ["compress", recipe(tmp_path, protect), "--model", model, "--data", data, "--label-free"]
    return [*words, "--out", tmp_path / "out", "--json", *more]


def test_errors_are_distances_to_the_original_on_the_users_pictures(fasthmr, folder, tmp_path):
    masks = tmp_path / "masks"
    code, out, err = fasthmr(*asked(folder, tmp_path, "mask", "--masks", masks))
    assert code == 0, err
    result = json.loads(out)
    first, layers, tokens, recovered = result["rows"]
    assert first["mpjpe_mm"]["mean"] == pytest.approx(0, abs=0.01)
    assert (layers["layers"], tokens["tokens"][-1]) == (5, 121)
    source = result["provenance"]
    assert (source["recover"]["name"], source["recover"]["split"]) == ("frames", "calib")
    assert source["label_free"] and source["data"]["frames"] == 2 and source["calib"]["frames"] == 4
    assert source["data"]["mask_source"] == "files in masks" and source["data"]["boxes"] == "mask"
    assert "Errors are distances to the original model" in (tmp_path / "out" / "card.md").read_text()
    html = (tmp_path / "out" / "report.html").read_text()
    assert all(f"distance to the original{on}, mm" in html for on in ("", " on calib"))
    assert "Fidelity, as the distance to the original model" in html and "MPJPE on calib" not in html

    by_hand = error_by_hand(folder, masks, load("reference-small"), load(tmp_path / "out"))
    assert by_hand > 0.01
    assert recovered["mpjpe_mm"]["mean"] == pytest.approx(by_hand, rel=1e-3)

    words = ["evaluate", tmp_path / "out", "--data", f"frames@{folder}", "--masks", masks, "--label-free", "--json"]
    code, out, err = fasthmr(*words, "--against", "reference-small")
    assert code == 0, err
    found = json.loads(out)
    assert found["rows"][0]["mpjpe_mm"]["mean"] == pytest.approx(by_hand, rel=1e-3)
    assert found["provenance"]["label_free"] == "reference-small" and "paired" not in found


def test_camerahmr_is_told_how_each_crop_lies(fasthmr, folder, tmp_path):
    """In the middle of its picture here, 48 of 64 pixels high, before a camera that the field-of-view network finds."""
    masks, file = tmp_path / "masks", tiny("camerahmr", tmp_path / "model.safetensors", fov_width=2)
    code, out, err = fasthmr(*asked(folder, tmp_path, "mask", "--masks", masks, model=file))
    assert code == 0, err
    rows = json.loads(out)["rows"]
    assert rows[0]["mpjpe_mm"]["mean"] == pytest.approx(0, abs=0.01) and rows[-1]["step"] == "recover"

    original = checkpoints.load(file)
    seen = [np.asarray(Image.open(folder / f"{i}.png")) for i in (6, 7)]
    with torch.no_grad():
        fov = original.get_submodule("fov_net")(normalised(letterboxed(torch.from_numpy(np.stack(seen)))))[:, 1]
    assert fov.std() > 0
    condition = torch.stack([torch.zeros(2), torch.zeros(2), 48 / 64 * 2 * torch.tan(fov / 2)], 1)
    by_hand = error_by_hand(folder, masks, original, load(tmp_path / "out"), condition)
    assert by_hand > 0.01
    assert rows[-1]["mpjpe_mm"]["mean"] == pytest.approx(by_hand, rel=1e-3)


def test_without_masks_nothing_is_said_of_the_person(fasthmr, folder, tmp_path):
    file = tiny("hmr2", tmp_path / "model.safetensors")
    code, out, err = fasthmr(*asked(folder, tmp_path, "none", model=file))
    assert code == 0, err
    result = json.loads(out)
    assert result["rows"][2]["tokens"][-1] == 120
    assert {row["protected_merged_share"] for row in result["rows"]} == {None}
    data = result["provenance"]["data"]
    assert (data["mask_source"], data["left_out"], data["path"]) == ("none", 0, str(folder))
    assert "masks: none" in (tmp_path / "out" / "card.md").read_text()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "there are no person masks" in page and f"frames:test@{folder} --frames 2 --label-free" in page
    code, out, _ = fasthmr(
        "evaluate", tmp_path / "out", "--data", f"frames@{folder}", "--label-free", "--against", file
    )
    assert code == 0 and "masks: none" in out


def test_models_that_these_pictures_do_not_suit_say_why(fasthmr, folder, tmp_path):
    for architecture, sizes, told in (
        ("camerahmr", {"fov_width": 0}, "--cam-model"),
        ("hamer", {}, "https://mano.is.tue.mpg.de"),
    ):
        file = tiny(architecture, tmp_path / f"{architecture}.safetensors", **sizes)
        for words in (asked(folder, tmp_path, "none", model=file),
                      ["evaluate", file, "--data", f"frames@{folder}", "--label-free", "--against", file]):  # fmt: skip
            code, out, err = fasthmr(*words)
            assert (code, out) == (2, "") and told in err
    assert not (tmp_path / "out").exists()


def test_who_is_not_seen_is_not_measured(fasthmr, folder, tmp_path):
    """Boxes beside the pictures, masks of too few, a video without either: one sentence, and no figure."""
    masks, video = tmp_path / "masks", tmp_path / "walk.mp4"
    for i in (6, 7):
        (masks / f"{i}.png").unlink()
    with av.open(str(video), "w") as file:
        stream = file.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        file.mux([*stream.encode(av.VideoFrame(64, 48, "yuv420p")), *stream.encode()])
    tables = {"beside": "x,y,w,h\n" + "".join(f"{i}.png,500,500,9,9\n" for i in range(8)), "odd": "a,b,c,d\n"}
    for table, data, more, told in (
        ("", folder, ["--masks", masks], "in 2 of 2 places nobody is seen for sure (2 have no mask: 6.png, 7.png)"),
        ("", video, [], "it is not known where people are in this video: write walk.mp4.boxes.csv beside it"),
        ("beside", folder, [], "in 2 of 2 places nobody is seen for sure (2 have their box outside of the picture"),
        ("odd", folder, [], "boxes.csv: the column 'a' of its header is not known: leave it out; columns are name"),
    ):
        if table:
            (folder / "boxes.csv").write_text(f"name,{tables[table]}")
        words = ["--data", f"frames@{data}", "--label-free", "--against", "reference-small", *more]
        code, out, err = fasthmr("evaluate", "reference-small", *words)
        assert (code, out) == (2, "") and told in err.splitlines()[-1]


def test_what_needs_a_mask_or_a_label_says_so(fasthmr, folder, tmp_path):
    data = f"frames@{folder}"
    for words, told in (
        (asked(folder, tmp_path, "mask"), "no masks: give --masks"),
        (["evaluate", "reference-small", "--data", data], "--label-free"),
        (["evaluate", "reference-small", "--data", data, "--label-free"], "--against"),
        (["evaluate", "reference-small", "--data", "synth", "--masks", "blazepose"], "exact masks of its own"),
        (["evaluate", "reference-small", "--data", "frames", "--label-free", "--against", "reference"], "frames@PATH"),
        (["data", "preview", "--data", data, "--out", tmp_path / "sheet.png"], "no labels"),
    ):
        code, out, err = fasthmr(*words)
        assert (code, out) == (2, "") and told in err
    assert not (tmp_path / "out").exists()
