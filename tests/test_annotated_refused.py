"""3DPW, EMDB and the npz of other code bases: every mistake is a sentence, and nothing of a file runs."""

from __future__ import annotations

import json
import os
import pickle
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.errors import BadInput
from hmr import load
from hmr.checkpoints.safe_pickle import read_arrays, read_pickle
from hmr.data.annotated.readers import read
from hmr.data.datasets import open_data, parse
from hmr.evaluation.measure import body_for
from tests import annotated
from tests import hostile_bodies as hook
from tests.annotated import (
    Calls,
    write_3dpw,
    write_emdb,
    write_npz,
)
from tests.campaign.apart import apart

bodies, home, weights = annotated.bodies, annotated.home, annotated.weights  # fixtures


def test_every_mistake_is_one_sentence(fasthmr, home, weights, tmp_path, monkeypatch):
    def told(data: str, words: str, of_a_table: str = "") -> None:
        asked = (("evaluate", weights), words), (("paper", "tab12", "--model", weights), of_a_table or words)
        for command, wanted in asked:
            code, out, err = fasthmr(*command, "--data", data)
            assert (code, out) == (2, ""), err
            assert wanted in err and err.count("\n") == 1 and "Traceback" not in err, err

    root, emdb = tmp_path / "3DPW", tmp_path / "EMDB"
    write_3dpw(root)
    write_emdb(emdb)
    told("3dpw", "name the folder that 3dpw lies in")
    told(f"3dpw@{tmp_path}/nowhere", "no such folder")
    told(f"3dpw@{tmp_path}", "holds 3DPW's sequenceFiles and imageFiles")
    told(f"3dpw:val@{root}", "sequenceFiles/validation is not a folder")
    told(f"emdb@{root}", "holds EMDB's P0 to P9")
    told(f"emdb:calib@{emdb}", "EMDB is a test set alone", "emdb:calib: choices are made on this split")
    told(f"3dpw:tset@{root}", "did you mean 'test'")
    told(f"3dpw@{root}/imageFiles/street_00/image_00000.jpg", "a 3dpw_test*.npz")
    file = root / "sequenceFiles" / "test" / "street_05.pkl"
    held = pickle.loads(file.read_bytes())
    for changed, words in (
        ({"campose_valid": None}, "street_05.pkl: 'campose_valid' is missing"),
        ({"poses": [np.zeros((3, 66))]}, "street_05.pkl: 'poses' has shape (3, 66), which has to be (3, 72)"),
        ({"poses": [np.full((3, 72), np.nan)]}, "street_05.pkl: 'rotations' of a frame that counts as valid"),
        ({"genders": ["x"]}, "gender 'x'"),
        ({"cam_poses": "none"}, "'cam_poses' does not hold numbers"),
        ({"betas": [Calls(os.system, "true")]}, "street_05.pkl: wants to run or build posix.system"),
    ):
        file.write_bytes(pickle.dumps({**held, **changed}, protocol=2))
        told(f"3dpw@{root}", words)
    file.unlink()
    told(f"3dpw@{root}", "holds 23 of the 24 sequences of 3DPW")
    file.write_bytes(pickle.dumps(held, protocol=2))
    (root / "imageFiles" / "street_07" / "image_00001.jpg").unlink()
    told(f"3dpw@{root}", "street_07.pkl: 1 of the 3 pictures that it annotates are missing")
    (root / "imageFiles").rename(root / "elsewhere")
    told(f"3dpw@{root}", "street_00.pkl: 3 of the 3 pictures that it annotates are missing")
    sequence = emdb / "P1" / "03_walk" / "P1_03_walk_data.pkl"
    kept = pickle.loads(sequence.read_bytes())
    sequence.write_bytes(pickle.dumps({key: value for key, value in kept.items() if key != "emdb1"}))
    told(f"emdb@{emdb}", "P1_03_walk_data.pkl: 'emdb1' is missing")
    sequence.write_bytes(pickle.dumps({**kept, "emdb1": False}))
    told(f"emdb@{emdb}", "holds 16 of the 17 sequences of EMDB 1")
    sequence.write_bytes(pickle.dumps(kept))
    monkeypatch.setenv("FASTHMR_HOME", str(tmp_path / "empty"))
    told(f"emdb@{emdb}", f"looked at {tmp_path}/empty/bodies/smpl/body.npz. Register at https://smpl.is.tue.mpg.de")


def test_a_missing_regressor_is_named(home, weights, tmp_path, monkeypatch):
    path, _ = write_npz(tmp_path, "camerahmr")
    data, model = open_data(parse(f"3dpw@{path}")), load(weights)
    monkeypatch.setenv("FASTHMR_HOME", str(tmp_path))
    (tmp_path / "bodies").symlink_to(home / "bodies")
    with pytest.raises(BadInput, match=r"looked at .*regressors/J_regressor_h36m\.npy; it comes with"):
        body_for(data, model)
    (tmp_path / "regressors").mkdir()
    for content, words in ((np.zeros((17, 6890)), "do not sum to one"), (np.ones((14, 6890)), "not weights of shape")):
        np.save(tmp_path / "regressors" / "J_regressor_h36m.npy", content)
        with pytest.raises(BadInput, match=words):
            body_for(data, model)


def test_other_npz_are_refused(tmp_path):
    path, held = write_npz(tmp_path, "camerahmr")
    for changed, words in (
        ({"imgname": np.array(["../../etc/passwd"] * 6)}, "outside the data set"),
        ({"imgname": np.array([*held["imgname"][:5], "imageFiles/none.jpg"])}, "1 of the 6 pictures"),
        ({"gender": np.array(["m"])}, "'gender' is missing or not one for each"),
        ({"pose_cam": np.zeros((6, 66))}, "SMPL has 72"),
        ({"scale": np.zeros(6)}, "above zero"),
        ({"center": np.zeros((5, 2))}, "'center' has shape"),
    ):
        np.savez(path, **{**held, **changed})  # type: ignore[arg-type]  # numpy's stubs take every name for a flag
        with pytest.raises(BadInput, match=words):
            read("3dpw", "test", path)
    np.savez(path, poses=np.zeros(3))
    with pytest.raises(BadInput, match="neither 4D-Humans' nor CameraHMR's"):
        read("3dpw", "test", path)
    for split, file in (("calib", path), ("test", write_npz(tmp_path, "camerahmr", "rich_test.npz")[0])):
        with pytest.raises(BadInput, match="for the split test alone"):
            read("3dpw", split, file)


def watched(names: list[str]) -> None:
    """Print what each file says when it is read, and what the hook saw."""
    with suppress(BadInput):
        read_pickle(Path("/no/such/file"))  # what is imported on first use
    sys.addaudithook(hook.watch)
    out = {}
    for name in names:
        hook.seen.clear()
        hook.watching = True
        try:
            said = str((read_arrays if name.endswith("z") else read_pickle)(Path(name)).get("n"))
        except BadInput as error:
            said = str(error)
        except RuntimeError:
            said = "ran"
        hook.watching = False
        out[name] = [said, list(hook.seen)]
    json.dump(out, sys.stdout)


def test_hostile_annotations_run_nothing(tmp_path):
    mark = tmp_path / "mark"
    touch = Calls(os.system, f"touch {mark}")
    deep: list[Any] = []
    for _ in range(40):
        deep = [deep, deep]  # 2 ** 40 lists if each reference were followed
    ring: list[Any] = []
    ring.append(ring)
    np.savez(tmp_path / "object.npz", imgname=np.array([touch, 1], dtype=object))
    files_ = {
        "poses.pkl": ({"poses": [touch]}, "system"),
        "smpl.pkl": ({"smpl": {"betas": touch}}, "system"),
        "array.pkl": ({"genders": np.array(["m", touch], dtype=object)}, "system"),
        "eval.pkl": ({"emdb1": Calls(eval, f"open({str(mark)!r}, 'w')")}, "eval"),
        "deep.pkl": ({"poses": deep}, "lists in lists"),  # an array of them would write each out
        "ring.pkl": ({"ring": ring, "n": 7}, "7"),
    }
    for name, (held, _) in files_.items():
        (tmp_path / name).write_bytes(pickle.dumps(held, protocol=2))
    names = [str(tmp_path / name) for name in (*files_, "object.npz")]
    done = apart(lambda: watched(names), tmp_path)
    assert done.code == 0, done.said
    outcomes = json.loads(done.out)
    for name in names:
        words = files_.get(Path(name).name, (None, "system"))[1]
        assert words in outcomes[name][0] and outcomes[name][1] == [], (name, outcomes[name])
    assert not mark.exists()
