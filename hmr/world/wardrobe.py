"""What people wear: the garments of `garments.npz` (built by experiments/build/garments.py) and how they are combined.

A garment's vertices lie in the open body's T-pose and follow its shape and its joints. Sleeves and legs are cut where
an outfit says so, pixel by pixel; `cut` is a distance in m beyond which a vertex is cut off.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from hmr.body.files import load_body
from hmr.world import fabric

Array = NDArray[np.float32]

# garments that nothing is trained on: those of `synth-shift`, beside the others
SHIFT_GARMENTS = (
    "male_casualsuit03", "male_elegantsuit01", "female_sportsuit01", "shoes03", "fedora_cocked", "long01", "short02",
)  # fmt: skip
TOPS, BOTTOMS = ("top", "long_top"), ("trousers", "shorts", "skirt")
ARM = 0.16  # m from the middle, where sleeves begin
BIAS = {"body": 0.010, "trousers": 0.004, "shorts": 0.004, "skirt": 0.003, "shoes": 0.002, "overall": -0.003}
GLOSS = {"body": 0.08, "shoes": 0.15, "hair": 0.10, "hat": 0.02}


@dataclass(frozen=True)
class Body:
    """The open body's arrays as the kernels want them; index, weight (V,4) are its largest skin weights."""

    vertices: Array
    shapes: Array  # (V*3, 10)
    joints: Array
    joint_shapes: Array  # (24, 3, 10)
    index: NDArray[np.uint8]
    weight: Array
    faces: NDArray[np.int32]
    axis: NDArray[np.uint8]
    parents: NDArray[np.int64]


@dataclass(frozen=True)
class Garment:
    """One thing to wear: T-pose vertices (V,3) m, the body vertices (V,3) and shares (V,3) it is shaped by, joints and
    weights (V,4), faces (F,3), whether they are trimming (F,), the plane they are painted in (F,), hidden skin (B,)."""

    name: str
    kind: str
    vertices: Array
    corners: NDArray[np.int32]
    shares: Array
    index: NDArray[np.uint8]
    weight: Array
    faces: NDArray[np.int32]
    trim: NDArray[np.bool_]
    axis: NDArray[np.uint8]
    hides: NDArray[np.bool_]


@dataclass(frozen=True)
class Worn:
    """A garment as somebody wears it: cut (V,) and hidden skin (B,) follow from `limit`, the materials are those of its
    cloth and trimming, bias in m puts it below (> 0) or above other layers."""

    garment: Garment
    cut: Array
    hides: NDArray[np.bool_]
    cloth: Array
    trim: Array
    bias: float


@cache
def body() -> Body:
    model = load_body("open")
    arrays = {k: v.detach().cpu().numpy() for k, v in model.named_buffers()}
    vertices, weights, regressor = arrays["v_template"], arrays["lbs_weights"], arrays["J_regressor"]
    index = np.argsort(-weights, 1)[:, :4]
    weight = np.take_along_axis(weights, index, 1)
    shapes = arrays["shapedirs"]
    faces = np.ascontiguousarray(arrays["faces"], np.int32)
    return Body(
        vertices=np.ascontiguousarray(vertices, np.float32),
        shapes=np.ascontiguousarray(shapes.reshape(-1, shapes.shape[-1]), np.float32),
        joints=(regressor @ vertices).astype(np.float32),
        joint_shapes=np.einsum("jv,vkl->jkl", regressor, shapes).astype(np.float32),
        index=index.astype(np.uint8),
        weight=(weight / weight.sum(1, keepdims=True)).astype(np.float32),
        faces=faces,
        axis=planes(vertices, faces),
        parents=arrays["parents"].astype(np.int64),
    )


def planes(vertices: Array, faces: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Which rest coordinates (F,) a face is painted in: 0 x y, 1 z y, 2 y x, 3 z x (arms), 4 x z (seen from above)."""
    corner = vertices[faces].astype(np.float64)
    normal = np.abs(np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]))
    middle = corner.mean(1)
    arm = (np.abs(middle[:, 0]) > ARM + 0.03) & (middle[:, 1] > 0.3)
    trunk = np.where(normal[:, 2] >= normal[:, 0], 0, 1)
    trunk = np.where(normal[:, 1] > 2 * normal[:, [0, 2]].max(1), 4, trunk)
    return np.where(arm, np.where(normal[:, 2] >= normal[:, 1], 2, 3), trunk).astype(np.uint8)


@cache
def garments() -> tuple[Garment, ...]:
    """All garments of the package."""
    with files("hmr").joinpath("assets", "garments.npz").open("rb") as stream:
        arrays = dict(np.load(stream, allow_pickle=False))
    skin = body()
    trim = np.unpackbits(arrays["trim"], count=int(arrays["face_counts"].sum())).astype(bool)
    hides = np.unpackbits(arrays["hides"], axis=1, count=len(skin.vertices)).astype(bool)
    shares = arrays["mix"].astype(np.float32) / 255
    shares = np.concatenate([shares, 1 - shares.sum(1, keepdims=True)], 1)
    weights = arrays["weights"].astype(np.float32)
    found, v, f = [], 0, 0
    for i, (nv, nf) in enumerate(zip(arrays["vertex_counts"], arrays["face_counts"], strict=True)):
        vertices = arrays["vertices"][v : v + nv].astype(np.float32)
        faces = np.ascontiguousarray(arrays["faces"][f : f + nf], np.int32)
        kind = str(arrays["kinds"][i])
        below = vertices[faces].mean(1)[:, 1] < -0.02
        weight = weights[v : v + nv]
        found.append(
            Garment(
                name=str(arrays["names"][i]),
                kind=kind,
                vertices=vertices,
                corners=skin.faces[arrays["anchor"][v : v + nv]],
                shares=shares[v : v + nv],
                index=arrays["joints"][v : v + nv],
                weight=weight / weight.sum(1, keepdims=True),
                faces=faces,
                trim=below if kind == "suit" else trim[f : f + nf],
                axis=planes(vertices, faces),
                hides=hides[i],
            )
        )
        v, f = v + nv, f + nf
    return tuple(found)


@cache
def stock(shift: bool) -> dict[str, tuple[Garment, ...]]:
    """Garments by kind; without `shift` those that training may see."""
    chosen = [g for g in garments() if shift or not g.name.startswith(SHIFT_GARMENTS)]
    if shift:  # what was held out comes first and again: most outfits of `synth-shift` have some of it
        held = [g for g in chosen if g.name.startswith(SHIFT_GARMENTS)]
        chosen = chosen + held * 3
    return {kind: tuple(g for g in chosen if g.kind == kind) for kind in sorted({g.kind for g in garments()})}


def outfit(rng: np.random.Generator, shift: bool, hair: Array) -> list[Worn]:
    """Garments that go together, each with its cloth; `hair` is the material of the wearer's."""
    rack = stock(shift)

    def one(*kinds: str) -> Garment:
        choice = [g for kind in kinds for g in rack[kind]]
        return choice[int(rng.integers(len(choice)))]

    found: list[Worn] = []
    style = rng.random()
    if style < 0.06:
        found.append(worn(one("suit"), fabric.top_cloth(rng), fabric.bottom_cloth(rng, 0.0)))
    elif style < 0.14:
        found += [top(rng, one(*TOPS, "under_top")), worn(one("overall"), fabric.cloth(rng, 0.9), fabric.leather(rng))]
    elif style < 0.22:  # a dress
        upper, lower = top(rng, one(*TOPS)), one("skirt")
        found += [upper, bottom(rng, lower, upper.cloth)]
    else:
        if rng.random() > 0.04:
            found.append(top(rng, one(*TOPS)))
        found.append(bottom(rng, one("trousers") if rng.random() < 0.65 else one("shorts", "skirt"), None))
    if rng.random() < 0.9:
        found.append(worn(one("shoes"), fabric.leather(rng), fabric.leather(rng)))
    if rng.random() < 0.1:
        found.append(worn(one("hat"), fabric.leather(rng), fabric.leather(rng)))
    elif rng.random() < 0.9:
        found.append(worn(one("hair"), hair, hair))
    return found


def top(rng: np.random.Generator, garment: Garment) -> Worn:
    """A top whose sleeves may be shorter than they were made."""
    limit = None
    if garment.kind == "long_top" and rng.random() < 0.4:
        limit = rng.uniform(0.26, 0.66)
    elif garment.kind == "top" and rng.random() < 0.2:
        limit = rng.uniform(0.19, 0.27)
    return worn(garment, fabric.top_cloth(rng), fabric.top_cloth(rng), sleeve=limit)


def bottom(rng: np.random.Generator, garment: Garment, cloth: Array | None) -> Worn:
    """Trousers that may be cut to shorts; some are worn over the top."""
    limit = None
    if garment.kind == "trousers" and rng.random() < 0.35:
        limit = rng.uniform(-0.75, -0.22)
    waist = float(garment.vertices[:, 1].max())
    cloth = fabric.bottom_cloth(rng, waist) if cloth is None else cloth
    above = -0.012 if rng.random() < 0.25 else 0.0
    return worn(garment, cloth, fabric.leather(rng), leg=limit, above=above)


def worn(
    garment: Garment,
    cloth: Array,
    trim: Array,
    sleeve: float | None = None,
    leg: float | None = None,
    above: float = 0.0,
) -> Worn:
    """A garment in its cloth, cut at |x| = `sleeve` m or y = `leg` m of the rest pose."""
    if sleeve is None and leg is None:
        return Worn(
            garment, uncut(len(garment.vertices)), garment.hides, cloth, trim, BIAS.get(garment.kind, 0.0) + above
        )
    cut, skin = (beyond(points, sleeve, leg) for points in (garment.vertices, body().vertices))
    return Worn(garment, cut, garment.hides & (skin < -0.02), cloth, trim, BIAS.get(garment.kind, 0.0) + above)


def beyond(points: Array, sleeve: float | None, leg: float | None) -> Array:
    """How far (V,) m points (V,3) of the rest pose lie beyond where sleeves or legs are cut."""
    if sleeve is not None:
        return np.abs(points[:, 0]) - np.float32(sleeve)
    return np.float32(leg or 0) - points[:, 1]


@cache
def uncut(count: int) -> Array:
    return np.full(count, -1, np.float32)


def gloss_of(kind: str) -> float:
    return GLOSS.get(kind, 0.0)
