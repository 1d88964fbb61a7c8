"""People: a body of some shape in an outfit as one mesh, and that mesh in a pose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hmr.world import fabric, geometry
from hmr.world.light import yaw
from hmr.world.wardrobe import BIAS, Worn, body, gloss_of, outfit

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Surface:
    """A mesh as it is drawn: vertices (V,3) m, `paint` (V,3) m, the rest coordinates that materials are evaluated at;
    cut, bias, gloss (V,) as in `Worn`; faces (F,3), the row of `materials` (M,columns), the plane of rest coordinates
    and whether the back is left out of each (F,)."""

    vertices: Array
    paint: Array
    cut: Array
    bias: Array
    gloss: Array
    faces: NDArray[np.int32]
    material: NDArray[np.int16]
    axis: NDArray[np.uint8]
    culled: NDArray[np.bool_]
    materials: Array


@dataclass(frozen=True)
class Mesh(Surface):
    """One in its place, with normals (V,3)."""

    normals: Array


@dataclass(frozen=True)
class Figure(Surface):
    """Somebody dressed, in T-pose: the body's vertices come first, hidden faces are not there; see `Worn` for the rest.
    `paint` is the shape of mean betas."""

    betas: Array
    joints: Array  # (24, 3) m
    index: NDArray[np.uint8]
    weight: Array


@dataclass(frozen=True)
class Posed:
    """Somebody in the world: vertices, normals (V,3), joints (24,3) m, the root's rotation (3,3)."""

    vertices: Array
    normals: Array
    joints: Array
    root: Array


def figure(rng: np.random.Generator, shift: bool = False) -> Figure:
    """Somebody of some shape in some outfit; with `shift` in garments that nothing is trained on."""
    betas = shape(rng)
    skin, hair = fabric.skin_and_hair(rng)
    return dressed(betas, skin, outfit(rng, shift, hair))


def shape(rng: np.random.Generator) -> Array:
    """Betas (10,) of somebody."""
    return np.clip(rng.normal(size=10), -2.5, 2.5).astype(np.float32)


def dressed(betas: Array, skin: Array, clothes: list[Worn]) -> Figure:
    """A body and its clothes as one mesh."""
    naked = body()
    moved = (naked.shapes @ betas).reshape(-1, 3)  # (V*3,) -> (V, 3)
    counts = [len(naked.vertices), *(len(w.garment.vertices) for w in clothes)]
    starts = np.cumsum([0, *counts])
    vertices = np.empty((starts[-1], 3), np.float32)
    vertices[: counts[0]] = naked.vertices + moved
    hidden = np.zeros(counts[0], bool)
    for start, one in zip(starts[1:], clothes, strict=False):
        geometry.anchored(vertices, start, one.garment.vertices, moved, one.garment.corners, one.garment.shares)
        hidden |= one.hides
    visible = geometry.uncovered(naked.faces, hidden)
    bare = naked.faces[visible]
    material = [np.zeros(len(bare), np.int16)]
    material += [(1 + 2 * i + w.garment.trim).astype(np.int16) for i, w in enumerate(clothes)]
    kinds = ["body", *(w.garment.kind for w in clothes)]
    return Figure(
        betas=betas,
        joints=naked.joints + naked.joint_shapes @ betas,
        vertices=vertices,
        paint=np.concatenate([naked.vertices, *(w.garment.vertices for w in clothes)]),
        index=np.concatenate([naked.index, *(w.garment.index for w in clothes)]),
        weight=np.concatenate([naked.weight, *(w.garment.weight for w in clothes)]),
        cut=np.concatenate([np.full(counts[0], -1, np.float32), *(w.cut for w in clothes)]),
        bias=np.repeat(np.array([BIAS["body"], *(w.bias for w in clothes)], np.float32), counts),
        gloss=np.repeat(np.array([gloss_of(kind) for kind in kinds], np.float32), counts),
        faces=np.concatenate(
            [bare, *(w.garment.faces + np.int32(s) for s, w in zip(starts[1:], clothes, strict=False))]
        ),
        material=np.concatenate(material),
        axis=np.concatenate([naked.axis[visible], *(w.garment.axis for w in clothes)]),
        culled=np.arange(len(bare) + sum(len(w.garment.faces) for w in clothes)) < len(bare),
        materials=np.stack([skin, *(row for w in clothes for row in (w.cloth, w.trim))]),
    )


def posed(who: Figure, rotations: Array, heading: float, place: Array, travel: Array | None) -> Posed:
    """Somebody in a pose of local rotations (24,3,3), turned by `heading` radians about y.

    travel (3,) m is where the motion puts the pelvis above the floor; None stands the person on the floor at `place`.
    """
    turned = rotations.copy()
    turned[0] = yaw(heading) @ rotations[0]
    glob, joints = geometry.chain(turned, who.joints, body().parents)
    out = geometry.skin(who.vertices, glob, joints, who.joints, who.index, who.weight)
    ground = np.array([0, -out[:, 1].min(), 0], np.float32)
    shift = (place + (ground if travel is None else yaw(heading) @ travel - who.joints[0])).astype(np.float32)
    out += shift
    return Posed(out, geometry.vertex_normals(out, who.faces), joints + shift, turned[0])
