"""What there is to see: a synthetic room with people, props, light and a camera, drawn from a random generator.

World axes: x right, y up, z towards the camera, metres; the floor is y = 0 and the subject stands near the origin.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from hmr.body.files import load_body
from hmr.body.model import BodyModel
from hmr.world.wardrobe import Regions, dress, regions

Array = NDArray[np.float32]
Doubles = NDArray[np.float64]

# scikit-image's bundled pictures; those of val, calib and test are never seen in training
BACKGROUNDS = {
    "train": ("astronaut.png", "brick.png", "coffee.png", "grass.png", "rocket.jpg"),
    "val": ("camera.png", "hubble_deep_field.jpg"),
    "calib": ("camera.png", "hubble_deep_field.jpg"),
    "test": ("chelsea.png", "gravel.png"),
}
FACES = np.array([[0, 1, 2], [0, 2, 3]])


@dataclass(frozen=True)
class World:
    """How hard the pictures are; probabilities and one-sigma or maximal sizes."""

    kit: float = 1.0  # share of subjects whose clothes tell parts and sides apart
    hue_jitter: float = 0.01
    facing: float = 20.0  # degrees between subject and camera, one sigma ...
    any_side: float = 0.0  # ... but for this share, who are seen from any side
    flash: bool = True  # lit from the camera: what is nearer is brighter, by the square of the distance
    bystander: float = 0.1
    furniture: float = 0.3
    occluder: float = 0.1
    box_jitter: float = 0.03  # of the box, one sigma
    margin: tuple[float, float] = (1.05, 1.25)  # crop side / box side
    pitch: float = 5.0  # degrees, one sigma
    roll: float = 3.0
    ambient: tuple[float, float] = (0.45, 0.7)
    exposure: float = 0.1
    noise: float = 6.0  # grey levels
    plain: float = 0.6  # share of plain walls


SYNTH = World()
SHIFT = World(
    kit=0.6,
    hue_jitter=0.06,
    facing=35.0,
    any_side=0.6,
    flash=False,
    bystander=0.4,
    furniture=0.5,
    occluder=0.5,
    box_jitter=0.06,
    margin=(0.95, 1.45),
    pitch=10.0,
    roll=8.0,
    ambient=(0.2, 0.45),
    exposure=0.35,
    noise=14.0,
    plain=0.1,
)


@dataclass(frozen=True)
class Mesh:
    """A body's arrays as the kernels want them; weight/index (V,4) are its largest skin weights."""

    vertices: Array
    shapes: Array  # (V*3, 10)
    joints: Array
    joint_shapes: Array  # (24, 3, 10)
    index: NDArray[np.int64]
    weight: Array
    faces: NDArray[np.int64]
    parents: NDArray[np.int64]
    label: NDArray[np.int64]
    where: Regions


@lru_cache(maxsize=4)
def mesh(name: str = "open") -> Mesh:
    return mesh_of(load_body(name))


def mesh_of(body: BodyModel) -> Mesh:
    """Arrays of a body model for rendering; keeps four skin weights a vertex."""
    numpy = {k: v.detach().cpu().numpy() for k, v in body.named_buffers()}
    vertices, weights, regressor = numpy["v_template"], numpy["lbs_weights"], numpy["J_regressor"]
    index = np.argsort(-weights, 1)[:, :4]
    weight = np.take_along_axis(weights, index, 1)
    shapes = numpy["shapedirs"]
    return Mesh(
        vertices=vertices.astype(np.float32),
        shapes=np.ascontiguousarray(shapes.reshape(-1, shapes.shape[-1]), np.float32),
        joints=(regressor @ vertices).astype(np.float32),
        joint_shapes=np.einsum("jv,vkl->jkl", regressor, shapes).astype(np.float32),
        index=index.astype(np.int64),
        weight=(weight / weight.sum(1, keepdims=True)).astype(np.float32),
        faces=numpy["faces"].astype(np.int64),
        parents=numpy["parents"].astype(np.int64),
        label=weights.argmax(1),
        where=regions(vertices, weights),
    )


@dataclass(frozen=True)
class Person:
    betas: Array
    colours: Array
    heading: float  # radians about y, added to the motion's own
    place: Array  # (3,) m added to the motion's own translation


@dataclass(frozen=True)
class Props:
    """Boxes as one mesh: vertices (V,3) m, faces, normals (V,3), colours (V,3)."""

    vertices: Array
    faces: NDArray[np.int64]
    normals: Array
    colours: Array


@dataclass(frozen=True)
class Scene:
    subject: Person
    bystander: Person | None
    props: Props
    camera: Array  # rotation (3,3) world -> camera
    centre: Array  # (3,) m
    wall: Array
    textures: tuple[NDArray[np.uint8], NDArray[np.uint8]]
    scale: Array
    offset: Array
    gain: Array
    light: Array  # (3,) unit, in world axes
    ambient: float
    exposure: Array
    blur: float
    noise: float
    world: World = field(default=SYNTH)


def scene(rng: np.random.Generator, world: World, split: str, distance: tuple[float, float] = (2.8, 5.0)) -> Scene:
    """Draw a room, its light, its people and its camera. `split` chooses the pictures on the walls."""
    body = mesh()
    away = rng.uniform(*distance)
    rotation, centre = place_camera(rng, world, away)
    angle = rng.uniform(-0.5, 0.5)
    light = centre / np.linalg.norm(centre) if world.flash else rng.normal(size=3) * (1, 0.4, 1) + (0, 0.8, 0.6)
    other = rng.random() < world.bystander
    side = np.array([rng.choice([-1, 1]) * rng.uniform(0.55, 1.1), 0, rng.uniform(-1.2, 0.3)], np.float32)
    return Scene(
        subject=person(rng, body, world, rng.random() < world.kit, np.zeros(3, np.float32)),
        bystander=person(rng, body, world, False, side) if other else None,
        props=props(rng, world, away),
        camera=rotation,
        centre=centre,
        wall=np.array([np.sin(angle), np.cos(angle), rng.uniform(1.2, 3.5)], np.float32),
        textures=(texture(rng, split, world.plain), texture(rng, split, world.plain)),
        scale=rng.uniform(60, 160, 2).astype(np.float32),
        offset=rng.uniform(0, 4096, 4).astype(np.float32),
        gain=rng.uniform(0.5, 1.1, 2).astype(np.float32),
        light=(light / np.linalg.norm(light)).astype(np.float32),
        ambient=float(rng.uniform(*world.ambient)),
        exposure=(rng.uniform(1 - world.exposure, 1 + world.exposure) * rng.uniform(0.95, 1.05, 3)).astype(np.float32),
        blur=float(rng.uniform(0, 0.8) * (rng.random() < 0.4)),
        noise=float(rng.uniform(0, world.noise)),
        world=world,
    )


def person(rng: np.random.Generator, body: Mesh, world: World, kit: bool, place: Array) -> Person:
    betas, angle = shape(rng), heading(rng, world)
    return Person(betas, dress(rng, body.where, kit, world.hue_jitter), angle, place)


def shape(rng: np.random.Generator) -> Array:
    """Betas (10,) of somebody."""
    return np.clip(rng.normal(size=10), -2.5, 2.5).astype(np.float32)


def heading(rng: np.random.Generator, world: World) -> float:
    """Radians about y between somebody and the camera."""
    if rng.random() < world.any_side:
        return float(rng.uniform(0, 2 * np.pi))
    return float(np.radians(rng.normal(0, world.facing)))


def place_camera(rng: np.random.Generator, world: World, away: float) -> tuple[Array, Array]:
    """Rotation (3,3) world -> camera and centre (3,) m of a camera that looks at the subject's middle."""
    pitch = np.radians(np.clip(rng.normal(4, world.pitch), -15, 40))
    centre = np.array([0, max(0.15, 0.9 + away * np.sin(pitch)), away * np.cos(pitch)], np.float32)
    forward = np.array([0, 0.9, 0]) - centre
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0, 1, 0])
    right /= np.linalg.norm(right)
    rows = np.stack([right, np.cross(forward, right), forward])
    roll = np.radians(rng.normal(0, world.roll))
    turn = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    return (turn @ rows).astype(np.float32), centre


def texture(rng: np.random.Generator, split: str, plain: float) -> NDArray[np.uint8]:
    """A wall or floor, (h,w,3) u8: a plain colour with faint grain, or a picture of the split."""
    if rng.random() < plain:
        colour = rng.uniform(40, 230, 3) * 0.3 + rng.uniform(40, 230) * 0.7  # calm: never as saturated as a kit
        grain = rng.normal(0, 5, (64, 64, 1))
        return np.clip(colour + grain, 0, 255).astype(np.uint8)
    names = BACKGROUNDS[split]
    return picture(names[rng.integers(len(names))])


@lru_cache(maxsize=16)
def picture(name: str) -> NDArray[np.uint8]:
    """A bundled picture of scikit-image as (h,w,3) u8."""
    from PIL import Image

    path = files("skimage").joinpath("data", name)
    with path.open("rb") as stream:
        return np.asarray(Image.open(stream).convert("RGB")).copy()


def box(rng: np.random.Generator, low: Array, high: Array, colour: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """Vertices, normals, colours (24,3) of an axis-aligned box between two corners (3,)."""
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
    shades = colour * rng.uniform(0.85, 1.1, (24, 1))
    return np.concatenate(vertices), np.concatenate(normals), shades


def chair(rng: np.random.Generator) -> list[tuple[Array, Array]]:
    """Corner pairs of the six boxes of a chair that stands at the origin."""
    w, h, back = rng.uniform(0.2, 0.28), rng.uniform(0.4, 0.5), rng.uniform(0.8, 1.05)
    legs = [((x - 0.025, 0, z - 0.025), (x + 0.025, h, z + 0.025)) for x in (-w, w) for z in (-w, w)]
    parts = [((-w, h, -w), (w, h + 0.05, w)), ((-w, h, -w), (w, back, -w + 0.04)), *legs]
    return [(np.array(a, np.float32), np.array(b, np.float32)) for a, b in parts]


def props(rng: np.random.Generator, world: World, away: float) -> Props:
    """Furniture around the subject and things that stand between them and the camera."""
    pieces: list[tuple[Doubles, Doubles, Doubles]] = []

    def add(corners: list[tuple[Array, Array]], place: Doubles | Array) -> None:
        angle, colour = rng.uniform(0, 2 * np.pi), rng.uniform(30, 220) * 0.5 + rng.uniform(30, 220, 3) * 0.5
        turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        for low, high in corners:
            v, n, c = box(rng, low, high, colour)
            pieces.append((v @ turn.T + place, n @ turn.T, c))

    def block(width: float, height: float) -> list[tuple[Array, Array]]:
        half = rng.uniform(0.3, 1.0, 2) * width / 2
        return [(np.array([-half[0], 0, -half[1]], np.float32), np.array([half[0], height, half[1]], np.float32))]

    if rng.random() < world.furniture:
        place = np.array([rng.choice([-1, 1]) * rng.uniform(0.35, 0.8), 0, rng.uniform(-0.9, 0.2)], np.float32)
        add(chair(rng) if rng.random() < 0.6 else block(rng.uniform(0.3, 0.8), rng.uniform(0.3, 1.0)), place)
    if rng.random() < world.occluder:
        near = rng.uniform(0.25, 0.45) * away
        place = np.array([rng.uniform(-0.45, 0.45), rng.choice([0.0, 0.6]), near], np.float32)
        add(block(rng.uniform(0.1, 0.45), rng.uniform(0.25, 0.8)), place)
    count = len(pieces)
    quads = np.arange(6 * count)[:, None, None] * 4 + FACES  # (6n, 2, 3)
    stack = [np.concatenate([p[k] for p in pieces]) if pieces else np.zeros((0, 3)) for k in range(3)]
    vertices, normals, colours = (np.asarray(s, np.float32) for s in stack)
    return Props(vertices, quads.reshape(-1, 3).astype(np.int64), normals, np.clip(colours, 0, 255))
