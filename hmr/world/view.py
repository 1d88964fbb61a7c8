"""How a scene becomes a picture with labels: people posed, the camera aimed at the subject, everything drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hmr.data.sample import Sample
from hmr.world import geometry, paint, raster, sensor, textures
from hmr.world.backdrop import Shadows, fill
from hmr.world.people import Figure, Mesh, Posed, Surface, posed
from hmr.world.scene import Array, Doubles, Scene, cleared
from hmr.world.wardrobe import body

LEAST = 0.05  # of the crop that the subject has to fill, or what stands before it is taken away
UP = np.array([0.0, 1.0, 0.0], np.float32)


def draw(
    rng: np.random.Generator,
    room: Scene,
    rotations: Array,
    travel: Array | None,
    others: list[Array],
    clip: str,
    size: tuple[int, int],
) -> Sample:
    """See a posed subject in a room. rotations (24,3,3) local, travel (3,) m or None (see `posed`), others: the
    rotations (24,3,3) of the other people."""
    subject = posed(room.subject, rotations, room.heading, np.zeros(3, np.float32), travel)
    rotation, focal = aim(rng, room, subject.vertices[: len(body().vertices)], size)
    people = [subject, *(posed(o.who, r, o.heading, o.place, None) for o, r in zip(room.others, others, strict=True))]
    light, face_id = exposure(room, people, rotation, focal, size)
    if raster.shown(face_id, len(room.subject.faces)).mean() < LEAST:
        people = [subject, *(p for p, o in zip(people[1:], room.others, strict=True) if o.is_behind)]
        room = cleared(room)
        light, face_id = exposure(room, people, rotation, focal, size)
    image = sensor.developed(rng, light, room.sensor)
    return labelled(room, subject, rotations, image, face_id, rotation, focal, clip)


def labelled(
    room: Scene,
    subject: Posed,
    rotations: Array,
    image: NDArray[np.uint8],
    face_id: NDArray[np.int32],
    rotation: Array,
    focal: float,
    clip: str,
) -> Sample:
    """The picture (H,W,3) with what is known about it; face_id (2H,2W) is the face that each sample shows."""
    height, width = image.shape[:2]
    seen = (subject.joints - room.centre) @ rotation.T
    origin = seen[0] - room.subject.joints[0]
    turned = rotations.copy()
    turned[0] = rotation @ subject.root
    count = len(room.subject.faces)
    mask = raster.shown(face_id, count)
    part, canonical = patches(room.subject, face_id, mask)
    return Sample(
        image=image,
        mask=mask,
        rotations=turned,
        betas=room.subject.betas,
        joints=(seen - seen[0]).astype(np.float32),
        keypoints=(focal * seen[:, :2] / seen[:, 2:] / (width, height)).astype(np.float32),
        # HMR2.0: a point at depth 2 f / (H s) is drawn s H / 2 pixels a metre
        camera=np.array([2 * focal / (height * seen[0, 2]), origin[0], origin[1]], np.float32),
        translation=origin.astype(np.float32),
        focal=focal,
        part=part,
        canonical=canonical,
        recording=clip,
        gender="neutral",
    )


def aim(rng: np.random.Generator, room: Scene, vertices: Array, size: tuple[int, int]) -> tuple[Array, float]:
    """Turn the camera to the middle of the box of vertices (V,3) m and zoom: rotation (3,3), focal length in pixels.

    The crop of a perspective picture is the picture of a turned camera: a box away from the axis is seen as its own
    camera sees it, which is what "crop-camera axes" means.
    """
    world = room.world
    low, high = box_of((vertices - room.centre) @ room.camera.T)
    kept, margin = np.array([[0.0, 0.0], [1.0, 1.0]]), rng.uniform(*world.margin)
    if rng.random() < world.cut:
        kept, margin = cut_off(rng), margin - 0.1
    low, high = low + kept[0] * (high - low), low + kept[1] * (high - low)
    middle = (low + high) / 2 + rng.normal(0, world.box_jitter, 2) * (high - low)
    turned = towards(middle) @ room.camera
    low, high = box_of((vertices - room.centre) @ turned.T)
    height, width = size
    tall, wide = (high - low)[::-1] * (kept[1] - kept[0])[::-1]
    return turned.astype(np.float32), float(1 / (max(tall / height, wide / width) * margin))


def towards(place: Doubles) -> Doubles:
    """The smallest turn (3,3) that takes the ray through a place (2,) on the plane z = 1 to +z (Rodrigues' formula)."""
    ray = np.array([place[0], place[1], 1.0])
    ray /= np.linalg.norm(ray)
    cross = np.array([[0, 0, -ray[0]], [0, 0, -ray[1]], [ray[0], ray[1], 0]])
    return np.asarray(np.eye(3) + cross + cross @ cross / (1 + ray[2]))


def cut_off(rng: np.random.Generator) -> Doubles:
    """Corners (2,2) as shares of a box of what a crop keeps of it: without the legs, the head or one side."""
    kept, kind = np.array([[0.0, 0.0], [1.0, 1.0]]), rng.random()
    if kind < 0.6:
        kept[1, 1] = rng.uniform(0.4, 0.85)
    elif kind < 0.8:
        kept[0, 1] = rng.uniform(0.08, 0.3)
    else:
        kept[int(rng.integers(2)), 0] = rng.uniform(0.2, 0.45)
        kept[1, 0] = 1 - kept[1, 0] if kept[1, 0] < 1 else 1.0
    return kept


def box_of(seen: Array | Doubles) -> tuple[Doubles, Doubles]:
    """Corners (2,) of camera-axes points (V,3) on the plane z = 1."""
    x, y, z = np.ascontiguousarray(seen.T)  # reductions along contiguous rows are five times faster
    z = np.maximum(z, 0.1)
    x, y = x / z, y / z
    return np.array([x.min(), y.min()]), np.array([x.max(), y.max()])


def exposure(
    room: Scene, people: list[Posed], rotation: Array, focal: float, size: tuple[int, int]
) -> tuple[Array, NDArray[np.int32]]:
    """Light (H,W,3) that falls on the sensor, and the number (2H,2W) of the face each sample shows."""
    height, width = size
    mesh, light, maps, axes, middles = lit_mesh(room, people)
    screen = geometry.project(mesh.vertices, rotation, room.centre, 2 * focal, 2 * width, 2 * height, mesh.bias)
    face_id = np.full((2 * height, 2 * width), raster.NO_FACE, np.int32)
    bary = np.empty((2 * height, 2 * width, 2), np.float32)
    near = np.zeros((2 * height, 2 * width), np.float32)
    raster.rasterise(screen, mesh.cut, mesh.faces, mesh.culled, face_id, bary, near)
    image, cover = np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.float32)
    paint.paint(
        image, cover, face_id, bary, screen, mesh.faces, mesh.paint, light, mesh.material, mesh.axis, mesh.materials,
        textures.tiles(), textures.prints(), textures.faces(),
    )  # fmt: skip
    behind(room, people, image, cover, rotation, focal, maps, axes, middles)
    return image, face_id


def lit_mesh(room: Scene, people: list[Posed]) -> tuple[Mesh, Array, Array, Array, Array]:
    """All meshes as one, the light (V,4) on it, lamps' shadow maps (P,L,C,C), axes (1 + L,3,3) and middles (P,3)."""
    sun = room.light
    axes = np.stack([frame_of(aim) for aim in (UP, *sun.aims)])
    middles = np.stack([p.joints[0] for p in people]).astype(np.float32)
    figures = [room.subject, *(o.who for o in room.others)]
    maps = np.zeros((len(people), len(sun.aims), geometry.LAMP_CELLS, geometry.LAMP_CELLS), np.float32)
    skies = []
    for one, own, middle in zip(people, maps, middles, strict=True):
        skies.append(geometry.shadow_map(one.vertices, axes[0], middle, geometry.SKY_CELLS))
        for lamp, frame in zip(own, axes[1:], strict=True):
            lamp[:] = geometry.shadow_map(one.vertices, frame, middle, geometry.LAMP_CELLS)
    drawn: list[Posed | Mesh] = [*people, room.props]  # things lie in the subject's shadow, people each in their own
    whole = joined([*figures, room.props], drawn)
    own_light = [
        geometry.vertex_light(
            one.vertices, one.normals, surface.gloss, sun.harmonics, sun.aims, sun.lamps, room.centre,
            skies[i % len(people)], maps[i % len(people)], axes, middles[i % len(people)],
        )
        for i, (surface, one) in enumerate(zip([*figures, room.props], drawn, strict=True))
    ]  # fmt: skip
    return whole, np.concatenate(own_light), maps, axes, middles


def frame_of(aim: Array) -> Array:
    """Two axes across a direction (3,), and it: (3,3)."""
    side = np.cross(aim, [1.0, 0, 0] if abs(aim[0]) < 0.8 else [0, 1.0, 0])
    side /= np.linalg.norm(side)
    return np.stack([side, np.cross(aim, side), aim]).astype(np.float32)


def joined(surfaces: Sequence[Surface], placed: Sequence[Posed | Mesh]) -> Mesh:
    """People and things as one mesh: each one's surface, and where it stands."""
    starts = np.cumsum([0, *(len(p.vertices) for p in placed)]).astype(np.int32)
    rows = np.cumsum([0, *(len(s.materials) for s in surfaces)]).astype(np.int16)
    alike = ("paint", "cut", "bias", "gloss", "axis", "culled", "materials")
    return Mesh(
        vertices=np.concatenate([p.vertices for p in placed]),
        normals=np.concatenate([p.normals for p in placed]),
        faces=np.concatenate([s.faces + at for s, at in zip(surfaces, starts, strict=False)]),
        material=np.concatenate([s.material + at for s, at in zip(surfaces, rows, strict=False)]),
        **{name: np.concatenate([getattr(s, name) for s in surfaces]) for name in alike},
    )


def behind(
    room: Scene,
    people: list[Posed],
    image: Array,
    cover: Array,
    rotation: Array,
    focal: float,
    maps: Array,
    axes: Array,
    middles: Array,
) -> None:
    """Draw what lies behind into what `cover` (H,W) leaves open of image (H,W,3)."""
    height, width = cover.shape
    back, sun = room.backdrop, room.light
    fits = min(back.photo.shape[0] / height, back.photo.shape[1] / width)
    left, top, share = back.crop
    step = fits * share
    place = (left * (back.photo.shape[1] - step * width), top * (back.photo.shape[0] - step * height), step)
    below = np.maximum(sun.aims[:, 1], 0) * sun.lamps.mean(1)
    ambient = max(float(sun.harmonics[0].mean() * 0.282095), 0.05)
    touching = contacts(np.concatenate([p.joints for p in people]))
    shadows = Shadows(touching, maps, axes[1:], middles, (below / (below.sum() + ambient)).astype(np.float32))
    fill(image, cover, focal, rotation, room.centre, sensor.LINEAR, np.array(place, np.float32), back, shadows)


def contacts(joints: Array) -> Array:
    """Soft shadows (C,4) under the joints (J,3) that are near the floor: x, z, radius m, strength."""
    low = joints[joints[:, 1] < 0.6]
    height = np.maximum(low[:, 1], 0.02)
    return np.stack([low[:, 0], low[:, 2], 0.08 + 0.35 * height, 0.45 * np.exp(-4 * height)], 1).astype(np.float32)


def patches(who: Figure, face_id: NDArray[np.int32], mask: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], Array]:
    """Part (16,12) and rest-shape coordinate (16,12,3) m at the middle of each patch, inside the mask (H,W)."""
    height, width = face_id.shape
    rows = ((np.arange(16) + 0.5) * height / 16).astype(int)
    columns = ((np.arange(12) + 0.5) * width / 12).astype(int)
    face = face_id[np.ix_(rows, columns)]
    person = (face >= 0) & (face < len(who.faces)) & mask[np.ix_(rows // 2, columns // 2)]
    vertex = who.faces[np.where(person, face, 0), 0]
    joint = who.index[vertex, who.weight[vertex].argmax(-1)]
    part = np.where(person, joint + 1, 0).astype(np.uint8)
    return part, (who.paint[vertex] * person[..., None]).astype(np.float32)
