"""Hands: MANO's files give back their arrays, and HaMeR's errors are those of a kinematic chain in numpy."""

from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest
import scipy.sparse
import torch
from scipy.spatial.transform import Rotation

from compress.errors import BadInput
from hmr import load
from hmr.body.files import import_body, load_body
from hmr.body.model import BodyModel
from hmr.checkpoints import files as checkpoints
from hmr.data.crop import normalised
from hmr.data.masks import MaskFiles
from hmr.data.pictures import open_pictures
from hmr.data.sample import known
from tests.test_body_hostile import Calls
from tests.test_body_import import Ch, chumpy_pickle
from tests.test_label_free import asked, folder, tiny

__all__ = ["folder"]  # a fixture
PARENTS = [-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14]
NAMES = [
    "wrist", "index1", "index2", "index3", "middle1", "middle2", "middle3", "pinky1", "pinky2", "pinky3",
    "ring1", "ring2", "ring3", "thumb1", "thumb2", "thumb3",
]  # fmt: skip


def mano() -> dict[str, np.ndarray]:
    """Arrays of the layout and number types of MANO_RIGHT.pkl; the values are random."""
    draw = np.random.default_rng(0)
    regressor = np.zeros((16, 778))
    for joint in range(16):
        regressor[joint, draw.choice(778, 20, replace=False)] = 1 / 20
    weights = draw.random((778, 16)) ** 8
    return {
        "v_template": draw.normal(0, 0.05, (778, 3)),
        "shapedirs": draw.normal(0, 0.005, (778, 3, 10)),
        "posedirs": draw.normal(0, 0.001, (778, 3, 135)),
        "J_regressor": regressor,
        "weights": weights / weights.sum(1, keepdims=True),
        "kintree_table": np.array([[2**32 - 1, *PARENTS[1:]], range(16)], dtype=np.uint32),
        "f": draw.integers(0, 778, (1538, 3)).astype(np.uint32),
        "hands_mean": draw.normal(size=45),
        "hands_components": draw.normal(size=(45, 45)),
    }


def imported(path) -> BodyModel:
    """The hand, after its file was written to `path` as MANO's authors pickle theirs."""
    arrays = mano()
    official = {**arrays, "J_regressor": scipy.sparse.csc_matrix(arrays["J_regressor"])}
    path.write_bytes(chumpy_pickle({**official, "shapedirs": Ch(arrays["shapedirs"]), "bs_style": "lbs"}, 2))
    import_body(path)
    return load_body("mano")


def posed(rotations: np.ndarray, betas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Joints (16, 3) and vertices (778, 3) of local rotations (16, 3, 3) and betas (10,), by 4 x 4 matrices."""
    arrays = mano()
    shaped = arrays["v_template"] + arrays["shapedirs"] @ betas
    rest = arrays["J_regressor"] @ shaped
    bent = shaped + arrays["posedirs"] @ (rotations[1:] - np.eye(3)).ravel()
    world: list[np.ndarray] = []
    for joint, parent in enumerate(PARENTS):
        local = np.eye(4)
        local[:3, :3], local[:3, 3] = rotations[joint], rest[joint] - (rest[parent] if joint else 0)
        world.append(world[parent] @ local if joint else local)
    joints = np.stack([matrix[:3, 3] for matrix in world])
    turned = np.stack([m[:3, :3] @ (bent - at).T for m, at in zip(world, rest, strict=True)])  # (16, 3, 778)
    moved = turned.transpose(2, 0, 1) + joints  # (778, 16, 3), each vertex as each joint alone would move it
    return joints, (arrays["weights"][..., None] * moved).sum(1)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTHMR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_imported_arrays_are_those_of_the_file(home, tmp_path):
    imported(tmp_path / "MANO_RIGHT.pkl")
    with np.load(home / "bodies" / "mano" / "body.npz", allow_pickle=False) as found:
        assert set(found) == {*mano(), "sha256"} - {"hands_mean", "hands_components"}
        for key in set(found) - {"sha256"}:
            np.testing.assert_allclose(found[key], mano()[key], atol=1e-7)
    np.savez(tmp_path / "MANO_LEFT.npz", **mano())  # type: ignore[arg-type]
    assert import_body(tmp_path / "MANO_LEFT.npz").parent.name == "mano-left"


def test_a_hand_is_posed_as_by_hand(home, tmp_path):
    hand = imported(tmp_path / "MANO_RIGHT.pkl")
    draw = np.random.default_rng(1)
    turns, betas = Rotation.random(48, rng=draw).as_matrix().reshape(3, 16, 3, 3), draw.normal(size=(3, 10))
    given = torch.tensor(turns).float(), torch.tensor(betas).float()
    wanted = [posed(*pose) for pose in zip(turns, betas, strict=True)]
    joints, vertices = (np.stack(kind) for kind in zip(*wanted, strict=True))
    found = hand(*given)
    np.testing.assert_allclose(found.joints, joints, atol=1e-5)
    np.testing.assert_allclose(found.vertices, vertices, atol=1e-5)
    np.testing.assert_allclose(hand.skeleton(*given), joints, atol=1e-5)
    for same in (found.joints29, hand.skeleton29(*given)):  # a hand has no leaves
        np.testing.assert_allclose(same, joints, atol=1e-5)
    np.testing.assert_allclose(hand.joints_from_pelvis(*given), joints - joints[:, :1], atol=1e-5)
    np.testing.assert_allclose(hand.positions(*given).joints, joints - joints[:, :1], atol=1e-5)
    with pytest.raises(BadInput, match=r"give \(B, 16, 3, 3\), \(B, 16, 3\) or \(B, 48\)"):
        hand(torch.eye(3).expand(1, 24, 3, 3), torch.zeros(1, 10))


def spoiled(key: str, value: float) -> dict[str, object]:
    arrays = mano()
    arrays[key].ravel()[7] = value
    return {key: arrays[key]}


def test_what_is_no_hand_is_refused_and_not_run(home, tmp_path):
    path, mark = tmp_path / "MANO_RIGHT.pkl", tmp_path / "mark"
    wrong: list[tuple[dict[str, object], str]] = [
        (spoiled("v_template", np.nan), "v_template holds values that are not finite"),
        (spoiled("posedirs", np.inf), "posedirs holds values that are not finite"),
        ({"v_template": np.zeros((779, 3))}, r"v_template has shape \(779, 3\), MANO's is \(778, 3\)"),
        ({"shapedirs": np.zeros((778, 3, 4))}, "shapedirs has shape"),
        ({"posedirs": np.zeros((778, 3, 207))}, r"posedirs has shape .*, MANO's is \(778, 3, 135\)"),
        ({"weights": np.zeros((778, 16))}, "rows of weights"),
        ({"kintree_table": np.zeros((2, 16), np.uint32)}, "kintree_table is not MANO's tree of 16 joints"),
        ({"f": np.full((1538, 3), 778, np.uint32)}, r"f names vertices outside 0\.\.777"),
        ({"v_template": 1000 * mano()["v_template"]}, "metre"),
        ({"hands_mean": Calls(os.system, f"touch {mark}")}, "system"),
    ]
    for change, words in wrong:
        path.write_bytes(pickle.dumps({**mano(), **change}, protocol=2))
        with pytest.raises(BadInput, match=words):
            import_body(path)
    path.write_bytes(pickle.dumps({key: value for key, value in mano().items() if key != "weights"}))
    with pytest.raises(BadInput, match="no MANO body: weights missing"):
        import_body(path)
    assert not home.exists() and not mark.exists()


def test_errors_of_hands_are_distances_from_the_wrist(fasthmr, folder, tmp_path):
    imported(tmp_path / "MANO_RIGHT.pkl")
    masks, file = tmp_path / "masks", tiny("hamer", tmp_path / "model.safetensors")
    code, out, err = fasthmr(*asked(folder, tmp_path, "mask", "--masks", masks, model=file))
    assert code == 0, err
    first, *_, recovered = json.loads(out)["rows"]
    assert first["mpjpe_mm"]["mean"] == pytest.approx(0, abs=0.01) and recovered["step"] == "recover"

    original, compressed = checkpoints.load(file), load(tmp_path / "out")
    pictures = open_pictures(folder, "test", None, original.family.box.side, (256, 192), MaskFiles(masks))
    crops = normalised(torch.from_numpy(np.stack([p.image for p in pictures])))
    shown = torch.from_numpy(np.stack([known(p.mask, "masks") for p in pictures]))
    joints: list[np.ndarray] = []
    vertices: list[np.ndarray] = []
    for model in (original, compressed):
        with torch.no_grad():
            said = model(crops, shown)
        poses = zip(said.rotations.double().numpy(), said.betas.double().numpy(), strict=True)
        hands = [posed(*pose) for pose in poses]
        joints.append(np.stack([j - j[:1] for j, _ in hands]))
        vertices.append(np.stack([v - j[:1] for j, v in hands]))
    per_joint, per_vertex = (1000 * np.linalg.norm(a - b, axis=-1) for a, b in (joints, vertices))
    assert per_joint.mean() > 0.01
    assert recovered["mpjpe_mm"]["mean"] == pytest.approx(per_joint.mean(), rel=1e-3)

    words = ["evaluate", tmp_path / "out", "--data", f"frames@{folder}", "--masks", masks, "--label-free", "--json"]
    code, out, err = fasthmr(*words, "--against", file)
    assert code == 0, err
    found = json.loads(out)
    (row,) = found["rows"]  # no training set of hands is shipped, so nobody knows their mean pose
    assert list(row["per_joint_mm"]) == NAMES and row["per_joint_mm"]["wrist"] == 0
    assert list(row["per_joint_mm"].values()) == pytest.approx(per_joint.mean(0).tolist(), rel=1e-3, abs=1e-4)
    assert row["pve_mm"]["mean"] == pytest.approx(per_vertex.mean(), rel=1e-3)
    assert found["provenance"]["body"] == load_body("mano").identity


def test_what_a_model_of_hands_needs_is_told(fasthmr, folder, tmp_path):
    file = tiny("hamer", tmp_path / "model.safetensors")
    compared = ["evaluate", file, "--data", f"frames@{folder}", "--label-free", "--against"]
    for words, told in (
        (asked(folder, tmp_path, "none", model=file), str(tmp_path / "home" / "bodies" / "mano" / "body.npz")),
        ([*compared, file], "Register at https://mano.is.tue.mpg.de, download MANO"),
        ([*compared, "reference-small"], "one poses a hand and one a body"),
        (["evaluate", file, "--data", "synth"], "synth shows bodies: name pictures of right hands"),
    ):
        code, out, err = fasthmr(*words)
        assert (code, out) == (2, "") and told in err
    assert not (tmp_path / "out").exists()
