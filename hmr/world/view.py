"""How a scene becomes a picture with labels: people posed, the camera aimed at the subject, everything drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hmr.data.sample import Sample
from hmr.world import render
from hmr.world.scene import Array, Doubles, Mesh, Person, Scene, mesh

_GRAIN = np.random.default_rng(7).normal(size=1 << 18).astype(np.float32)


@dataclass(frozen=True)
class Layer:
    """One mesh to draw: vertices (V,3) m and normals (V,3) in crop-camera axes, colours (V,3) 0..255."""

    vertices: Array
    faces: NDArray[np.int64]
    normals: Array
    colours: Array


def draw(
    rng: np.random.Generator,
    room: Scene,
    rotations: Array,
    travel: Array | None,
    other: Array | None,
    clip: str,
    size: tuple[int, int],
) -> Sample:
    """See a posed subject in a room. rotations (24,3,3) local, travel (3,) m or None (see `posed`), other: the
    bystander's rotations (24,3,3)."""
    body = mesh()
    vertices, joints, rest, root = posed(room.subject, body, rotations, travel)
    jitter = rng.normal(0, room.world.box_jitter, 2)
    rotation, focal = aim(room.camera, room.centre, vertices, jitter, rng.uniform(*room.world.margin), size)
    light, face_id = paint(room, body, vertices, joints, other, rotation, focal, size)
    image = render.develop(light, room.blur, room.exposure, room.noise, _GRAIN, int(rng.integers(len(_GRAIN))))
    height, width = size
    seen = (joints - room.centre) @ rotation.T
    pixels = focal * seen[:, :2] / seen[:, 2:] / (width, height)
    origin = seen[0] - rest[0]
    scale = 2 * focal / (height * seen[0, 2])  # HMR2.0: a point at depth 2 f / (H s) is drawn s H / 2 pixels a metre
    turned = rotations.copy()
    turned[0] = rotation @ root
    part, canonical = patches(body, face_id)
    return Sample(
        image=image,
        mask=(face_id >= 0) & (face_id < len(body.faces)),
        rotations=turned,
        betas=room.subject.betas,
        joints=(seen - seen[0]).astype(np.float32),
        keypoints=pixels.astype(np.float32),
        camera=np.array([scale, origin[0], origin[1]], np.float32),
        translation=origin.astype(np.float32),
        focal=focal,
        part=part,
        canonical=canonical,
        recording=clip,
        gender="neutral",
    )


def yaw(angle: float) -> Array:
    """Turn (3,3) by `angle` radians about y."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]], np.float32)


def posed(who: Person, body: Mesh, rotations: Array, travel: Array | None) -> tuple[Array, Array, Array, Array]:
    """World vertices (V,3), joints (24,3), rest joints and turned root (3,3) of a person.

    travel (3,) m is where the motion puts the pelvis above the floor; None stands the person on the floor at `place`.
    """
    vertices = body.vertices + (body.shapes @ who.betas).reshape(-1, 3)  # (V*3,) -> (V, 3)
    rest = body.joints + body.joint_shapes @ who.betas
    turned = rotations.copy()
    turned[0] = yaw(who.heading) @ rotations[0]
    glob, joints = render.chain(turned, rest, body.parents)
    out = render.skin(vertices, glob, joints, rest, body.index, body.weight)
    ground = np.array([0, -out[:, 1].min(), 0], np.float32)
    shift = who.place + (ground if travel is None else yaw(who.heading) @ travel - rest[0])
    return out + shift, joints + shift, rest, turned[0]


def aim(
    rotation: Array, centre: Array, vertices: Array, jitter: Doubles, margin: float, size: tuple[int, int]
) -> tuple[Array, float]:
    """Turn a camera to the middle of the subject's box and zoom: rotation (3,3) and focal length in crop pixels.

    The crop of a perspective picture is the picture of a turned camera: a box away from the axis is seen as its own
    camera sees it, which is what "crop-camera axes" means.
    """
    low, high = box_of((vertices - centre) @ rotation.T)
    middle = (low + high) / 2 + jitter * (high - low)
    ray = np.array([middle[0], middle[1], 1.0])
    ray /= np.linalg.norm(ray)
    # smallest rotation that takes the ray to +z (Rodrigues' formula between two unit vectors)
    cross = np.array([[0, 0, -ray[0]], [0, 0, -ray[1]], [ray[0], ray[1], 0]])
    turned = (np.eye(3) + cross + cross @ cross / (1 + ray[2])) @ rotation
    low, high = box_of((vertices - centre) @ turned.T)
    height, width = size
    side = max((high[1] - low[1]) / height, (high[0] - low[0]) / width) * margin
    return turned.astype(np.float32), float(1 / side)


def box_of(seen: Array | Doubles) -> tuple[Doubles, Doubles]:
    """Corners (2,) of camera-axes points (V,3) on the plane z = 1."""
    x, y, z = np.ascontiguousarray(seen.T)  # reductions along contiguous rows are five times faster
    z = np.maximum(z, 0.1)
    x, y = x / z, y / z
    return np.array([x.min(), y.min()]), np.array([x.max(), y.max()])


def paint(
    room: Scene,
    body: Mesh,
    vertices: Array,
    joints: Array,
    other: Array | None,
    rotation: Array,
    focal: float,
    size: tuple[int, int],
) -> tuple[Array, NDArray[np.int32]]:
    """Picture (H,W,3) before the sensor, and the number (H,W) of the face each pixel shows, the subject's first."""
    image = np.empty((*size, 3), np.float32)
    face_id = np.full(size, render.NO_FACE, np.int32)
    bary, near = np.zeros((*size, 3), np.float32), np.zeros(size, np.float32)
    light = rotation @ room.light
    layers = [layer(room, rotation, vertices, body.faces, room.subject.colours)]
    shadows = [joints]
    if room.bystander is not None and other is not None:
        points, others, _, _ = posed(room.bystander, body, other, None)
        layers.append(layer(room, rotation, points, body.faces, room.bystander.colours))
        shadows.append(others)
    if len(room.props.faces):
        boxes = room.props
        layers.append(layer(room, rotation, boxes.vertices, boxes.faces, boxes.colours, boxes.normals))
    wall, floor = room.textures
    shadow = contacts(np.concatenate(shadows))
    scale = room.scale * (size[0] / 256)
    render.draw_room(image, focal, rotation, room.centre, room.wall, wall, floor, scale, room.offset, room.gain, shadow)
    firsts = np.cumsum([0, *(len(one.faces) for one in layers)]).tolist()
    for one, first in zip(layers, firsts, strict=False):
        render.rasterise(one.vertices, one.faces, focal, face_id, bary, near, first)
    for one, first in zip(layers, firsts, strict=False):
        render.shade(image, face_id, bary, first, one.faces, one.normals, one.colours, light, room.ambient)
    return image, face_id


def layer(
    room: Scene,
    rotation: Array,
    vertices: Array,
    faces: NDArray[np.int64],
    colours: Array,
    normals: Array | None = None,
) -> Layer:
    """A mesh in world axes as the camera of `rotation` (3,3) sees it; without normals (V,3) a smooth one."""
    seen = np.asarray((vertices - room.centre) @ rotation.T, np.float32)
    turned = render.vertex_normals(seen, faces) if normals is None else normals @ rotation.T
    return Layer(seen, faces, turned, colours * falloff(room, seen) if room.world.flash else colours)


def falloff(room: Scene, seen: Array) -> Array:
    """How bright (V,1) a lamp at the camera makes points (V,3) in camera axes, 1 where the subject stands."""
    away = np.linalg.norm(room.centre[[0, 2]] - room.subject.place[[0, 2]])
    return np.clip((away / np.linalg.norm(seen, axis=1, keepdims=True)) ** 2, 0.3, 2).astype(np.float32)


def contacts(joints: Array) -> Array:
    """Soft shadows (C,4) under the joints (J,3) that are near the floor: x, z, radius m, strength."""
    low = joints[joints[:, 1] < 0.6]
    height = np.maximum(low[:, 1], 0.02)
    return np.stack([low[:, 0], low[:, 2], 0.1 + 0.4 * height, 0.5 * np.exp(-4 * height)], 1).astype(np.float32)


def patches(body: Mesh, face_id: NDArray[np.int32]) -> tuple[NDArray[np.uint8], Array]:
    """Part (16,12) and rest-shape coordinate (16,12,3) m at the middle of each patch of a crop."""
    height, width = face_id.shape
    rows = ((np.arange(16) + 0.5) * height / 16).astype(int)
    columns = ((np.arange(12) + 0.5) * width / 12).astype(int)
    face = face_id[np.ix_(rows, columns)]
    person = (face >= 0) & (face < len(body.faces))
    vertex = body.faces[np.where(person, face, 0), 0]
    part = np.where(person, body.label[vertex] + 1, 0).astype(np.uint8)
    return part, (body.vertices[vertex] * person[..., None]).astype(np.float32)
