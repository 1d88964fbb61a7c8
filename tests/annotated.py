"""Folders as 3DPW and EMDB, and npz of other code bases, made of noise; bodies and a model to read them with."""

from __future__ import annotations

import pickle
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from hmr.body.files import import_body
from hmr.checkpoints.files import save
from hmr.models.model import build

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


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A small model that listens to its picture."""
    torch.manual_seed(0)
    model = build("reference-small", {"depth": 1})
    with torch.no_grad():
        model.smpl_head.decpose.get_parameter("weight").mul_(100)
    return save(model, tmp_path_factory.mktemp("model") / "mine.safetensors")


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
