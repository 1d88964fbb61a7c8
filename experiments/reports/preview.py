"""Contact sheets for a person to look at: pictures with masks and joints, and motion clips as figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import groupby, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from hmr.body.limbs import BONES as LIMB_BONES
from hmr.body.limbs import LIMBS
from hmr.body.model import JOINT_NAMES, PARENTS
from hmr.data.dataset import Frames
from hmr.data.real_people.dataset import RealFrames
from hmr.data.sample import Sample, known
from hmr.motion.clip import MotionClip, clip_name
from hmr.motion.recordings import motion_files, read_clip, shipped_clips
from hmr.world import paint
from hmr.world.fabric import blank
from hmr.world.people import Figure, dressed, posed
from hmr.world.raster import draw_solid

SEEN_FROM_FRONT = np.array([1, -1, -1], np.float32)  # world axes (y up, z towards us) -> camera axes
SHOWN = ("humanoid3d_walk", "humanoid3d_cartwheel", "cmu_02_05", "cmu_01_01", "cmu_005_10", "cmu_006_05")
WHITE = (255, 255, 255)
SIDE_COLOURS = {"left": (255, 80, 60), "right": (60, 140, 255)}


@dataclass(frozen=True)
class Skeleton2D:
    """Joints in a picture: points (J, 2) in pixels, their names, and pairs of them with a bone between."""

    points: NDArray[np.floating]
    names: Sequence[str]
    bones: Sequence[tuple[int, int]]


def contact_sheet(frames: Frames, indices: Sequence[int], columns: int = 8) -> bytes:
    """PNG of some frames, three rows a line: picture, picture with the mask tinted, picture with the skeleton."""
    lines = []
    for start in range(0, len(indices), columns):
        line = [(frames[i], i) for i in indices[start : start + columns]]
        pictures = [sample.image for sample, _ in line]
        skeletons = [with_skeleton(sample.image, skeleton(frames, sample, i)) for sample, i in line]
        for row in (pictures, [tinted(sample) for sample, _ in line], skeletons):
            row += [np.full_like(row[0], 255)] * (columns - len(row))
            lines.append(np.concatenate(row, 1))
    stream = BytesIO()
    Image.fromarray(np.concatenate(lines, 0)).save(stream, "PNG")
    return stream.getvalue()


def tinted(sample: Sample) -> NDArray[np.uint8]:
    """The picture (H,W,3) with everything but the mask faded to white."""
    faded = (255 - (255 - sample.image.astype(np.int32)) // 4).astype(np.uint8)
    return np.where(known(sample.mask, "person masks")[..., None], sample.image, faded)


def skeleton(frames: Frames, sample: Sample, index: int) -> Skeleton2D:
    """The true joints of a frame and the bones between them."""
    if isinstance(frames, RealFrames):
        return Skeleton2D(known(frames.truth, "true joints").places[index].numpy(), LIMBS, LIMB_BONES)
    height, width = sample.image.shape[:2]
    points = (known(sample.keypoints, "keypoints") + 0.5) * (width, height)
    return Skeleton2D(points, JOINT_NAMES, [(PARENTS[j], j) for j in range(1, len(JOINT_NAMES))])


def with_skeleton(picture: NDArray[np.uint8], joints: Skeleton2D) -> NDArray[np.uint8]:
    """A picture (H,W,3) with bones between projected joints: left red, right blue, middle white."""
    image = Image.fromarray(picture // 2 + 64)
    pen = ImageDraw.Draw(image)
    for start, end in joints.bones:
        across = joints.names[start].startswith("left") and joints.names[end].startswith("right")
        colour = WHITE if across else SIDE_COLOURS.get(joints.names[end].split("_")[0], WHITE)
        pen.line([tuple(joints.points[start]), tuple(joints.points[end])], fill=colour, width=2)
    return np.asarray(image)


def clips_to_show(mocap: Path | None) -> list[MotionClip]:
    """Two clips of each file format in the folder `mocap`, those of SHOWN first; without a folder six shipped ones.

    Raises BadInput where the folder holds no motion or a file is malformed.
    """
    if mocap is None:
        longest = {clip.name: clip for clip in sorted(shipped_clips(), key=len)}  # a recording may be in parts
        return [longest[name] for name in SHOWN]
    files = sorted(motion_files(mocap), key=lambda path: (path.suffix.lower(), clip_name(path) not in SHOWN))
    formats = groupby(files, lambda path: path.suffix.lower())
    return [read_clip(path) for _, paths in formats for path in islice(paths, 2)]


def motion_sheet(clips: Sequence[MotionClip], columns: int = 8) -> bytes:
    """PNG of one row a clip: the default body in evenly spaced frames, seen from 50 degrees to its left."""
    rows = []
    for clip in clips:
        frames = np.linspace(0, len(clip.rotations) - 1, columns).astype(int)
        row = Image.fromarray(np.concatenate([figure(clip.rotations[t]) for t in frames], 1))
        title = f"{clip.name}  ({clip.source}, {len(clip.rotations) / clip.fps:.1f} s)"
        ImageDraw.Draw(row).text((6, 4), title, fill=(0, 0, 0))
        rows.append(np.asarray(row))
    stream = BytesIO()
    Image.fromarray(np.concatenate(rows, 0)).save(stream, "PNG")
    return stream.getvalue()


def figure(rotations: NDArray[np.float32], size: tuple[int, int] = (224, 168)) -> NDArray[np.uint8]:
    """One pose (24,3,3) standing on a light floor, left side red and right side blue, as a picture (H,W,3)."""
    who = dressed(np.zeros(10, np.float32), blank(paint.SKIN), [])
    vertices = posed(who, rotations, float(np.radians(50)), np.zeros(3, np.float32), None).vertices
    camera = np.array([vertices[:, 0].mean(), 0.8, vertices[:, 2].mean() + 3.6], np.float32)
    image = np.full((*size, 3), 235, np.float32)
    image[int(size[0] * 0.86) :] = 215
    light = np.array([0.4, -0.6, -0.7], np.float32)
    draw_solid(image, (vertices - camera) * SEEN_FROM_FRONT, who.faces, 1.25 * size[0], side_colours(who), light, 0.4)
    return np.clip(image, 0, 255).astype(np.uint8)


def side_colours(who: Figure) -> NDArray[np.float32]:
    """Vertex colours (V,3) that tell left from right and the front of the chest from the back."""
    colours = np.full((len(who.vertices), 3), 190, np.float32)
    joint = who.index[np.arange(len(who.index)), who.weight.argmax(1)]
    for name, colour in SIDE_COLOURS.items():
        colours[np.isin(joint, [j for j, known in enumerate(JOINT_NAMES) if known.startswith(name)])] = colour
    trunk = np.isin(joint, [JOINT_NAMES.index(f"spine{i}") for i in (1, 2, 3)])
    colours[trunk & (who.vertices[:, 2] > np.median(who.vertices[trunk, 2]))] = (240, 225, 150)
    return colours
