"""Motion as a binary glTF 2.0: one skinned mesh, a bone for each joint, and a channel of rotations for each bone.

The format is Khronos', https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import roma
import torch
from numpy.typing import NDArray

from hmr.animation.track import Track
from hmr.animation.upright import Y_UP_AXES, UprightMotion, upright_motion
from hmr.body.model import BodyModel
from hmr.world.geometry import vertex_normals

BYTE, SHORT, FLOAT = 5121, 5123, 5126  # unsigned, unsigned, and 32 bits
VERTICES, FACES = 34962, 34963  # what a buffer is for
KINDS = {1: "SCALAR", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
BONES = 4  # that a vertex hangs on, as many as every viewer reads
SKIN = (0.34, 0.71, 0.91, 1.0)


class Buffer:
    """The binary part of a file, and what the JSON part says of it."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def add(self, values: NDArray[Any], kind: int, target: int | None = None, limits: bool = False) -> int:
        """Append values (N,) or (N, C), and return the number of their accessor."""
        flat = np.ascontiguousarray(values).reshape(len(values), -1)
        content = flat.tobytes()
        self.views.append(
            {"buffer": 0, "byteOffset": len(self.content), "byteLength": len(content)}
            | ({"target": target} if target else {})
        )
        accessor: dict[str, Any] = {"bufferView": len(self.views) - 1, "componentType": kind, "count": len(flat)}
        accessor["type"] = KINDS[flat.shape[1]]
        if limits:
            accessor |= {"min": flat.min(0).tolist(), "max": flat.max(0).tolist()}
        self.accessors.append(accessor)
        self.content += content + bytes(-len(content) % 4)
        return len(self.accessors) - 1


def glb(track: Track, body: BodyModel) -> bytes:
    """A person's motion as a file; times are those of the video. Pose blend shapes are not in it:
    `skinning_error_m` says how far that is off."""
    found, buffer = upright_motion(track, body), Buffer()
    count = len(found.names)
    nodes: list[dict[str, Any]] = [bone(found, i) for i in range(count)]
    nodes.append({"name": f"person {track.id}", "mesh": 0, "skin": 0})
    inverse = np.tile(np.eye(4, dtype=np.float32), (count, 1, 1))
    inverse[:, 3, :3] = -found.joints  # glTF writes matrices column by column
    document = {
        "asset": {
            "version": "2.0",
            "generator": "fasthmr",
            "extras": {"units": "metres", "axes": Y_UP_AXES, "camera": f"focal length {track.focal_px:g} px"},
        },
        "scene": 0,
        "scenes": [{"nodes": [0, count]}],
        "nodes": nodes,
        "meshes": [{"primitives": [mesh(found, body, buffer)]}],
        "materials": [{"pbrMetallicRoughness": {"baseColorFactor": SKIN, "metallicFactor": 0.0}}],
        "skins": [
            {"joints": list(range(count)), "skeleton": 0, "inverseBindMatrices": buffer.add(inverse, FLOAT)},
        ],
        "animations": [animation(found, track.time_s, buffer)],
        "accessors": buffer.accessors,
        "bufferViews": buffer.views,
        "buffers": [{"byteLength": len(buffer.content)}],
    }
    return container(json.dumps(document).encode(), bytes(buffer.content))


def bone(motion: UprightMotion, number: int) -> dict[str, Any]:
    """A joint as a node that stands where its parent leaves it at rest."""
    parent = motion.parents[number]
    place = motion.joints[number] - (motion.joints[parent] if parent >= 0 else 0)
    children = [i for i, above in enumerate(motion.parents) if above == number]
    return {"name": motion.names[number], "translation": place.tolist()} | ({"children": children} if children else {})


def mesh(motion: UprightMotion, body: BodyModel, buffer: Buffer) -> dict[str, Any]:
    """The resting surface and what it hangs on."""
    bones, weights = heaviest(body)
    faces = body.faces.numpy()
    normals = vertex_normals(motion.vertices, faces.astype(np.int32))
    return {
        "attributes": {
            "POSITION": buffer.add(motion.vertices, FLOAT, VERTICES, limits=True),
            "NORMAL": buffer.add(normals.astype(np.float32), FLOAT, VERTICES),
            "JOINTS_0": buffer.add(bones, BYTE, VERTICES),
            "WEIGHTS_0": buffer.add(weights, FLOAT, VERTICES),
        },
        "indices": buffer.add(faces.astype(np.uint16).reshape(-1), SHORT, FACES),
        "material": 0,
    }


def heaviest(body: BodyModel) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The bones (V, 4) that vertices hang on most, and by how much (V, 4), which sums to one."""
    weights = body.lbs_weights.numpy()
    bones = np.argsort(-weights, 1, kind="stable")[:, :BONES]
    share = np.take_along_axis(weights, bones, 1)
    bones[share == 0] = 0  # as the format wants it
    return bones.astype(np.uint8), (share / share.sum(1, keepdims=True)).astype(np.float32)


def animation(motion: UprightMotion, times: NDArray[np.float64], buffer: Buffer) -> dict[str, Any]:
    """How bones turn, and where the pelvis is."""
    time = buffer.add(times.astype(np.float32), FLOAT, limits=True)
    turns = quaternions(motion.rotations)  # (T, J, 4)
    outputs = [buffer.add(turns[:, i], FLOAT) for i in range(len(motion.names))]
    targets = [{"node": i, "path": "rotation"} for i in range(len(motion.names))]
    outputs.append(buffer.add(motion.pelvis.astype(np.float32), FLOAT))
    targets.append({"node": 0, "path": "translation"})
    return {
        "samplers": [{"input": time, "output": output, "interpolation": "LINEAR"} for output in outputs],
        "channels": [{"sampler": i, "target": target} for i, target in enumerate(targets)],
    }


def quaternions(rotations: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rotations (T, J, 3, 3) -> x, y, z, w (T, J, 4), each on the side of the one before, so that none spins round."""
    found = roma.rotmat_to_unitquat(torch.from_numpy(rotations).double()).numpy()
    flips = np.sign((found[1:] * found[:-1]).sum(-1))
    found[1:] *= np.cumprod(np.where(flips < 0, -1, 1), 0)[..., None]
    return found.astype(np.float32)


def container(document: bytes, content: bytes) -> bytes:
    """The two chunks of a binary file, each a multiple of four bytes long."""
    document += b" " * (-len(document) % 4)
    total = 12 + 8 + len(document) + 8 + len(content)
    chunks: Sequence[bytes] = (
        struct.pack("<4sII", b"glTF", 2, total),
        struct.pack("<I4s", len(document), b"JSON"),
        document,
        struct.pack("<I4s", len(content), b"BIN\0"),
        content,
    )
    return b"".join(chunks)


def skinning_error_m(track: Track, body: BodyModel, most: int = 30) -> float:
    """How far the body's own surface lies from that in the file, in metres, at most over some frames: what pose blend
    shapes move, and bones beyond the four that count. 0 for the open body."""
    rows = np.unique(np.linspace(0, len(track) - 1, min(most, len(track))).astype(int))
    part = track.part(rows)
    whole = part.vertices_m(body)
    bones, weights = heaviest(body)
    with torch.no_grad():
        betas = torch.from_numpy(track.betas[None])
        joints, turns = body.chain(torch.from_numpy(part.rotations), betas)
        rest = body.rest_joints(betas)[0]
        shaped = (body.v_template + body.shapedirs @ betas[0]).numpy()
    local = shaped[:, None] - rest.numpy()[bones]  # (V, 4, 3)
    worst = 0.0
    for i in range(len(rows)):
        moved = np.einsum("vkab,vkb->vka", turns[i].numpy()[bones], local) + joints[i].numpy()[bones]
        skinned = (weights[..., None] * moved).sum(1) + part.translation_m[i]
        worst = max(worst, float(np.linalg.norm(skinned - whole[i], axis=1).max()))
    return worst
