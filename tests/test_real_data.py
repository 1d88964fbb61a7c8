"""3DPW, EMDB and the npz of 4D-Humans and CameraHMR: files of their layout, and every metric worked out by hand."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation
from skimage.transform import SimilarityTransform

from compress.errors import BadInput
from hmr import load
from hmr.body.files import import_body
from hmr.body.model import PARENTS
from hmr.checkpoints.files import save
from hmr.data.crop import cut
from hmr.data.datasets import open_data, parse
from hmr.data.real import read
from hmr.data.sample import known
from hmr.evaluation.depth import depth
from hmr.evaluation.errors import KEYS
from hmr.evaluation.evaluate import evaluate
from hmr.evaluation.judge import JointJudge
from hmr.evaluation.label_free import labelled_by
from hmr.evaluation.measure import body_for
from hmr.models.model import build

CPU = torch.device("cpu")
WIDTH, HEIGHT, FOCAL = 48, 64, 60.0
J14 = [6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10]
Arrays = dict[str, np.ndarray]


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.fixture(scope="module")
def bodies(tmp_path_factory) -> dict[str, Arrays]:
    """SMPL files of three sizes in a home of their own, with the regressors of H36M and of 4D-Humans."""
    home = tmp_path_factory.mktemp("home")
    with np.load(str(files("hmr.assets").joinpath("open_body.npz"))) as held:
        arrays = {key: held[key] for key in held.files}
    out = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTHMR_HOME", str(home))
        for gender, size in (("neutral", 1.0), ("female", 0.93), ("male", 1.06)):
            out[gender] = {**arrays, "v_template": (arrays["v_template"] * size).astype(np.float32)}
            np.savez(home / f"SMPL_{gender.upper()}.npz", **out[gender])
            import_body(home / f"SMPL_{gender.upper()}.npz")
    weights = np.random.default_rng(0).random((36, 6890)) ** 40
    weights /= weights.sum(1, keepdims=True)
    (home / "regressors").mkdir()
    np.save(home / "regressors" / "J_regressor_h36m.npy", weights[:17])
    (home / "regressors" / "SMPL_to_J19.pkl").write_bytes(pickle.dumps(weights[17:], protocol=2))
    return {**out, "h36m": {"rows": weights[:17]}, "j19": {"rows": weights[17:]}, "home": {"path": np.array(str(home))}}


@pytest.fixture
def home(bodies, fasthmr, monkeypatch) -> Path:
    monkeypatch.setenv("FASTHMR_HOME", str(bodies["home"]["path"]))
    return Path(str(bodies["home"]["path"]))


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((WIDTH, HEIGHT)).save(path, quality=95)


def person(rng: np.random.Generator, frames: int) -> Arrays:
    """Axis-angle poses (N, 72), betas (10,) and world joints (N, 72) in front of the camera of `camera`."""
    joints = rng.normal([0.1, 0.2, 4], 0.3, (frames, 24, 3))
    return {"poses": rng.normal(0, 0.3, (frames, 72)), "betas": rng.normal(size=10), "joints": joints.reshape(-1, 72)}


def camera(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Extrinsics (N, 4, 4) that turn a little."""
    out = np.tile(np.eye(4), (frames, 1, 1))
    out[:, :3, :3] = Rotation.from_rotvec(rng.normal(0, 0.1, (frames, 3))).as_matrix()
    out[:, :3, 3] = rng.normal(0, 0.05, (frames, 3))
    return out


INTRINSICS = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])


def write_3dpw(root: Path, split: str = "test", count: int = 24, frames: int = 3) -> list[dict[str, Any]]:
    """Sequences as 3DPW's: the first one shows two people, the second one's middle frame is not valid."""
    out = []
    for s in range(count):
        rng = np.random.default_rng(s)
        crowd = [person(rng, frames) for _ in range(2 if s == 0 else 1)]
        held = {
            "sequence": f"street_{s:02d}",
            "poses": [p["poses"] for p in crowd],
            "betas": [np.append(p["betas"], np.zeros(2)) for p in crowd],  # some files hold more than ten
            "trans": [np.zeros((frames, 3)) for _ in crowd],
            "jointPositions": [p["joints"] for p in crowd],
            "genders": ["m", "f"][: len(crowd)] if s % 2 == 0 else ["f"],
            "campose_valid": [np.array([1, int(s != 1), 1]) for _ in crowd],
            "cam_poses": camera(rng, frames),
            "cam_intrinsics": INTRINSICS,
            "img_frame_ids": np.arange(frames) * 2,
        }
        file = root / "sequenceFiles" / split / f"street_{s:02d}.pkl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(pickle.dumps(held, protocol=2))
        for i in range(frames):
            draw(root / "imageFiles" / f"street_{s:02d}" / f"image_{i:05d}.jpg", 10 * s + i)
        out.append(held)
    return out


def write_emdb(root: Path, count: int = 17, frames: int = 4) -> list[dict[str, Any]]:
    """Sequences as EMDB's, and one that belongs to EMDB 2; the first one's second frame is bad."""
    out = []
    for s in range(count + 1):
        rng = np.random.default_rng(100 + s)
        who, name = person(rng, frames), f"P{s // 2}/{s:02d}_walk"
        good = np.ones(frames, bool)
        good[1] = s != 0
        held = {
            "gender": ["female", "male", "neutral"][s % 3],
            "name": name.replace("/", "_"),
            "emdb1": s < count,
            "emdb2": np.bool_(s >= count),
            "n_frames": frames,
            "good_frames_mask": good,
            "smpl": {
                "poses_root": who["poses"][:, :3],
                "poses_body": who["poses"][:, 3:],
                "betas": who["betas"],
                "trans": np.zeros((frames, 3)),
            },
            "camera": {"intrinsics": INTRINSICS, "extrinsics": camera(rng, frames), "width": WIDTH, "height": HEIGHT},
            "bboxes": {"bboxes": np.tile([8.0, 10, 30, 58], (frames, 1)), "invalid_idxs": np.flatnonzero(~good)},
        }
        folder = root / name
        folder.mkdir(parents=True)
        (folder / f"{held['name']}_data.pkl").write_bytes(pickle.dumps(held))
        for i in range(frames):
            draw(folder / "images" / f"{i:05d}.jpg", 10 * s + i)
        out.append(held)
    return out[:count]


def posed(body: Arrays, rotations: np.ndarray, betas: np.ndarray) -> np.ndarray:
    """Vertices (V, 3) of one person: linear blend skinning as SMPL's paper writes it, joint by joint."""
    shaped = body["v_template"].astype(float) + body["shapedirs"][..., :10].astype(float) @ betas
    rest = body["J_regressor"].astype(float) @ shaped
    world: list[np.ndarray] = []
    for joint, parent in enumerate(PARENTS):
        local = np.eye(4)
        local[:3, :3] = rotations[joint]
        local[:3, 3] = rest[joint] - (rest[parent] if joint else 0)
        world.append(world[parent] @ local if joint else local)
    vertices = np.zeros_like(shaped)
    for joint, at in enumerate(world):
        moved = (shaped - rest[joint]) @ at[:3, :3].T + at[:3, 3]
        vertices += body["weights"][:, joint, None] * moved
    return vertices


def distances(a: np.ndarray, b: np.ndarray) -> float:
    return float(1000 * np.linalg.norm(a - b, axis=-1).mean())


def by_hand(predicted: list[Any], true: list[Any], clips: list[str]) -> dict[str, tuple[float, float]]:
    """Means over clips, and over frames, of (joints, vertices, pelvis) pairs; acceleration within each clip."""
    out: dict[str, list[list[float]]] = {"mpjpe_mm": [], "pa_mpjpe_mm": [], "pve_mm": [], "accel_mm_per_frame2": []}
    for clip in dict.fromkeys(clips):
        pairs = [pair for *pair, other in zip(predicted, true, clips, strict=True) if other == clip]
        out["mpjpe_mm"].append([distances(p - pp, t - tp) for (p, _, pp), (t, _, tp) in pairs])
        out["pve_mm"].append([distances(pv - pp, tv - tp) for (_, pv, pp), (_, tv, tp) in pairs])
        moved = [(SimilarityTransform.from_estimate(p, t)(p), t) for (p, *_), (t, *_) in pairs]
        out["pa_mpjpe_mm"].append([distances(*pair) for pair in moved])
        gaps = [(p - pp) - (t - tp) for (p, _, pp), (t, _, tp) in pairs]
        jumps = [a - 2 * b + c for a, b, c in zip(gaps, gaps[1:], gaps[2:], strict=False)]
        out["accel_mm_per_frame2"].append([distances(jump, np.zeros_like(jump)) for jump in jumps])
    filled = {key: [values for values in each if values] for key, each in out.items()}
    return {
        key: (float(np.mean([np.mean(values) for values in each])), float(np.mean(np.concatenate(each))))
        for key, each in filled.items()
        if each
    }


def agree(row: dict[str, Any], wanted: dict[str, tuple[float, float]], keys: Iterable[str]) -> None:
    for key in keys:
        assert (row[key]["mean"], row["frames_mean"][key]) == pytest.approx(wanted[key], rel=1e-4), key


def sides(left: float, top: float, right: float, bottom: float) -> tuple[tuple[float, float], float]:
    """Centre and side of HMR2.0's square around a box: three by four, the longer side."""
    width, height = right - left, bottom - top
    return ((left + right) / 2, (top + bottom) / 2), max(height, width * 4 / 3)


def said(model: Any, crops: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Rotations (N, 24, 3, 3) and betas (N, 10) of a model on crops."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    images = np.stack([((crop / 255 - mean) / std).transpose(2, 0, 1) for crop in crops])
    with torch.no_grad():
        out = model(torch.tensor(images, dtype=torch.float32))
    return torch.cat((out.global_orient, out.body_pose), 1).numpy().astype(float), out.betas.numpy().astype(float)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A small model that listens to its picture."""
    torch.manual_seed(0)
    model = build("reference-small", {"depth": 1})
    with torch.no_grad():
        model.smpl_head.decpose.get_parameter("weight").mul_(100)
    return save(model, tmp_path_factory.mktemp("model") / "mine.safetensors")


def local(poses: np.ndarray, extrinsics: np.ndarray) -> np.ndarray:
    """Rotations (24, 3, 3) of axis-angle (72,), the root in the axes of a camera (4, 4)."""
    out = Rotation.from_rotvec(poses.reshape(24, 3)).as_matrix()
    out[0] = extrinsics[:3, :3] @ out[0]
    return out


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_3dpw_by_the_command_is_what_it_is_by_hand(fasthmr, home, bodies, weights, tmp_path):
    rows, crops, clips = bodies["h36m"]["rows"], [], []
    truth, picked = [], ([J14], [4, 1])
    for s, held in enumerate(write_3dpw(tmp_path)):
        for p, gender in enumerate(held["genders"]):
            for i in np.flatnonzero(held["campose_valid"][p]):
                out = held["cam_poses"][i]
                joints = held["jointPositions"][p][i].reshape(24, 3) @ out[:3, :3].T + out[:3, 3]
                spots = FOCAL * joints[:, :2] / joints[:, 2:] + (WIDTH / 2, HEIGHT / 2)
                middle, half = (spots.max(0) + spots.min(0)) / 2, 0.6 * (spots.max(0) - spots.min(0))
                picture = pixels(tmp_path / "imageFiles" / held["sequence"] / f"image_{i:05d}.jpg")
                crops.append(cut(picture, *sides(*(middle - half), *(middle + half)), (224, 168)))
                body = bodies[{"m": "male", "f": "female"}[gender]]
                vertices = posed(body, local(held["poses"][p][i], out), held["betas"][p][:10])
                truth.append((rows[J14] @ vertices, vertices, rows[[4, 1]].mean(0) @ vertices))
                clips.append(f"street_{s:02d}_{p}")
    guesses = []
    for rotations, betas in zip(*said(load(weights), crops), strict=True):
        vertices = posed(bodies["neutral"], rotations, betas)
        guesses.append((rows[picked[0][0]] @ vertices, vertices, rows[picked[1]].mean(0) @ vertices))
    code, out, err = fasthmr("evaluate", weights, "--data", f"3dpw:test@{tmp_path}", "--json")
    assert code == 0, err
    found = json.loads(out)
    agree(found["rows"][0], by_hand(guesses, truth, clips), KEYS)
    assert [clip["clip"] for clip in found["rows"][0]["per_clip"]] == list(dict.fromkeys(clips))
    assert len(found["rows"][0]["per_joint_mm"]) == 14
    printed = fasthmr("evaluate", weights, "--data", f"3dpw:test@{tmp_path}", "--frames", 3)[1]
    assert "model, mean over frames" in printed
    source = found["provenance"]
    assert source["data"]["convention"] == "h36m14-hips" and source["data"]["fps"] == 30
    assert (source["data"]["frames"], source["data"]["invalid_frames"]) == (len(crops), 1)
    assert source["body"]["name"] == "smpl" and source["body"]["female"] != source["body"]["male"]


def test_emdb_is_what_it_is_by_hand(home, bodies, weights, tmp_path):
    crops, clips, truth = [], [], []
    for held in write_emdb(tmp_path):
        for i in np.flatnonzero(held["good_frames_mask"]):
            folder = tmp_path / held["name"].replace("_", "/", 1)
            crops.append(cut(pixels(folder / "images" / f"{i:05d}.jpg"), *sides(8, 10, 30, 58), (224, 168)))
            poses = np.concatenate([held["smpl"]["poses_root"][i], held["smpl"]["poses_body"][i]])
            body = bodies[held["gender"]]
            vertices = posed(body, local(poses, held["camera"]["extrinsics"][i]), held["smpl"]["betas"])
            joints = body["J_regressor"] @ vertices
            truth.append((joints, vertices, (joints[1] + joints[2]) / 2))
            clips.append(held["name"])
    guesses = []
    model = load(weights)
    for rotations, betas in zip(*said(model, crops), strict=True):
        vertices = posed(bodies["neutral"], rotations, betas)
        joints = bodies["neutral"]["J_regressor"] @ vertices
        guesses.append((joints, vertices, (joints[1] + joints[2]) / 2))
    data = open_data(parse(f"emdb@{tmp_path}"), model=model)
    found = evaluate(model, data, torch.eye(3).expand(24, 3, 3))
    agree(found["rows"][0], by_hand(guesses, truth, clips), KEYS)
    assert next(iter(found["rows"][0]["per_joint_mm"])) == "pelvis" and data.recordings == clips
    assert found["rows"][0]["per_joint_mm"]["pelvis"] > 0  # it is not the point that is aligned


def write_npz(root: Path, kind: str, name: str = "3dpw_test.npz") -> tuple[Path, Arrays]:
    """Six rows of a code base's annotations, and their pictures."""
    rng = np.random.default_rng(5)
    pictures = [f"imageFiles/street_{i // 3}/image_{i % 3:05d}.jpg" for i in range(6)]
    for i, picture in enumerate(pictures):
        draw(root / picture, i)
    held: dict[str, Any] = {"imgname": np.array(pictures), "center": rng.uniform(20, 40, (6, 2))}
    if kind == "camerahmr":
        held |= {"scale": rng.uniform(0.1, 0.3, 6), "pose_cam": rng.normal(0, 0.3, (6, 72))}
        held |= {"shape": rng.normal(size=(6, 11)), "gender": np.array(list("mfmfmf"))}
        held |= {"cam_int": np.tile(INTRINSICS, (6, 1, 1))}
    else:
        held |= {"scale": rng.uniform(20, 60, (6, 2)), "body_pose": rng.normal(0, 0.3, (6, 72))}
        held |= {"betas": rng.normal(size=(6, 10)), "extra_keypoints_3d": rng.normal(0, 0.5, (6, 19, 4))}
        held |= {"extra_info": np.array([{"a": i} for i in range(6)], dtype=object)}
        held["imgname"] = held["imgname"].astype(object)
    np.savez(root / name, **held)
    return root / name, held


def test_camerahmr_npz_is_what_it_is_by_hand(home, bodies, weights, tmp_path):
    path, held = write_npz(tmp_path, "camerahmr")
    rows, crops, truth, guesses = bodies["h36m"]["rows"], [], [], []
    for i, name in enumerate(held["imgname"]):
        (x, y), half = held["center"][i], 100 * held["scale"][i]
        crops.append(cut(pixels(tmp_path / name), *sides(x - half, y - half, x + half, y + half), (224, 168)))
        body = bodies["male" if held["gender"][i] == "m" else "female"]
        vertices = posed(body, local(held["pose_cam"][i], np.eye(4)), held["shape"][i, :10])
        truth.append((rows[J14] @ vertices, vertices, rows[0] @ vertices))
    model = load(weights)
    for rotations, betas in zip(*said(model, crops), strict=True):
        vertices = posed(bodies["neutral"], rotations, betas)
        guesses.append((rows[J14] @ vertices, vertices, rows[0] @ vertices))
    data = open_data(parse(f"3dpw@{path}"), model=model)
    found = evaluate(model, data, torch.eye(3).expand(24, 3, 3))["rows"][0]
    wanted = by_hand(guesses, truth, data.recordings)
    agree(found, wanted, ("mpjpe_mm", "pa_mpjpe_mm", "pve_mm"))
    assert found["accel_mm_per_frame2"] is None and set(data.recordings) == {
        "imageFiles/street_0",
        "imageFiles/street_1",
    }
    assert data.notes["convention"] == "h36m14-pelvis"


def test_fourdhumans_npz_is_what_it_is_by_hand(home, bodies, weights, tmp_path):
    path, held = write_npz(tmp_path, "4dhumans")
    chosen, crops, truth, guesses = [*range(13), 18], [], [], []
    for i, name in enumerate(held["imgname"]):
        (x, y), (w, h) = held["center"][i], held["scale"][i]
        crops.append(cut(pixels(tmp_path / name), *sides(x - w / 2, y - h / 2, x + w / 2, y + h / 2), (224, 168)))
        spots = held["extra_keypoints_3d"][i, :, :3]
        truth.append((spots[chosen], np.zeros((6890, 3)), spots[14]))
    model = load(weights)
    for rotations, betas in zip(*said(model, crops), strict=True):
        spots = bodies["j19"]["rows"] @ posed(bodies["neutral"], rotations, betas)
        guesses.append((spots[chosen], np.zeros((6890, 3)), spots[14]))
    data = open_data(parse(f"3dpw@{path}"), model=model)
    found = evaluate(model, data, torch.eye(3).expand(24, 3, 3))["rows"][0]
    wanted = by_hand(guesses, truth, data.recordings)
    agree(found, wanted, ("mpjpe_mm", "pa_mpjpe_mm"))
    assert found["pve_mm"] is None and found["per_clip"][0]["pve_mm"] is None  # nobody knows the gender
    assert data.notes["convention"] == "j19-mpii"


def test_a_judge_decides_by_the_same_errors_as_reports(home, weights, tmp_path):
    write_3dpw(tmp_path, "train")
    model = load(weights)
    data = open_data(parse(f"3dpw:calib@{tmp_path}"), frames=40, model=model)
    body = body_for(data, model)
    report = evaluate(model, data, torch.eye(3).expand(24, 3, 3))["rows"][0]
    samples = [data[i] for i in range(40)]
    judge = JointJudge(model, samples, body)
    with torch.no_grad():
        tokens = [model.encode(crops) for crops in judge.crops]
        errors = torch.cat([judge.errors(i, some) for i, some in enumerate(tokens)])
    assert errors.mean().item() == pytest.approx(report["frames_mean"]["mpjpe_mm"], rel=1e-4)
    assert depth(model, data)["mpjpe_mm"] == pytest.approx(report["mpjpe_mm"], rel=1e-4)
    own = labelled_by(model, data)  # on the neutral body, whatever the people's gender
    assert evaluate(model, own, torch.eye(3).expand(24, 3, 3))["rows"][0]["pve_mm"]["hi"] < 0.01
    assert len(set(data.recordings)) == 25 and data.fps is None and report["accel_mm_per_frame2"] is None


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


HOSTILE = """
import json, sys
sys.path[:0] = [sys.argv[1]]
import hostile_bodies as h
from pathlib import Path
from compress.errors import BadInput
from hmr.checkpoints.safe_pickle import read_arrays, read_pickle
try: read_pickle(Path("/no/such/file"))
except BadInput: pass
sys.addaudithook(h.watch)
out = {}
for name in json.load(sys.stdin):
    h.seen.clear()
    h.watching = True
    try: said = str((read_arrays if name.endswith("z") else read_pickle)(Path(name)).get("n"))
    except BadInput as error: said = str(error)
    except RuntimeError as error: said = "ran"
    h.watching = False
    out[name] = [said, list(h.seen)]
json.dump(out, sys.stdout)
"""


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
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE, str(Path(__file__).parent)],
        input=json.dumps(names),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    for name in names:
        words = files_.get(Path(name).name, (None, "system"))[1]
        assert words in outcomes[name][0] and outcomes[name][1] == [], (name, outcomes[name])
    assert not mark.exists()
