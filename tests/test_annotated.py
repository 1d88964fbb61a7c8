"""3DPW, EMDB and the npz of 4D-Humans and CameraHMR: files of their layout, and every metric worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation
from skimage.transform import SimilarityTransform

from hmr import load
from hmr.body.model import PARENTS
from hmr.data.crop import cut
from hmr.data.datasets import open_data, parse
from hmr.evaluation.depth import depth
from hmr.evaluation.errors import KEYS
from hmr.evaluation.evaluate import evaluate
from hmr.evaluation.judge import JointJudge
from hmr.evaluation.label_free import labelled_by
from hmr.evaluation.measure import body_for
from tests import annotated
from tests.annotated import (
    FOCAL,
    HEIGHT,
    J14,
    WIDTH,
    Arrays,
    write_3dpw,
    write_emdb,
    write_npz,
)

bodies, home, weights = annotated.bodies, annotated.home, annotated.weights  # fixtures


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
