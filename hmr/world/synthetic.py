"""The synthetic world as data sets: single frames (`synth`, `synth-shift`) and videos of one subject by one camera
(`synth-video`, `synth-shift-video`).

Every frame is a pure function of (world, split, seed, index): nothing is stored, and two processes agree to the bit.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from compress.errors import BadInput
from hmr.data.dataset import DataSpec, Frames
from hmr.data.sample import Sample
from hmr.motion.recordings import MotionClip, Split, blended, load_clips, looped, mirrored
from hmr.world import render
from hmr.world.scene import SHIFT, SYNTH, Array, mesh, scene
from hmr.world.view import draw, yaw

WORLDS = {"synth": SYNTH, "synth-shift": SHIFT, "synth-video": SYNTH, "synth-shift-video": SHIFT}
FRAMES = {"train": 200_000, "calib": 512, "val": 1000, "test": 2000}
VIDEOS = {"train": 1000, "calib": 8, "val": 12, "test": 24}
VIDEO_FRAMES = 81
FPS = 30.0
LIMBS = (  # joints of each leg, the trunk with the head, each arm
    (1, 4, 7, 10),
    (2, 5, 8, 11),
    (3, 6, 9, 12, 15),
    (13, 16, 18, 20, 22),
    (14, 17, 19, 21, 23),
)
SIZE = (256, 192)


def generator(*key: int | str) -> np.random.Generator:
    """A generator that depends on nothing but its key."""
    return np.random.default_rng([zlib.crc32(k.encode()) if isinstance(k, str) else k for k in key])


class Stills:
    """Single frames, each its own room, person and pose; `size` is (height, width) of the crops."""

    def __init__(
        self,
        name: str,
        split: str,
        seed: int,
        clips: Sequence[MotionClip],
        size: tuple[int, int] = SIZE,
    ) -> None:
        self.name, self.split, self.seed, self.clips, self.size = name, split, seed, clips, size
        self.share = shares(clips) if split == "train" else np.full(len(clips), 1 / len(clips))

    def recording_of(self, index: int) -> str:
        """The recording that a frame's pose comes from, without drawing anything."""
        return self.clips[self.rng(index).choice(len(self.clips), p=self.share)].name

    def rng(self, index: int) -> np.random.Generator:
        return generator(self.name, self.split, self.seed, index)

    def draw(self, index: int) -> Sample:
        rng = self.rng(index)
        clip = self.clips[rng.choice(len(self.clips), p=self.share)]
        rotations = clip.rotations[rng.integers(len(clip.rotations))]
        if self.split == "train":
            rotations = varied(rng, rotations, [self.some_pose(rng) for _ in LIMBS])
        rotations = turned(rotations, best_seen(rotations[0]))
        room = scene(rng, WORLDS[self.name], self.split)
        return draw(rng, room, rotations, None, self.some_pose(rng), clip.name, self.size)

    def some_pose(self, rng: np.random.Generator) -> Array:
        clip = self.clips[int(rng.integers(len(self.clips)))]
        return clip.rotations[rng.integers(len(clip.rotations))]


def best_seen(root: Array) -> float:
    """The turn (radians about y) after which someone of root rotation (3,3) is seen best by a camera on +z.

    Who stands faces it; who lies (the trunk nearer to level than the way it faces) is seen from the side, the head on
    the left of the picture, where a photographer would go.
    """
    up, ahead = root[:, 1], root[:, 2]
    if np.hypot(up[0], up[2]) <= np.hypot(ahead[0], ahead[2]):
        return float(-np.arctan2(ahead[0], ahead[2]))
    return float(-np.pi / 2 - np.arctan2(up[0], up[2]))


def turned(rotations: Array, angle: float) -> Array:
    """Local rotations (..., 24, 3, 3) with the root turned by `angle` radians about y."""
    out = rotations.copy()
    out[..., 0, :, :] = yaw(angle) @ rotations[..., 0, :, :]
    return out


def shares(clips: Sequence[MotionClip]) -> NDArray[np.float64]:
    """How often training draws each recording (N,): a family by the square root of its frames, its clips by theirs.

    Half of all mocap is walking; drawn as it comes, a rare family would hardly be seen.
    """
    frames = np.array([len(clip.rotations) for clip in clips], np.float64)
    family = {name: sum(len(c.rotations) for c in clips if c.family == name) for name in {c.family for c in clips}}
    weight = frames / np.sqrt([family[clip.family] for clip in clips])
    return weight / weight.sum()


def varied(rng: np.random.Generator, rotations: Array, others: Sequence[Array]) -> Array:
    """A training pose (24,3,3), or motion (T,24,3,3): limbs of `others` (one per limb), joints turned a little, the
    person tipped over, the same in all frames.

    There are few recordings, and a model that has learned them by heart does not see: with every limb from a recording
    of its own the whole no longer gives the parts away.
    """
    out = rotations.copy()
    if rng.random() < 0.6:
        for limb, other in zip(LIMBS, others, strict=True):
            if rng.random() < 0.5:
                out[..., list(limb), :, :] = other[..., list(limb), :, :]
    out = out @ rotation_vectors(rng.normal(0, rng.choice([0.03, 0.1, 0.2, 0.3]), (24, 3)))
    if rng.random() < 0.3:  # few recordings show people lie down
        axis = rng.normal(size=3) * (1, 0.3, 1)
        tip = axis / np.linalg.norm(axis) * rng.uniform(0, 0.6 * np.pi)
        out[..., 0, :, :] = rotation_vectors(tip[None])[0] @ out[..., 0, :, :]
    return out.astype(np.float32)


def rotation_vectors(vectors: NDArray[np.float64]) -> Array:
    """Rodrigues' formula, (N,3) rad -> (N,3,3); numpy, because roma's tensors cost more than the pose itself here."""
    angle = np.linalg.norm(vectors, axis=1)[:, None, None] + 1e-12
    x, y, z = (vectors / angle[:, 0]).T
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).reshape(-1, 3, 3)  # (N, 9) -> (N, 3, 3)
    return (np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross).astype(np.float32)


@dataclass(frozen=True)
class Take:
    """What one video shows: local rotations (T,24,3,3), pelvis above the floor (T,3) m, the recordings' names."""

    rotations: Array
    travel: Array
    name: str


class Videos:
    """Videos of `VIDEO_FRAMES` frames at 30 fps: frame i is frame i % VIDEO_FRAMES of video i // VIDEO_FRAMES."""

    def __init__(
        self,
        name: str,
        split: str,
        seed: int,
        clips: Sequence[MotionClip],
        size: tuple[int, int] = SIZE,
    ) -> None:
        self.name, self.split, self.seed, self.clips, self.size = name, split, seed, clips, size
        self.share = shares(clips) if split == "train" else None
        self._open: tuple[int, Take, Take] | None = None

    def recording_of(self, index: int) -> str:
        return f"video-{index // VIDEO_FRAMES:03d}"

    def draw(self, index: int) -> Sample:
        video, frame = divmod(index, VIDEO_FRAMES)
        if self._open is None or self._open[0] != video:
            rng = generator(self.name, self.split, self.seed, video, "motion")
            shown, bystander = take(rng, self.clips, self.share), take(rng, self.clips, self.share)
            if self.split == "train":
                others = [take(rng, self.clips, self.share).rotations for _ in LIMBS]
                shown = varied_take(rng, shown, others)
            self._open = video, shown, bystander
        _, shown, bystander = self._open
        rng = generator(self.name, self.split, self.seed, video, "room")
        room = scene(rng, WORLDS[self.name], self.split, (3.5, 6.0))
        room = replace(room, world=replace(room.world, box_jitter=room.world.box_jitter / 3, margin=(1.15, 1.17)))
        rng = generator(self.name, self.split, self.seed, index)
        name = self.recording_of(index)
        return draw(rng, room, shown.rotations[frame], shown.travel[frame], bystander.rotations[frame], name, self.size)


def take(
    rng: np.random.Generator,
    clips: Sequence[MotionClip],
    share: NDArray[np.float64] | None = None,
    frames: int = VIDEO_FRAMES,
) -> Take:
    """`frames` of motion: one recording, looped if it is cyclic, blended into the next until it is long enough.

    `share` (N,) is how often each recording is drawn, else all are as often.
    """

    def drawn() -> MotionClip:
        which = rng.integers(len(clips)) if share is None else rng.choice(len(clips), p=share)
        return lengthened(clips[int(which)], frames)

    clip = drawn()
    while len(clip.rotations) < frames:
        clip = blended(clip, drawn())
    start = rng.integers(len(clip.rotations) - frames + 1)
    angle = best_seen(clip.rotations[start, 0])  # the first frame is seen as a single frame is
    rotations = turned(clip.rotations[start : start + frames], angle)
    travel = clip.translation[start : start + frames] @ yaw(angle).T
    travel[:, [0, 2]] -= travel[:, [0, 2]].mean(0)
    travel[:, 1] -= floor_height(rotations, travel)
    return Take(np.ascontiguousarray(rotations, np.float32), travel.astype(np.float32), clip.name)


def varied_take(rng: np.random.Generator, shown: Take, others: Sequence[Array]) -> Take:
    """A take for training: `varied`, and half of the times seen from any side, as people are who turn around."""
    angle = rng.uniform(-np.pi, np.pi) * (rng.random() < 0.5)
    rotations = turned(varied(rng, shown.rotations, others), angle)
    travel = shown.travel @ yaw(angle).T
    travel[:, 1] -= floor_height(rotations, travel)
    return Take(rotations, travel.astype(np.float32), shown.name)


def lengthened(clip: MotionClip, frames: int) -> MotionClip:
    return looped(clip, frames) if clip.cyclic and len(clip.rotations) < frames else clip


def floor_height(rotations: Array, travel: Array) -> float:
    """Height (m) in the motion's own axes on which its lowest joints rest, 5 cm of foot below them."""
    body = mesh()
    lowest = []
    for pose, place in zip(rotations, travel, strict=True):
        _, joints = render.chain(pose, body.joints, body.parents)
        lowest.append((joints - joints[0])[:, 1].min() + place[1])
    return float(np.percentile(lowest, 5) - 0.05)


def open_world(
    name: str,
    split: str,
    frames: int | None = None,
    seed: int = 0,
    mocap: Path | None = None,
    size: tuple[int, int] = SIZE,
) -> Frames:
    """A synthetic data set by name and split; `frames` makes it smaller (training: as long as asked).

    Raises BadInput for an unknown name or split. Only `train` looks into the user's folder of motion: what is reported
    must not depend on what lies on a machine.
    """
    if name not in WORLDS:
        raise BadInput(f"there is no synthetic data set '{name}'; choose from {', '.join(WORLDS)}")
    if split not in FRAMES:
        raise BadInput(f"there is no split '{split}' of {name}; choose from {', '.join(FRAMES)}")
    clips = load_clips(cast(Split, split), mocap if split == "train" else None)
    if split == "train":
        clips = clips + [mirrored(clip) for clip in clips]
    motion = sorted({clip.name for clip in clips})
    known: dict[str, Any] = {
        "notes": {"mask_source": "renderer"},
        "spec": DataSpec(name, split),
        "identity": {"world": repr(WORLDS[name]), "seed": seed, "size": list(size), "motion": motion},
    }
    if name.endswith("-video"):
        full, videos = VIDEOS[split] * VIDEO_FRAMES, Videos(name, split, seed, clips, size)
        return Frames(videos.draw, videos.recording_of, min(frames or full, full), FPS, **known)
    full, stills = (
        FRAMES[split] if split != "train" or frames is None else frames,
        Stills(name, split, seed, clips, size),
    )
    return Frames(stills.draw, stills.recording_of, min(frames or full, full), **known)
