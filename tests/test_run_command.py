"""`fasthmr run`: what it writes, prints and refuses."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import hmr
from compress import Recipe, compress
from hmr.cluster import ALONE
from hmr.media.shot import Shot
from hmr.models.model import build
from hmr.video.jobs.job import RunJob
from tests.films import Squares, film, two
from tests.test_label_free import tiny

BOXES = "frame,id,x1,y1,x2,y2\n"


@pytest.fixture
def walk(tmp_path) -> Path:
    return film(tmp_path / "walk.mp4", 12)


@pytest.fixture
def weights(tmp_path) -> Path:
    path = tmp_path / "tiny.safetensors"
    torch.manual_seed(0)
    save_file(build("reference", {"depth": 3, "head_depth": 1}).state_dict(), path)
    return path


@pytest.fixture
def boxes(tmp_path) -> Path:
    rows = [
        f"{i},{'ab'[j]},{x - 8},{y - 12},{x + 8},{y + 12}\n" for i in range(12) for j, (_, x, y) in enumerate(two(i))
    ]
    path = tmp_path / "people.csv"
    path.write_text(BOXES + "".join(rows))
    return path


def test_a_video_and_a_file_of_boxes_give_tracks_and_a_table_of_stages(fasthmr, walk, weights, boxes, tmp_path):
    words = ("run", walk, "--model", weights, "--people", boxes, "--out", tmp_path / "out")
    code, out, _ = fasthmr(*words, "--json", "--fov", 40, "--csv", "--glb")
    found = json.loads(out)
    assert code == 0 and [track["frames"] for track in found["tracks"]] == [12, 10]
    assert found["camera"]["focal_px"] == pytest.approx(48 / np.tan(np.radians(20)))
    assert found["provenance"]["schema"] == "fasthmr.run/1" and found["peak_memory_bytes"] > 1e7
    assert {"joints.csv", "track-1.glb", "track-2.npz", "run.json"} <= {p.name for p in (tmp_path / "out").iterdir()}
    code, out, err = fasthmr(*words, "--fov", 40, "--csv", "--glb")
    assert code == 0 and "was finished before" in out and "encoder blocks" in out
    code, _, err = fasthmr(*words)
    assert code == 2 and "another camera" in err and err.count("\n") == 1


def test_a_folder_of_videos_is_a_folder_for_each(fasthmr, weights, boxes, tmp_path):
    (tmp_path / "films").mkdir()
    for name in ("a.mp4", "b.mp4"):
        film(tmp_path / "films" / name, 6)
    words = ("run", tmp_path / "films", "--model", weights, "--people", boxes, "--out", tmp_path / "out", "--json")
    code, out, _ = fasthmr(*words)
    assert code == 0 and [Path(one["out"]).name for one in json.loads(out)["videos"]] == ["a.mp4", "b.mp4"]
    film(tmp_path / "films" / "c.mp4", 6)
    videos = json.loads(fasthmr(*words)[1])["videos"]
    assert [one.get("skipped", False) for one in videos] == [True, True, False]


def test_one_bad_video_does_not_stop_the_others(fasthmr, weights, boxes, tmp_path):
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "a.mp4").write_bytes(b"no video")
    film(tmp_path / "films" / "b.mp4", 6)
    words = ("run", tmp_path / "films", "--model", weights, "--people", boxes, "--out", tmp_path / "out", "--json")
    code, out, err = fasthmr(*words)
    found = json.loads(out)
    assert code == 2 and "1 of 2 videos could not be read: a.mp4" in err
    assert [Path(one["out"]).name for one in found["videos"]] == ["b.mp4"] and list(found["refused"]) == ["a.mp4"]


def test_live_lines_are_what_the_files_of_a_run_have(fasthmr, walk, weights, boxes, tmp_path):
    words = ("run", walk, "--model", weights, "--people", boxes, "--fov", 40, "--json")
    assert fasthmr(*words, "--out", tmp_path / "whole")[0] == 0
    code, out, _ = fasthmr(*words, "--out", tmp_path / "live", "--live")
    found = json.loads(out)
    assert code == 0 and found["latency_frames"] == 0 and found["latency_s"]["median"] > 0 and found["people"] == [1, 2]
    lines = [json.loads(line) for line in (tmp_path / "live" / "live.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(12))
    assert [len(line["people"]) for line in lines] == [2] * 10 + [1] * 2
    track = np.load(tmp_path / "whole" / "track-1.npz")
    assert [line["people"][0]["box_px"] for line in lines] == track["box_px"].round(1).tolist()
    last = np.array(lines[-1]["people"][0]["joints_coco_m"])
    assert np.abs(last - track["joints_coco_m"][-1]).max() < 0.02  # the shape is the mean so far
    assert fasthmr(*words, "--out", tmp_path / "live", "--live")[0] == 2


def test_cameras_give_the_world(fasthmr, walk, weights, boxes, tmp_path):
    np.savez(tmp_path / "still.npz", rotation=np.tile(np.eye(3), (12, 1, 1)), translation=np.tile([0, 0, 2.0], (12, 1)))
    words = ("run", walk, "--model", weights, "--people", boxes, "--out", tmp_path / "out")
    assert fasthmr(*words, "--camera", tmp_path / "still.npz")[0] == 0
    with np.load(tmp_path / "out" / "track-1.npz") as track:
        assert track["world_joints_m"] == pytest.approx(track["joints_m"] - [0, 0, 2], abs=1e-4)
    code, _, err = fasthmr(*words, "--camera", tmp_path / "nothing.npz")
    assert code == 2 and "nothing.npz" in err


@pytest.mark.slow
def test_ray_shares_videos_out_among_workers(fasthmr, weights, boxes, tmp_path, monkeypatch):
    """Two workers on this machine, and one video that is none; what was finished before is left alone."""
    for name, value in ALONE.items():  # as `shared_out` does, before Ray is imported, which reads them once
        monkeypatch.setenv(name, value)
    import ray

    addresses = set[str]()
    end = ray.shutdown

    def shutdown() -> None:
        addresses.update(node["NodeManagerAddress"] for node in ray.nodes())
        end()

    monkeypatch.setattr(ray, "shutdown", shutdown)
    (tmp_path / "films").mkdir()
    for name in ("a.mp4", "b.mp4"):
        film(tmp_path / "films" / name, 6)
    (tmp_path / "films" / "c.mp4").write_bytes(b"no video")
    words = ("run", tmp_path / "films", "--model", weights, "--people", boxes, "--json")
    assert fasthmr(*words, "--out", tmp_path / "one")[0] == 2
    code, out, err = fasthmr(*words, "--out", tmp_path / "two", "--engine", "ray")
    found = json.loads(out)
    assert code == 2 and list(found["refused"]) == ["c.mp4"] and "1 of 3 videos" in err
    for name in ("a.mp4", "b.mp4"):
        one, other = (np.load(tmp_path / kind / name / "track-1.npz")["joints_m"] for kind in ("one", "two"))
        assert one == pytest.approx(other, abs=1e-4)
    again = json.loads(fasthmr(*words, "--out", tmp_path / "two", "--engine", "ray")[1])
    assert all(one["skipped"] for one in again["videos"]) and addresses == {"127.0.0.1"}


def test_a_job_goes_to_another_process_as_it_is():
    job = RunJob(model="reference", people="a.csv", focal=9.0, outputs=("csv",))
    assert RunJob.model_validate_json(job.model_dump_json(), strict=False) == job and job.end == math.inf


def test_ray_that_is_missing_is_told(fasthmr, walk, weights, boxes, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ("run", walk, "--model", weights, "--people", boxes, "--out", tmp_path / "out", "--engine", "ray")
    code, _, err = fasthmr(*words)
    assert code == 2 and "pip install 'fasthmr[ray]'" in err


def test_a_recipe_compresses_on_the_way(fasthmr, walk, weights, boxes, tmp_path):
    recipe = tmp_path / "short.yaml"
    step = "{policy: merge_layers, strategy: explicit, windows: [[1, 2]]}"
    recipe.write_text(f"schema_version: 1\nname: short\nsteps:\n  - {step}\n")
    words = ("run", walk, "--model", weights, "--people", boxes, "--json")
    whole, short = (
        json.loads(fasthmr(*words, "--out", tmp_path / name, *more)[1])
        for name, more in (("whole", ()), ("short", ("--recipe", recipe)))
    )
    assert [track["id"] for track in short["tracks"]] == [track["id"] for track in whole["tracks"]]
    one, other = (np.load(tmp_path / name / "track-1.npz")["body_pose"] for name in ("whole", "short"))
    assert np.abs(one - other).max() > 1e-3
    code, _, err = fasthmr(*words, "--out", tmp_path / "no", "--recipe", "fasthmr-reference")
    assert code == 2 and "fasthmr compress" in err and not (tmp_path / "no").exists()


def test_an_artefact_moves_people_as_its_recipe_on_the_way_does(fasthmr, walk, weights, boxes, tmp_path):
    recipe = tmp_path / "short.yaml"
    step = "{policy: merge_layers, strategy: explicit, windows: [[1, 2]]}"
    recipe.write_text(f"schema_version: 1\nname: short\nsteps:\n  - {step}\n")
    frames: Any = None  # it makes no choices on any
    compress(hmr.load(weights), Recipe.load(str(recipe)), calib=frames).save(tmp_path / "small")
    words = ("run", walk, "--people", boxes, "--json")
    for name, model in (("on-the-way", (weights, "--recipe", recipe)), ("artefact", (tmp_path / "small",))):
        assert fasthmr(*words, "--out", tmp_path / name, "--model", *model)[0] == 0
    one, other = (np.load(tmp_path / name / "track-1.npz") for name in ("on-the-way", "artefact"))
    assert all(np.array_equal(one[key], other[key]) for key in one.files)


@pytest.mark.parametrize("family", ["hmr2", "camerahmr", "hamer"])
def test_families_run_by_their_own_crops_and_cameras(family, fasthmr, walk, boxes, tmp_path):
    """Plain crops, and CameraHMR's own field of view; hands are refused."""
    model = tiny(family, tmp_path / "model.safetensors", **({"fov_width": 2} if family == "camerahmr" else {}))
    words = ("run", walk, "--model", model, "--people", boxes, "--out", tmp_path / "out", "--json")
    code, out, err = fasthmr(*words)
    if family == "hamer":
        assert code == 2 and "poses hands" in err
        return
    found = json.loads(out)
    assert code == 0 and [track["frames"] for track in found["tracks"]] == [12, 10]
    assert ("field-of-view" in found["camera"]["source"]) == (family == "camerahmr"), found["camera"]


@pytest.mark.parametrize("name", ["rfdetr", "ultralytics"])
def test_detectors_of_other_packages_find_the_people_of_a_run(name, fasthmr, walk, weights, tmp_path, monkeypatch):
    """Packages stand in that see the squares: in RGB as RF-DETR takes pictures, in BGR as YOLO does."""

    def seen(image: Any) -> tuple[np.ndarray, np.ndarray]:
        rgb = np.asarray(image)[..., :: 1 if name == "rfdetr" else -1]
        people = [one for one in Squares().find(Shot(0, 0.0, rgb)) if one.mask]
        return np.array([one.box for one in people]), np.array([one.mask() for one in people if one.mask])

    def detections(image: Any, threshold: float) -> SimpleNamespace:
        boxes, masks = seen(image)
        return SimpleNamespace(xyxy=boxes, mask=masks, class_id=np.ones(len(boxes), int))

    def yolo(image: Any, **_: Any) -> list[SimpleNamespace]:
        boxes, masks = (torch.from_numpy(values) for values in seen(image))
        return [SimpleNamespace(boxes=SimpleNamespace(xyxy=boxes), masks=SimpleNamespace(data=masks.float()))]

    standing = {
        "rfdetr": SimpleNamespace(RFDETRSegMedium=lambda: SimpleNamespace(predict=detections)),
        "ultralytics": SimpleNamespace(YOLO=lambda file: yolo),
    }
    monkeypatch.setitem(sys.modules, name, standing[name])
    words = ("run", walk, "--model", weights, "--recipe", "mask-tome", "--people", name, "--out", tmp_path / "out")
    code, out, _ = fasthmr(*words, "--json")
    found = json.loads(out)
    assert code == 0 and [track["frames"] for track in found["tracks"]] == [12, 10]
    assert found["provenance"]["data"]["mask_source"] == found["provenance"]["data"]["people"] == name
    with np.load(tmp_path / "out" / "track-1.npz") as track:
        assert track["box_px"][:, 0] == pytest.approx(22 + 2.0 * np.arange(12), abs=3)


@pytest.mark.parametrize(
    "words, hint",
    [
        (["nothing.mp4"], "no such video or folder"),
        (["notes.txt"], "name a video"),
        (["broken.mp4"], "broken.mp4"),
        (["walk.mp4", "--start", "9", "--end", "1"], "the first comes before"),
        (["walk.mp4", "--start", "60"], "no frame"),
        (["walk.mp4", "--people", "nobody"], "choose one of blazepose"),
        (["walk.mp4", "--people", "nobody.csv"], "nobody.csv"),
        (["walk.mp4", "--people", "bad.csv"], "line 2"),
        (["walk.mp4", "--people", "bad.npz"], "bad.npz"),
        (["walk.mp4", "--people", "blazepose"], "masks import"),
        (["walk.mp4", "--masks", "empty"], "an npz of boxes"),
        *(
            (["walk.mp4", "--live", *words], f"leave out {words[0]}")
            for words in (
                ["--batch", "16"],
                ["--camera", "still.npz"],
                ["--csv"],
                ["--bvh"],
                ["--glb"],
                ["--overlay"],
                ["--vertices"],
                ["--profile"],
            )
        ),
        (["walk.mp4", "--people", "blazepose", "--masks", "rfdetr"], "--masks is for"),
        (["walk.mp4", "--people", "people.csv", "--focal", "9", "--fov", "9"], "give one of them"),
        (["walk.mp4", "--people", "people.csv", "--fov", "0"], "0.1 to 179"),
        (["empty", "--people", "people.csv"], "no pictures"),
        (["walk.mp4", "--out", "full"], "holds no run"),
        (["walk.mp4", "--out", "notes.txt"], "a file"),
        (["walk.mp4", "--model", "refrence"], "did you mean 'reference'"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_lost(
    fasthmr, monkeypatch, tmp_path, walk, weights, boxes, words, hint
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "bad.csv").write_text(BOXES + "0,a,5,5,4,9\n")
    (tmp_path / "bad.npz").write_bytes(b"PK")
    for name in ("empty", "full"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    defaults = [("--model", weights), ("--people", boxes), ("--out", "out")]
    given = [each for pair in defaults if pair[0] not in words for each in pair]
    code, out, err = fasthmr("run", *words, *given)
    said = [line for line in err.splitlines() if line.startswith("fasthmr:")]
    assert (code, out, len(said)) == (2, "", 1) and hint in said[0] and "Traceback" not in err
    assert all(path.read_bytes() == content for path, content in before.items())
    assert not list(tmp_path.rglob("run.json"))
