"""Commands on 3DPW and EMDB: choices on one split, results on another, masks and the camera."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compress.errors import BadInput
from hmr.checkpoints.files import save
from hmr.data.datasets import open_data, parse
from hmr.data.sample import known
from hmr.models.model import build
from tests import annotated
from tests.annotated import (
    FOCAL,
    HEIGHT,
    WIDTH,
    write_3dpw,
    write_emdb,
)

bodies, home, weights = annotated.bodies, annotated.home, annotated.weights  # fixtures


def masks_of(root: Path, missing: Iterable[str]) -> Path:
    """Masks of all pictures of an EMDB folder but those whose paths begin so."""
    person, folder = np.zeros((HEIGHT, WIDTH), np.uint8), root / "masks"
    person[20:50, 12:26] = 255
    for picture in sorted(root.glob("P*/*/images/*.jpg")):
        name = picture.relative_to(root)
        if not name.as_posix().startswith(tuple(missing)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(person).save((folder / name).with_suffix(".png"))
    return folder


def test_compress_decides_on_train_and_reports_on_test(fasthmr, home, weights, tmp_path):
    for split in ("train", "test"):
        write_3dpw(tmp_path, split)
    recipe = tmp_path / "own.yaml"
    recipe.write_text(
        "schema_version: 1\nname: own\nsteps:\n  - {policy: merge_tokens, keep: 150, per_layer: 42, protect: none}\n"
    )
    words = ("compress", recipe, "--model", weights, "--data", f"3dpw@{tmp_path}", "--frames", 4, "--json")
    code, out, err = fasthmr(*words, "--out", tmp_path / "out")
    assert code == 0, err
    source = json.loads(out)["provenance"]
    assert source["data"]["split"] == "test" and source["data"]["convention"] == "h36m14-hips"
    assert "joints and pelvis: h36m14-hips" in (tmp_path / "out" / "card.md").read_text()
    code, out, err = fasthmr("compress", recipe, "--model", weights, "--data", f"emdb@{tmp_path}", "--out", "x")
    assert (code, out) == (2, "") and "is a test set alone, and compressing makes choices on calib too" in err


def test_a_table_on_emdb_decides_elsewhere_and_stands_beside_the_papers(fasthmr, home, weights, tmp_path):
    write_emdb(tmp_path)
    words = ("paper", "tab2", "--model", weights, "--data", f"emdb@{tmp_path}", "--frames", 20, "--calib-frames", 3)
    code, out, err = fasthmr(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "is a test set alone" in err and "--calib synth" in err
    code, out, err = fasthmr(*words, "--calib", "synth", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["rows"][0]["paper"] == {"mpjpe_mm": 73.3, "layers": 32} and found["paper_model"] == "CameraHMR"
    source = found["provenance"]
    assert (source["data"]["convention"], source["data"]["split"]) == ("smpl24-hips", "test")
    assert (source["calib"]["name"], source["calib"]["split"], source["calib"]["frames"]) == ("synth", "calib", 3)
    printed = fasthmr(*words, "--calib", "synth")[1]
    assert "CameraHMR in" in printed and "73.3" in printed
    deep = save(build("reference-small", {"depth": 3}), tmp_path / "deep.safetensors")
    code, out, err = fasthmr("paper", "tab11", "--model", deep, *words[4:], "--calib", "synth")
    assert (code, out) == (2, "") and "these pictures have no masks: give --masks" in err


def test_a_table_on_3dpw_decides_on_its_training_sequences(fasthmr, home, weights, tmp_path):
    for split in ("train", "test"):
        write_3dpw(tmp_path, split)
    words = ("paper", "tab2", "--model", weights, "--data", f"3dpw@{tmp_path}", "--frames", 4, "--calib-frames", 3)
    code, out, err = fasthmr(*words, "--json")
    assert code == 0, err
    found = json.loads(out)
    source = found["provenance"]
    assert (source["data"]["name"], source["data"]["split"], source["calib"]["name"]) == ("3dpw", "test", "3dpw")
    assert source["calib"]["split"] != "test" and source["data"]["convention"] == "h36m14-hips"
    assert found["rows"][0]["mpjpe_mm"]["mean"] > 0 and found["sentence"]


def test_masks_are_cut_out_with_their_pictures(home, tmp_path):
    write_emdb(tmp_path)
    folder = masks_of(tmp_path, ("P0/00_walk", "P1/02_walk/images/00000"))
    Image.new("L", (WIDTH, HEIGHT)).save(folder / "P8" / "16_walk" / "images" / "00003.png")
    data = open_data(parse(f"emdb@{tmp_path}", masks=str(folder)))
    seen = [data[i] for i in range(8)]
    assert [bool(known(sample.mask, "masks").any()) for sample in seen] == [False] * 3 + [True] * 4 + [False]
    assert data.notes["without_mask"] is None and data.notes["mask_source"] == "files in masks"
    for _ in range(2):  # a frame that is drawn again is counted once
        assert len(list(data)) == 67
        assert (data.notes["without_mask"], data.notes["empty_masks"], data.notes["full_masks"]) == (4, 1, 0)


def test_more_than_half_of_all_masks_have_to_be_there(home, tmp_path):
    write_emdb(tmp_path)
    folder = masks_of(tmp_path, [f"P{i}" for i in range(5)])
    with pytest.raises(BadInput, match=r"in 39 of 67 places nobody is seen for sure \(39 have no mask: P0/00_walk"):
        open_data(parse(f"emdb@{tmp_path}", masks=str(folder)))
    for picture in sorted(tmp_path.glob("P[0-4]/*/images/*.jpg")):
        mask = (folder / picture.relative_to(tmp_path)).with_suffix(".png")
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (WIDTH, HEIGHT)).save(mask)
    with pytest.raises(BadInput, match=r"in 34 of 67 places .* \(34 have an empty mask"):  # as soon as it is known
        list(open_data(parse(f"emdb@{tmp_path}", masks=str(folder))))


def test_the_camera_of_a_data_set_tells_how_a_crop_lies(home, tmp_path):
    write_emdb(tmp_path)
    sample = open_data(parse(f"emdb@{tmp_path}"))[0]
    side = max(48, 22 * 4 / 3)
    assert sample.bbox_info is not None
    np.testing.assert_allclose(sample.bbox_info, np.array([19 - 24, 34 - 32, side]) / FOCAL, rtol=1e-6)
