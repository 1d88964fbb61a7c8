"""Laws of the open body, recomputed from the committed file, and of the code that poses bodies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import roma
import smplx
import torch
import trimesh
from scipy.spatial import cKDTree
from smplx.lbs import lbs
from smplx.utils import Struct
from smplx.vertex_ids import vertex_ids

import hmr
from compress.errors import BadInput
from hmr.body.files import load_body
from hmr.body.model import JOINT_NAMES, LEAF_PARENTS, LEAF_VERTICES, PARENTS, BodyModel, digest

OPEN_BODY = Path(hmr.__file__).parent / "assets" / "open_body.npz"
MIRROR = np.array([-1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    with np.load(OPEN_BODY, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def joints(arrays):
    """Resting joints by name, metres."""
    return dict(zip(JOINT_NAMES, arrays["J_regressor"].astype(float) @ arrays["v_template"], strict=True))


@pytest.fixture(scope="module")
def body() -> BodyModel:
    return load_body()


@pytest.fixture(scope="module")
def poses() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    rotations = torch.randn(16, 24, 3, generator=generator)
    return rotations, 1.5 * torch.randn(16, 10, generator=generator)


def smplx_body(arrays: dict[str, np.ndarray], batch: int) -> smplx.SMPL:
    """The same arrays in the reference implementation."""
    data = Struct(**arrays, posedirs=np.zeros((6890, 3, 207)))
    return smplx.SMPL(model_path="", data_struct=data, batch_size=batch)


def mirrored_name(name: str) -> str:
    return name.replace("left", "@").replace("right", "left").replace("@", "right")


def test_joints_and_leaves_come_without_vertices(body, poses):
    assert torch.allclose(body.skeleton29(*poses), body(*poses).joints29, atol=1e-6)


def test_file_is_small_and_of_smpl_size(arrays):
    assert OPEN_BODY.stat().st_size < 1_000_000
    assert arrays["v_template"].shape == (6890, 3) and arrays["shapedirs"].shape == (6890, 3, 10)
    assert arrays["f"].shape == (13776, 3) and arrays["kintree_table"].shape == (2, 24)
    assert not arrays.get("posedirs", np.zeros(1)).any()
    assert all(np.isfinite(value).all() for value in arrays.values())


def test_surface_is_one_closed_skin(arrays):
    faces = arrays["f"].astype(int)
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    assert len(np.unique(edges, axis=0)) == len(edges)  # each edge once in this direction ...
    assert {tuple(edge) for edge in edges} == {tuple(edge) for edge in edges[:, ::-1]}  # ... and once in the other
    assert len(np.unique(faces)) == 6890 and 6890 - len(edges) // 2 + 13776 == 2  # no loose vertex, no handle
    mesh = trimesh.Trimesh(arrays["v_template"], faces, process=False)
    assert mesh.is_watertight and mesh.body_count == 1 and mesh.area_faces.min() > 0
    assert 0.04 < mesh.volume < 0.12  # m^3, positive: normals point outwards


def test_weights_and_regressor_are_averages(arrays):
    for name, axis in (("weights", 1), ("J_regressor", 1)):
        assert (arrays[name] >= 0).all()
        np.testing.assert_allclose(arrays[name].sum(axis), 1, atol=1e-5)
    assert (arrays["weights"] > 0).sum(1).max() <= 4
    np.testing.assert_array_equal(arrays["kintree_table"][0, 1:], PARENTS[1:])


def test_zero_pose_is_a_t_pose(arrays, joints):
    assert np.abs(joints["pelvis"]).max() < 0.01
    for side, sign in (("left", 1), ("right", -1)):
        arm = np.stack([joints[f"{side}_{name}"] for name in ("shoulder", "elbow", "wrist", "hand")])
        leg = np.stack([joints[f"{side}_{name}"] for name in ("hip", "knee", "ankle")])
        assert np.ptp(arm[:, 1]) < 0.005 and np.ptp(arm[:, 2]) < 0.005  # along x ...
        assert (np.diff(sign * arm[:, 0]) > 0.08).all() and sign * arm[0, 0] > 0.1  # ... outwards, left is +x
        assert np.ptp(leg[:, 0]) < 0.05 and np.ptp(leg[:, 2]) < 0.05  # straight down
        assert (np.diff(leg[:, 1]) < -0.3).all()
        assert joints[f"{side}_foot"][2] - joints[f"{side}_ankle"][2] > 0.1  # toes towards +z
    assert joints["pelvis"][1] < joints["spine1"][1] < joints["neck"][1] < joints["head"][1]
    height, span = np.ptp(arrays["v_template"][:, 1]), np.ptp(arrays["v_template"][:, 0])
    assert 1.5 < height < 1.95 and 0.9 < span / height < 1.1


def test_left_and_right_mirror_each_other(arrays, joints):
    for name, place in joints.items():
        assert np.linalg.norm(place * MIRROR - joints[mirrored_name(name)]) < 0.001
    twin = [JOINT_NAMES.index(mirrored_name(name)) for name in JOINT_NAMES]
    shapes = [arrays["v_template"], *(arrays["v_template"] + 2 * arrays["shapedirs"][..., k] for k in range(10))]
    for shape in shapes:  # the nearest vertex is at least as far as the nearest point of the surface
        distance, other = cKDTree(shape).query(shape * MIRROR)
        assert distance.max() < 0.005
        np.testing.assert_allclose(arrays["weights"][other], arrays["weights"][:, twin], atol=1e-6)


PARTS = {
    "nose": {"head"}, "eye": {"head"}, "ear": {"head"}, "Heel": {"ankle", "foot"}, "BigToe": {"foot"},
    "SmallToe": {"foot"}, **{finger: {"hand"} for finger in ("thumb", "index", "middle", "ring", "pinky")},
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(vertex_ids["smplh"]))
def test_extra_joints_of_smplx_lie_on_their_part(name, arrays, joints):
    bare = next(part for part in PARTS if name.endswith(part))
    side = "" if name == "nose" else {"l": "left_", "r": "right_"}[name[0].lower()]
    vertex = vertex_ids["smplh"][name]
    place, owner = arrays["v_template"][vertex], JOINT_NAMES[arrays["weights"][vertex].argmax()]
    head = bare in {"nose", "eye", "ear"}
    assert owner in ({"head"} if head else {side + part for part in PARTS[bare]})
    assert abs(place[0]) < 0.005 if name == "nose" else place[0] * (1 if side == "left_" else -1) > 0.02
    assert np.linalg.norm(place - joints["head" if head else owner]) < 0.25


def test_faces_hands_and_feet_are_ordered(arrays):
    at = {name: arrays["v_template"][vertex] for name, vertex in vertex_ids["smplh"].items()}
    assert at["nose"][2] > at["leye"][2] > at["lear"][2] and at["leye"][1] > at["nose"][1]
    assert at["lear"][0] > at["leye"][0] > 0
    fingers = np.stack([at[f"l{name}"] for name in ("thumb", "index", "middle", "ring", "pinky")])
    assert (np.diff(fingers[:, 2]) < 0).all() and fingers[:, 0].argmax() == 2  # palms down: thumbs forward
    assert at["LBigToe"][2] > at["LSmallToe"][2] > at["LHeel"][2] and at["LBigToe"][0] < at["LSmallToe"][0]
    assert at["LHeel"][1] < arrays["v_template"][:, 1].min() + 0.04


def test_leaves_are_the_ends_of_their_limbs(arrays):
    vertices, owner = arrays["v_template"], arrays["weights"].argmax(1)
    named = [JOINT_NAMES[joint] for joint in LEAF_PARENTS]
    assert named == ["head", "left_hand", "right_hand", "left_foot", "right_foot"]
    assert owner[list(LEAF_VERTICES)].tolist() == list(LEAF_PARENTS)
    top, left_hand, right_hand, left_foot, right_foot = vertices[list(LEAF_VERTICES)]
    assert vertices[:, 1].max() - top[1] < 0.01 and abs(top[0]) < 0.01
    assert vertices[:, 0].max() - left_hand[0] < 0.01 and right_hand[0] - vertices[:, 0].min() < 0.01
    for foot, sign in ((left_foot, 1), (right_foot, -1)):
        assert vertices[:, 2].max() - foot[2] < 0.01 and sign * foot[0] > 0.05


def test_joints_and_vertices_are_those_of_smplx(arrays, body, poses):
    rotations, betas = poses
    reference = smplx_body(arrays, len(betas))
    with torch.no_grad():
        theirs = reference(betas=betas, global_orient=rotations[:, 0], body_pose=rotations[:, 1:].flatten(1))
        ours = body(rotations, betas)
    torch.testing.assert_close(ours.joints, theirs.joints[:, :24], atol=1e-6, rtol=0)
    torch.testing.assert_close(ours.vertices, theirs.vertices, atol=2e-6, rtol=0)
    np.testing.assert_array_equal(body.faces, arrays["f"])


def test_joints_and_vertices_are_those_of_smplx_in_double_precision(arrays, poses):
    rotations, betas = (value.double() for value in poses)
    body, reference = BodyModel(arrays).double(), smplx_body(arrays, len(betas)).double()
    theirs = reference(betas=betas, global_orient=rotations[:, 0], body_pose=rotations[:, 1:].flatten(1))
    ours = body(rotations, betas)
    torch.testing.assert_close(ours.joints, theirs.joints[:, :24], atol=5e-7, rtol=0)
    torch.testing.assert_close(ours.vertices, theirs.vertices, atol=5e-7, rtol=0)


def test_pose_directions_are_applied_as_in_smplx(arrays, poses):
    rotations, betas = poses
    posedirs = np.random.default_rng(0).normal(0, 1e-3, (6890, 3, 207)).astype(np.float32)
    body = BodyModel({**arrays, "posedirs": posedirs})
    flat = torch.tensor(posedirs.reshape(-1, 207).T)
    rest = (body.v_template, body.shapedirs, flat, body.J_regressor, body.parents, body.lbs_weights)
    expected, _ = lbs(betas, rotations.flatten(1), *rest)
    torch.testing.assert_close(body(rotations, betas).vertices, expected, atol=2e-6, rtol=0)


def test_leaves_move_rigidly_with_their_parent_joint(body, poses):
    rotations, betas = poses
    rest = body(torch.zeros_like(rotations), betas)
    posed = body(rotations, betas)
    shaped = rest.vertices[:, list(LEAF_VERTICES)]
    torch.testing.assert_close(rest.joints29[:, 24:], shaped, atol=1e-6, rtol=0)
    torch.testing.assert_close(posed.joints29[:, :24], posed.joints, atol=0, rtol=0)
    parents = list(LEAF_PARENTS)
    before, after = (out.joints29[:, 24:] - out.joints[:, parents] for out in (rest, posed))
    turn = torch.eye(3).expand(len(betas), 5, 3, 3)
    chains = [parents]
    while any(joint >= 0 for joint in chains[-1]):
        chains.append([PARENTS[joint] if joint >= 0 else -1 for joint in chains[-1]])
    matrices = torch.cat([roma.rotvec_to_rotmat(rotations), torch.eye(3).expand(len(betas), 1, 3, 3)], dim=1)
    for chain in chains:
        turn = matrices[:, chain] @ turn
    torch.testing.assert_close(after, (turn @ before.unsqueeze(-1)).squeeze(-1), atol=1e-6, rtol=0)


def test_skeleton_is_the_joints_of_forward(body, poses):
    rotations, betas = poses
    torch.testing.assert_close(body.skeleton(rotations, betas), body(rotations, betas).joints, atol=1e-6, rtol=0)
    one = body.skeleton(rotations[:1], betas[:1])
    torch.testing.assert_close(one, body.skeleton(rotations, betas)[:1], atol=1e-6, rtol=0)


def test_bones_keep_their_length_in_any_pose(body, poses):
    rotations, betas = poses

    def lengths(joints):
        return (joints[:, 1:] - joints[:, list(PARENTS[1:])]).norm(dim=-1)

    posed = lengths(body.skeleton(rotations, betas))
    torch.testing.assert_close(posed, lengths(body.skeleton(torch.zeros_like(rotations), betas)), atol=1e-6, rtol=0)


def test_turning_the_pelvis_turns_everything_about_it(body, poses):
    rotations, betas = poses
    matrices = roma.rotvec_to_rotmat(rotations)
    turn = roma.rotvec_to_rotmat(torch.tensor([0.3, -1.0, 0.6]))
    turned = torch.cat([(turn @ matrices[:, :1]), matrices[:, 1:]], dim=1)
    before, after = body(matrices, betas), body(turned, betas)
    pelvis = before.joints[:, :1]
    for was, now in zip(before, after, strict=True):
        torch.testing.assert_close(now, (was - pelvis) @ turn.T + pelvis, atol=3e-6, rtol=0)


def test_axis_angle_and_matrices_say_the_same(body, poses):
    rotations, betas = poses
    expected = body.skeleton(roma.rotvec_to_rotmat(rotations), betas)
    for form in (rotations, rotations.flatten(1)):
        torch.testing.assert_close(body.skeleton(form, betas), expected, atol=0, rtol=0)
    one_shape = body.skeleton(rotations, betas[:1])
    torch.testing.assert_close(one_shape, body.skeleton(rotations, betas[:1].expand(16, 10)), atol=0, rtol=0)


def test_gradients_agree_with_differences(arrays, poses):
    body = BodyModel(arrays).double()
    rotations, betas = (value[:1].double().requires_grad_() for value in poses)
    assert torch.autograd.gradcheck(body.skeleton, (rotations, betas), atol=1e-6)
    body(rotations, betas).joints29.square().sum().backward()
    assert rotations.grad is not None and rotations.grad[:, :23].abs().sum() > 0 and betas.grad.abs().min() > 0


def test_zero_pose_has_finite_gradients(body):
    rotations = torch.zeros(2, 24, 3, requires_grad=True)
    body.skeleton(rotations, torch.zeros(2, 10)).sum().backward()
    assert rotations.grad is not None and rotations.grad.isfinite().all()


@pytest.mark.parametrize(
    ("rotations", "betas"),
    [((2, 23, 3), (2, 10)), ((2, 24, 6), (2, 10)), ((2, 24, 3), (3, 10)), ((2, 72), (2, 11)), ((24, 3), (1, 10))],
)
def test_wrong_shapes_are_refused(body, rotations, betas):
    with pytest.raises(BadInput, match=r"body: (rotations|betas) have shape"):
        body(torch.zeros(rotations), torch.zeros(betas))


def test_identity_is_of_the_arrays(arrays, body):
    assert body.name == "open" and body.sha256 == digest(arrays)
    changed = {**arrays, "v_template": arrays["v_template"] + np.float32(1e-6)}
    assert digest(changed) != body.sha256
