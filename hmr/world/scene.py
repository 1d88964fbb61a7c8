"""What there is to see: people, things, light, what lies behind and a camera, drawn from a random generator.

World axes: x right, y up, z towards the camera, metres; the floor is y = 0 and the subject stands near the origin.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hmr.world import fabric
from hmr.world.backdrop import Backdrop, backdrop
from hmr.world.light import Light, lit, places_of
from hmr.world.people import Figure, Mesh, figure
from hmr.world.sensor import Sensor, sensor
from hmr.world.wardrobe import planes

Array = NDArray[np.float32]
Doubles = NDArray[np.float64]
QUAD = np.array([[0, 1, 2], [0, 2, 3]])


@dataclass(frozen=True)
class World:
    """How hard the pictures are; shares are probabilities, angles degrees, lengths metres."""

    shift: bool = False  # garments, light, photographs that nothing is trained on
    distance: tuple[float, float] = (2.0, 9.0)
    tilted: float = 0.45  # share seen at a pitch anywhere between ...
    pitch: tuple[float, float] = (-10.0, 40.0)  # ... these; the others from about a person's height
    rolled: float = 0.3  # share rolled anywhere between +-
    roll: float = 30.0
    crowd: tuple[float, ...] = (0.6, 0.25, 0.1, 0.05)  # share of pictures with 0, 1, 2, 3 other people
    furniture: float = 0.4
    occluder: float = 0.2
    cut: float = 0.2  # share of boxes that leave a part of the subject outside
    box_jitter: float = 0.03  # of the box, one sigma
    margin: tuple[float, float] = (1.0, 1.35)  # crop side / box side
    photo: float = 0.35  # share before a photograph; the others stand in a panorama or a room
    coloured: float = 0.05  # share of lamps that are not nearly white
    hard: float = 0.0  # how bad a sensor may be, 0..1


SYNTH = World()
SHIFT = World(
    shift=True,
    distance=(1.5, 14.0),
    tilted=0.7,
    pitch=(-20.0, 50.0),
    rolled=0.4,
    roll=40.0,
    crowd=(0.4, 0.3, 0.2, 0.1),
    furniture=0.5,
    occluder=0.4,
    cut=0.3,
    box_jitter=0.05,
    margin=(0.95, 1.5),
    coloured=0.5,
    hard=1.0,
)


@dataclass(frozen=True)
class Standing:
    """Somebody else: heading in radians, place (3,) m."""

    who: Figure
    heading: float
    place: Array

    @property
    def is_behind(self) -> bool:
        """Whether the subject is nearer to the camera."""
        return bool(self.place[2] < -0.3)


@dataclass(frozen=True)
class Scene:
    subject: Figure
    heading: float  # radians about y, added to the motion's own
    others: tuple[Standing, ...]
    props: Mesh
    camera: Array  # rotation (3,3) world -> camera
    centre: Array  # (3,) m
    light: Light
    backdrop: Backdrop
    sensor: Sensor
    world: World


def scene(rng: np.random.Generator, world: World, split: str, distance: tuple[float, float] | None = None) -> Scene:
    """Draw people, light, surroundings and a camera. `split` chooses the photographs."""
    near, far = distance or world.distance
    away = float(np.exp(rng.uniform(np.log(near), np.log(far))))
    rotation, centre = place_camera(rng, world, away)
    panoramas = places_of(world.shift)
    place, angle = panoramas[int(rng.integers(len(panoramas)))], rng.uniform(0, 2 * np.pi)
    return Scene(
        subject=figure(rng, world.shift),
        heading=float(rng.uniform(0, 2 * np.pi)),
        others=tuple(bystander(rng, world, away) for _ in range(rng.choice(len(world.crowd), p=world.crowd))),
        props=props(rng, world, centre),
        camera=rotation,
        centre=centre,
        light=lit(rng, place, angle, world.coloured),
        backdrop=backdrop(rng, place, angle, split, world.shift, world.photo),
        sensor=sensor(rng, world.hard),
        world=world,
    )


def cleared(room: Scene) -> Scene:
    """The scene without what may hide its subject: nothing and nobody nearer to the camera."""
    return replace(room, others=tuple(o for o in room.others if o.is_behind), props=as_mesh([], []))


def bystander(rng: np.random.Generator, world: World, away: float) -> Standing:
    """Somebody beside, behind or, for a third, before the subject."""
    before = rng.random() < 0.33 and away > 2.5
    depth = rng.uniform(0.4, 0.5 * away) if before else -rng.uniform(0.3, 3.5)
    side = rng.choice([-1, 1]) * rng.uniform(0.35, 1.0 + 0.15 * abs(depth)) * (1 - max(depth, 0) / away)
    return Standing(figure(rng, world.shift), float(rng.uniform(0, 2 * np.pi)), np.array([side, 0, depth], np.float32))


def place_camera(rng: np.random.Generator, world: World, away: float) -> tuple[Array, Array]:
    """Rotation (3,3) world -> camera and centre (3,) m of a camera that looks at the subject's middle."""
    pitch = rng.uniform(*world.pitch) if rng.random() < world.tilted else np.clip(rng.normal(5, 5), *world.pitch)
    pitch = np.radians(pitch)
    centre = np.array([0, max(0.1, 0.9 + away * np.sin(pitch)), away * np.cos(pitch)], np.float32)
    forward = np.array([0, 0.9, 0]) - centre
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0, 1, 0])
    right /= np.linalg.norm(right)
    rows = np.stack([right, np.cross(forward, right), forward])
    roll = np.radians(rng.uniform(-world.roll, world.roll) if rng.random() < world.rolled else rng.normal(0, 3))
    turn = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    return (turn @ rows).astype(np.float32), centre


Corners = tuple[Doubles, Doubles]


def box(low: Doubles, high: Doubles) -> tuple[Doubles, Doubles]:
    """Vertices and normals (24,3) of an axis-aligned box between two corners (3,)."""
    vertices, normals = [], []
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        for end in (0, 1):
            quad = np.empty((4, 3))
            quad[:, axis] = (low, high)[end][axis]
            quad[:, u] = (low[u], high[u], high[u], low[u])
            quad[:, v] = (low[v], low[v], high[v], high[v])
            normal = np.zeros(3)
            normal[axis] = 2 * end - 1
            vertices.append(quad)
            normals.append(np.tile(normal, (4, 1)))
    return np.concatenate(vertices), np.concatenate(normals)


def chair(rng: np.random.Generator) -> list[Corners]:
    """Corner pairs of the six boxes of a chair that stands at the origin."""
    w, h, back = rng.uniform(0.2, 0.28), rng.uniform(0.4, 0.5), rng.uniform(0.8, 1.05)
    legs = [((x - 0.025, 0, z - 0.025), (x + 0.025, h, z + 0.025)) for x in (-w, w) for z in (-w, w)]
    parts = [((-w, h, -w), (w, h + 0.05, w)), ((-w, h, -w), (w, back, -w + 0.04)), *legs]
    return [(np.array(a), np.array(b)) for a, b in parts]


def table(rng: np.random.Generator) -> list[Corners]:
    w, d, h = rng.uniform(0.3, 0.8), rng.uniform(0.3, 0.5), rng.uniform(0.45, 0.95)
    legs = [((x - 0.03, 0, z - 0.03), (x + 0.03, h, z + 0.03)) for x in (-w, w) for z in (-d, d)]
    return [(np.array(a), np.array(b)) for a, b in [((-w, h, -d), (w, h + 0.04, d)), *legs]]


def block(rng: np.random.Generator, width: float, height: float) -> list[Corners]:
    half = rng.uniform(0.3, 1.0, 2) * width / 2
    return [(np.array([-half[0], 0, -half[1]]), np.array([half[0], height, half[1]]))]


def furniture(rng: np.random.Generator) -> list[Corners]:
    kind = rng.random()
    if kind < 0.4:
        return chair(rng)
    if kind < 0.65:
        return table(rng)
    if kind < 0.8:  # a post
        return block(rng, rng.uniform(0.06, 0.2), rng.uniform(1, 3))
    return block(rng, rng.uniform(0.3, 0.9), rng.uniform(0.3, 1.6))


def props(rng: np.random.Generator, world: World, centre: Array) -> Mesh:
    """Furniture around the subject and things that stand between them and the camera."""
    pieces: list[tuple[Doubles, Doubles, Doubles]] = []
    rows: list[Array] = []

    def add(corners: list[Corners], place: Doubles) -> None:
        angle = rng.uniform(0, 2 * np.pi)
        turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        material = fabric.matter(rng)
        for low, high in corners:
            v, n = box(low, high)
            pieces.append((v @ turn.T + place, n @ turn.T, v))
            rows.append(material)

    while rng.random() < world.furniture and len(pieces) < 15:
        side = rng.choice([-1, 1]) * rng.uniform(0.4, 1.4)
        add(furniture(rng), np.array([side, 0, rng.uniform(-1.5, 0.3)]))
    if rng.random() < world.occluder:
        share = rng.uniform(0.35, 0.75)  # of the way from the camera to a point of the subject
        point = np.array([rng.normal(0, 0.3), rng.uniform(0.0, 1.6), 0])
        place = centre + share * (point - centre)
        size = share * rng.uniform(0.15, 0.5), share * rng.uniform(0.2, 0.9)
        add(block(rng, *size), place - [0, size[1] / 2, 0])
    return as_mesh(pieces, rows)


def as_mesh(pieces: list[tuple[Doubles, Doubles, Doubles]], rows: list[Array]) -> Mesh:
    """Boxes (vertices, normals, paint: (24,3) each) and the material of each as one mesh."""
    count = len(pieces)
    quads = np.arange(6 * count)[:, None, None] * 4 + QUAD  # (6n, 2, 3)
    faces = quads.reshape(-1, 3).astype(np.int32)
    stack = [np.concatenate([p[k] for p in pieces]) if pieces else np.zeros((0, 3)) for k in range(3)]
    vertices, normals, paint = (np.asarray(s, np.float32) for s in stack)
    material = np.repeat(np.arange(count), 12).astype(np.int16)
    below = np.array([0, 9, 0], np.float32)  # the arms of the plane's rule
    axis = planes(paint - below, faces) if count else np.zeros(0, np.uint8)
    plain = np.zeros(len(vertices), np.float32)
    return Mesh(
        vertices=vertices,
        paint=paint,
        cut=plain - 1,
        bias=plain,
        gloss=plain,
        faces=faces,
        material=material,
        axis=axis,
        culled=np.zeros(len(faces), bool),
        materials=np.stack(rows) if rows else fabric.blank(0)[None],
        normals=normals,
    )
