"""BlazePose, MediaPipe's pose networks: people in a picture found, and 33 landmarks, in pixels and in metres, of each.

Bazarevsky et al., "BlazePose: On-device Real-time Body Pose tracking", 2020; the steps around the networks (anchors,
rotated squares, refinement by heat maps) are those of MediaPipe's graphs. Nothing is smoothed over time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.special import expit

from compress.errors import BadInput
from hmr.data.blazepose_files import DETECTION, LANDMARKS, network_file
from hmr.data.crop import window

INPUT = 256  # pixels, the square that the landmark network takes
CELLS = 64  # of a side of its heat maps
DETECTED = 224  # pixels, the square that the detector takes
COUNT = 33  # landmarks; two more give the next square
AIR = 1.25  # side of a square over the person's
TILE = 0.6  # of a picture's height, sides of the squares that small people are looked for in
SURE = 0.9  # score of a person of whom nothing was known before
NAMES = (
    "nose", "left_eye_inner", "left_eye", "left_eye_outer", "right_eye_inner", "right_eye", "right_eye_outer",
    "left_ear", "right_ear", "mouth_left", "mouth_right", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_pinky", "right_pinky", "left_index", "right_index", "left_thumb",
    "right_thumb", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "left_heel",
    "right_heel", "left_foot_index", "right_foot_index",
)  # fmt: skip

Doubles = NDArray[np.float64]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Square:
    """A part of a picture: middle (x, y) and side in pixels, turned clockwise by `angle` radians."""

    centre: tuple[float, float]
    side: float
    angle: float = 0.0

    @property
    def affine(self) -> Doubles:
        """(2, 3): places in a unit square -> pixels of the picture."""
        turned = self.side * rotation(self.angle)
        return np.concatenate([turned, (self.centre - turned @ [0.5, 0.5])[:, None]], 1)

    def cut(self, image: Pixels, size: int) -> Pixels:
        """The square (size, size, 3) of a picture (H, W, 3), black where the picture ends."""
        return moved(image, self.affine @ np.diag([1 / size, 1 / size, 1]), (size, size))

    def pasted(self, part: Pixels, size: tuple[int, int]) -> Pixels:
        """What `cut` would have taken `part` (S, S) from: a picture of `size` (height, width), black around it."""
        whole = np.concatenate([self.affine, [[0, 0, 1]]])
        corners = (self.affine @ [[0, 1, 0, 1], [0, 0, 1, 1], [1, 1, 1, 1]]).T  # (4, 2)
        left, top, right, bottom = window(corners, size)
        out = np.zeros((*size, *part.shape[2:]), part.dtype)
        back = np.diag([len(part), len(part), 1]) @ np.linalg.inv(whole) @ [[1, 0, left], [0, 1, top], [0, 0, 1]]
        out[top:bottom, left:right] = moved(part, back[:2], (bottom - top, right - left))
        return out


@dataclass(frozen=True)
class Landmarks:
    """One person in a picture."""

    pixels: Doubles  # (33, 2) of the picture
    visibility: Doubles  # (33,) 0..1
    world: Doubles  # (33, 3) m from the middle of the hips; x right, y down, z away from the camera
    score: float  # 0..1, that a person is there
    mask: NDArray[np.bool_]  # (256, 256) the person's pixels in the square that was looked at
    square: Square
    next: Square  # where that person is in the picture that follows


@dataclass(frozen=True)
class Output:
    """What the landmark network gives for one square."""

    landmarks: Doubles  # (39, 5): x, y, z in pixels of the square, logits of visibility and presence
    world: Doubles  # (39, 3) m in axes of the square
    score: float
    mask: NDArray[np.float32]  # (256, 256) logits
    heat: NDArray[np.float32]  # (64, 64, 39) logits


class LandmarkNetwork:
    """The landmarks and the mask of one person in a square."""

    def __init__(self, file: Path | None = None) -> None:
        self.network = interpreter(LANDMARKS, file)

    def run(self, square: Pixels) -> Output:
        """For a picture (256, 256, 3). Raises BadInput where this network is another one."""
        shapes = run(self.network, np.asarray(square, np.float32) / np.float32(255))
        wanted = (1, 195), (1, 117), (1, 1), (1, INPUT, INPUT, 1), (1, CELLS, CELLS, 39)
        if not set(wanted) <= set(shapes):
            raise BadInput(f"this tflite network is not {LANDMARKS}: its outputs are {sorted(shapes)}")
        landmarks, world, score, mask, heat = (shapes[shape][0] for shape in wanted)
        points = landmarks.reshape(39, 5).astype(np.float64)  # (195,) -> (39, 5)
        places = world.reshape(39, 3).astype(np.float64)  # (117,) -> (39, 3)
        return Output(points, places, float(score[0]), mask[..., 0], heat)

    def see(self, image: Pixels, square: Square) -> Landmarks:
        """The person in a square of a picture (H, W, 3)."""
        out = self.run(square.cut(image, INPUT))
        places = refined(out.landmarks[:, :2] / INPUT, out.heat)
        pixels = places @ square.affine[:, :2].T + square.affine[:, 2]
        world = out.world[:COUNT].copy()
        world[:, :2] = world[:, :2] @ rotation(square.angle).T
        following = square_of(pixels[COUNT], pixels[COUNT + 1])
        visibility = expit(out.landmarks[:COUNT, 3])
        return Landmarks(pixels[:COUNT], visibility, world, out.score, out.mask > 0, square, following)


class Detector:
    """The squares of all people in a picture, the surest first."""

    def __init__(self, file: Path | None = None) -> None:
        self.network = interpreter(DETECTION, file)
        self.anchors = anchors()

    def people(self, image: Pixels, least: float = 0.5, part: Square | None = None) -> list[Square]:
        """Those whose score is `least` or more, in a part of the picture (H, W, 3) or in all of it: people who are less
        than a fifth as high as what is looked at are not found. Raises BadInput where this network is another one."""
        height, width = image.shape[:2]
        whole = part or Square((width / 2, height / 2), max(height, width))
        shapes = run(self.network, np.asarray(whole.cut(image, DETECTED), np.float32) / 127.5 - 1)
        wanted = (1, len(self.anchors), 12), (1, len(self.anchors), 1)
        if not set(wanted) <= set(shapes):
            raise BadInput(f"this tflite network is not {DETECTION}: its outputs are {sorted(shapes)}")
        raw, logits = (shapes[shape][0] for shape in wanted)
        scores = expit(logits[:, 0].astype(np.float64))
        places = raw.astype(np.float64).reshape(-1, 6, 2) / DETECTED  # (A, 12) -> (A, 6, 2): middle, size, 4 points
        places[:, [0, 2, 3, 4, 5]] += self.anchors[:, None]
        found = suppressed(places, scores, least)
        points = found[:, 2:4] @ whole.affine[:, :2].T + whole.affine[:, 2]  # (P, 2, 2): hips, a point of the circle
        return [square_of(hips, edge) for hips, edge in points]


def people_in_picture(image: Pixels, detector: Detector, network: LandmarkNetwork) -> list[Landmarks]:
    """Everybody in a picture of small people, each once, looked for in overlapping squares."""
    found: list[Landmarks] = []
    for tile in tiles(*image.shape[:2]):
        for square in detector.people(image, 0.5, tile):
            person = network.see(image, network.see(image, square).next)
            if person.score >= SURE and not any(same(person, other) for other in found):
                found.append(person)
    return found


def tiles(height: int, width: int) -> Iterator[Square]:
    """Squares of TILE of the height that cover a picture, each half on the next."""
    side = TILE * height
    for y in np.linspace(side / 2, height - side / 2, 3):
        for x in np.linspace(side / 2, width - side / 2, int(np.ceil(2 * (width - side) / side)) + 1):
            yield Square((float(x), float(y)), side)


def same(one: Landmarks, other: Landmarks) -> bool:
    """Whether two are one person: their middles are nearer than a quarter of their square."""
    return float(np.hypot(*np.subtract(one.next.centre, other.next.centre))) < other.next.side / 4


def suppressed(places: Doubles, scores: Doubles, least: float, overlap: float = 0.3) -> Doubles:
    """Detections (P, 6, 2) of A, (A, 6, 2) with scores (A,): those that overlap are averaged by score (BlazeFace)."""
    left = [int(i) for i in np.argsort(-scores, kind="stable") if scores[i] >= least]
    low, high = places[:, 0] - places[:, 1] / 2, places[:, 0] + places[:, 1] / 2
    found = []
    while left:
        inside = np.minimum(high[left], high[left[0]]) - np.maximum(low[left], low[left[0]])
        shared = np.maximum(inside, 0).prod(1)
        areas = places[left, 1].prod(1)
        near = shared > overlap * (areas + areas[0] - shared)
        near[0] = True
        group = [i for i, is_near in zip(left, near, strict=True) if is_near]
        found.append(np.average(places[group], axis=0, weights=scores[group]))
        left = [i for i, is_near in zip(left, near, strict=True) if not is_near]
    return np.array(found).reshape(-1, 6, 2)  # where there is none: (0,) -> (0, 6, 2)


def anchors() -> Doubles:
    """Middles (2254, 2) of the detector's anchors in a unit square: two per cell of 8 and 16 pixels, six of 32."""
    grids = []
    for stride, count in ((8, 2), (16, 2), (32, 6)):
        cells = DETECTED // stride
        y, x = np.divmod(np.arange(cells * cells), cells)
        grids.append(np.repeat((np.stack([x, y], 1) + 0.5) / cells, count, 0))
    return np.concatenate(grids)


def refined(places: Doubles, heat: NDArray[np.float32], reach: int = 3, least: float = 0.5) -> Doubles:
    """Landmarks (L, 2) in a unit square moved to the mean of their heat maps (S, S, L), logits, around them: cells at
    most `reach` away, and only where one of them is `least` or more (MediaPipe's refinement by heat maps)."""
    size = len(heat)
    cells = (places * size).astype(int)
    out = places.copy()
    for i, (x, y) in enumerate(cells):
        if not (0 <= x < size and 0 <= y < size):
            continue
        rows, columns = (slice(max(c - reach, 0), min(c + reach + 1, size)) for c in (y, x))
        weight = expit(heat[rows, columns, i].astype(np.float64))
        if weight.max() >= least:
            middle = np.mgrid[rows, columns].reshape(2, -1) @ weight.ravel() / weight.sum()  # (2, h, w) -> (2, h*w)
            out[i] = middle[::-1] / size
    return out


def moved(image: Pixels, affine: Doubles, size: tuple[int, int]) -> Pixels:
    """A picture of `size` (height, width) whose pixels come from where `affine` (2, 3) says in another one."""
    shape, kind, sampling = size[::-1], Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(image).transform(shape, kind, tuple(affine.ravel()), sampling))


def square_of(hips: Doubles, edge: Doubles) -> Square:
    """The square of a person between whose hips is `hips` (2,) and around whom a circle through `edge` (2,) lies; what
    points from hips to edge points up in it."""
    across = edge - hips
    turn = float(np.arctan2(across[1], across[0]) + np.pi / 2)
    return Square((float(hips[0]), float(hips[1])), 2 * AIR * float(np.hypot(*across)), turn)


def rotation(angle: float) -> Doubles:
    """(2, 2): clockwise in a picture, whose y points down."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]])


def interpreter(name: str, file: Path | None = None) -> Any:
    """The network called `name` as `hmr.data.blazepose_files` brings it, or in a file of the user's, on one thread, so
    that a picture gives the same numbers whatever the machine does beside it. Raises BadInput where it is missing."""
    file = file or network_file(name)
    if not file.is_file():
        raise BadInput(f"{file}: there is no such file")
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise BadInput(
            "BlazePose runs by ai-edge-litert, which is not installed: pip install 'fasthmr[blazepose]'"
        ) from error
    try:
        network = Interpreter(model_path=str(file), num_threads=1)
        network.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise BadInput(f"{file}: not a tflite network that can be run ({error})") from error
    return network


def run(network: Any, square: NDArray[np.float32]) -> dict[tuple[int, ...], NDArray[np.float32]]:
    """The outputs of a network for one picture (S, S, 3) by their shapes."""
    network.set_tensor(network.get_input_details()[0]["index"], square[None])
    network.invoke()
    outputs = [network.get_tensor(out["index"]) for out in network.get_output_details()]
    return {out.shape: out for out in outputs}
