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
from hmr.motion.clip import MotionClip, blended, looped, mirrored
from hmr.motion.recordings import Split, load_clips
from hmr.world.geometry import chain
from hmr.world.poses import varied
from hmr.world.scene import SHIFT, SYNTH, Array, Scene, scene
from hmr.world.view import draw
from hmr.world.wardrobe import body

WORLDS = {"synth": SYNTH, "synth-shift": SHIFT, "synth-video": SYNTH, "synth-shift-video": SHIFT}
FRAMES = {"train": 200_000, "calib": 512, "val": 1000, "test": 2000}
VIDEOS = {"train": 1000, "calib": 8, "val": 12, "test": 24}
VIDEO_FRAMES = 81
FPS = 30.0
SIZE = (224, 168)


def generator(*key: int | str) -> np.random.Generator:
    """A generator that depends on nothing but its key."""
    return np.random.default_rng([zlib.crc32(k.encode()) if isinstance(k, str) else k for k in key])


@dataclass
class Clips:
    """The motion of a split and how often each clip is drawn, `share` (N,); `size` is (height, width) of the crops."""

    name: str
    split: str
    seed: int
    clips: Sequence[MotionClip]
    size: tuple[int, int] = SIZE

    def __post_init__(self) -> None:
        self.share = shares(self.clips) if self.split == "train" else even_shares(self.clips)


class Stills(Clips):
    """Single frames, each its own room, person and pose."""

    def recording_of(self, index: int) -> str:
        """The recording that a frame's pose comes from, without drawing anything."""
        return self.clips[self.rng(index).choice(len(self.clips), p=self.share)].name

    def rng(self, index: int) -> np.random.Generator:
        return generator(self.name, self.split, self.seed, index)

    def draw(self, index: int) -> Sample:
        rng = self.rng(index)
        clip = self.clips[rng.choice(len(self.clips), p=self.share)]
        rotations = some_frame(rng, clip)
        if self.split == "train":
            rotations = varied(rng, rotations, some_frame(rng, clip), self.some_pose(rng))
        room = scene(rng, WORLDS[self.name], self.split)
        others = [self.some_pose(rng) for _ in room.others]
        return draw(rng, room, rotations, None, others, clip.name, self.size)

    def some_pose(self, rng: np.random.Generator) -> Array:
        return some_frame(rng, self.clips[int(rng.integers(len(self.clips)))])


def some_frame(rng: np.random.Generator, clip: MotionClip) -> Array:
    """Local rotations (24,3,3) of one frame of a recording."""
    frame: Array = clip.rotations[rng.integers(len(clip.rotations))]
    return frame


def recording_of(clip: MotionClip) -> str:
    """What a clip was cut from; a mirrored one is of the same recording."""
    return clip.name.removesuffix("_mirror")


def even_shares(clips: Sequence[MotionClip]) -> NDArray[np.float64]:
    """How often a report draws each clip (N,): recordings equally often, the parts of one by their frames."""
    frames = np.array([len(clip.rotations) for clip in clips], np.float64)
    names = [recording_of(clip) for clip in clips]
    total = {name: sum(f for f, n in zip(frames, names, strict=True) if n == name) for name in names}
    weight = frames / np.array([total[name] for name in names])
    return np.asarray(weight / weight.sum())


def shares(clips: Sequence[MotionClip]) -> NDArray[np.float64]:
    """How often training draws each recording (N,): a family by the square root of its frames, its clips by theirs.

    Half of all mocap is walking; drawn as it comes, a rare family would hardly be seen.
    """
    frames = np.array([len(clip.rotations) for clip in clips], np.float64)
    family = {name: sum(len(c.rotations) for c in clips if c.family == name) for name in {c.family for c in clips}}
    weight = frames / np.sqrt([family[clip.family] for clip in clips])
    return weight / weight.sum()


@dataclass(frozen=True)
class Take:
    """What one video shows: local rotations (T,24,3,3), pelvis above the floor (T,3) m, the recordings' names."""

    rotations: Array
    travel: Array
    name: str


class Videos(Clips):
    """Videos of `VIDEO_FRAMES` frames at 30 fps: frame i is frame i % VIDEO_FRAMES of video i // VIDEO_FRAMES."""

    _open: tuple[int, Take, list[Take], Scene] | None = None

    def recording_of(self, index: int) -> str:
        return f"video-{index // VIDEO_FRAMES:03d}"

    def draw(self, index: int) -> Sample:
        video, frame = divmod(index, VIDEO_FRAMES)
        if self._open is None or self._open[0] != video:
            self._open = video, *self.opened(video)
        _, shown, others, room = self._open
        rng = generator(self.name, self.split, self.seed, index)
        poses = [other.rotations[frame] for other in others]
        return draw(rng, room, shown.rotations[frame], shown.travel[frame], poses, f"video-{video:03d}", self.size)

    def opened(self, video: int) -> tuple[Take, list[Take], Scene]:
        """What a video shows: the subject's motion, other people's, and the scene."""
        rng = generator(self.name, self.split, self.seed, video, "room")
        room = scene(rng, WORLDS[self.name], self.split, (3.5, 6.0))
        calm = replace(room.world, box_jitter=room.world.box_jitter / 3, margin=(1.15, 1.17), cut=0.0)
        rng = generator(self.name, self.split, self.seed, video, "motion")
        shown = take(rng, self.clips, self.share)
        others = [take(rng, self.clips, self.share) for _ in room.others]
        if self.split == "train":
            shown = varied_take(rng, shown, take(rng, self.clips, self.share))
        return shown, others, replace(room, world=calm)


def take(
    rng: np.random.Generator, clips: Sequence[MotionClip], share: NDArray[np.float64], frames: int = VIDEO_FRAMES
) -> Take:
    """`frames` of motion: one recording, looped if it is cyclic, blended into the next until it is long enough.

    `share` (N,) is how often each clip is drawn.
    """

    def drawn() -> MotionClip:
        return lengthened(clips[int(rng.choice(len(clips), p=share))], frames)

    clip = drawn()
    while len(clip.rotations) < frames:
        clip = blended(clip, drawn())
    start = rng.integers(len(clip.rotations) - frames + 1)
    rotations = clip.rotations[start : start + frames]
    travel = clip.translation[start : start + frames].copy()
    travel[:, [0, 2]] -= travel[:, [0, 2]].mean(0)
    travel[:, 1] -= floor_height(rotations, travel)
    return Take(np.ascontiguousarray(rotations, np.float32), travel.astype(np.float32), clip.name)


def varied_take(rng: np.random.Generator, shown: Take, other: Take) -> Take:
    """A take for training: `varied`, the same in all frames."""
    rotations = varied(rng, shown.rotations, shown.rotations, other.rotations)
    travel = shown.travel.copy()
    travel[:, 1] -= floor_height(rotations, travel)
    return Take(rotations, travel.astype(np.float32), shown.name)


def lengthened(clip: MotionClip, frames: int) -> MotionClip:
    return looped(clip, frames) if clip.cyclic and len(clip.rotations) < frames else clip


def floor_height(rotations: Array, travel: Array) -> float:
    """Height (m) in the motion's own axes on which its lowest joints rest, 5 cm of foot below them."""
    naked = body()
    lowest = []
    for pose, place in zip(rotations, travel, strict=True):
        _, joints = chain(pose, naked.joints, naked.parents)
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
