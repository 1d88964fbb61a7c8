"""Where motion comes from: the shipped clips, a folder of the user's, and the split of both by family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import roma
import torch

from compress.errors import BadInput
from hmr.motion.amass import read_amass
from hmr.motion.asf_amc import read_asf_amc
from hmr.motion.bvh import read_bvh
from hmr.motion.clip import MotionClip, clip_name, family_of, plausible_parts, resampled, splits_file
from hmr.motion.deepmimic import read_deepmimic

Split = Literal["train", "calib", "val", "test"]
_READERS: dict[str, Callable[[Path], MotionClip]] = {
    ".txt": read_deepmimic,
    ".json": read_deepmimic,
    ".amc": read_asf_amc,
    ".bvh": read_bvh,
    ".npz": read_amass,
}
_QUANTUM = 32767  # quaternion parts are stored as 16-bit integers


def read_clip(path: str | Path) -> MotionClip:
    """Read one clip at its own rate; the suffix is the format (.txt, .json, .amc, .bvh, .npz).

    Raises BadInput for a suffix that no reader takes and, naming file and line or key, for a malformed file.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise BadInput(f"{path}: no reader for '{path.suffix}' files; give one of {', '.join(sorted(_READERS))}")
    return reader(path)


@cache
def _family_splits() -> dict[str, Split]:
    return {family: split for split, families in splits_file()["splits"].items() for family in families}


def split_of(family: str) -> Split:
    """The split that `splits.json` gives a family; a family it does not list is for training only."""
    return _family_splits().get(family, "train")


def load_clips(split: Split | None = None, mocap: str | Path | None = None) -> list[MotionClip]:
    """The clips of one split (all for None) at 30 fps, in the same order everywhere.

    The shipped clips, then those of the folder `mocap`, sorted by path. A clip
    of the folder that has a shipped one's name is left out, so that test figures do not depend on the folder. Clips
    are split by family: a user's own clip called `kick3` is a test clip, one of a family unknown here trains.
    Files of the folder lose their tracking errors, so that one may give several clips of the same name.
    """
    shipped = _shipped_at_rate()
    names = {clip.name for clip in shipped}
    paths = [path for path in motion_files(Path(mocap)) if clip_name(path) not in names] if mocap else []
    wanted = [path for path in paths if split is None or split_of(family_of(clip_name(path))) == split]
    clips = [clip for clip in shipped if split is None or split_of(clip.family) == split]
    return clips + [part for path in wanted for part in _parts_at_rate(path)]


@cache
def _shipped_at_rate() -> tuple[MotionClip, ...]:
    return tuple(resampled(clip) for clip in shipped_clips())


@cache
def _parts_at_rate(path: Path) -> list[MotionClip]:
    return plausible_parts(resampled(read_clip(path)))


def motion_files(folder: Path) -> list[Path]:
    """Every file of a folder that a reader takes, sorted; BadInput where there is none."""
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder of motion files; check --mocap or FASTHMR_MOCAP")
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and _holds_motion(path))
    if not paths:
        raise BadInput(f"{folder}: holds no motion file ({', '.join(sorted(_READERS))})")
    return paths


def _holds_motion(path: Path) -> bool:
    """Whether a reader takes the file: its suffix, and for text a brace first, which a readme lacks."""
    if path.suffix.lower() not in _READERS:
        return False
    if path.suffix.lower() != ".txt":
        return True
    with path.open("rb") as stream:
        return stream.read(64).lstrip().startswith(b"{")


def pack_clips(clips: list[MotionClip]) -> dict[str, np.ndarray]:
    """Plain arrays that hold clips compactly: quaternions as 16-bit integers (error below 0.01 degrees)."""
    rotations = torch.as_tensor(np.concatenate([clip.rotations for clip in clips]), dtype=torch.float64)
    quaternions = roma.quat_normalize(roma.rotmat_to_unitquat(rotations))
    quaternions = quaternions * torch.where(quaternions[..., 3:] < 0, -1.0, 1.0)
    return {
        "quaternions": np.round(quaternions.numpy() * _QUANTUM).astype(np.int16),
        "translation": np.concatenate([clip.translation for clip in clips]).astype(np.float32),
        "lengths": np.array([len(clip) for clip in clips]),
        "fps": np.array([clip.fps for clip in clips]),
        "cyclic": np.array([clip.cyclic for clip in clips]),
        **{key: np.array([getattr(clip, key) for clip in clips]) for key in ("name", "source", "licence")},
    }


def unpack_clips(packed: Mapping[str, np.ndarray]) -> list[MotionClip]:
    """The clips that `pack_clips` packed."""
    quaternions = torch.as_tensor(packed["quaternions"].astype(np.float64))
    rotations = roma.unitquat_to_rotmat(roma.quat_normalize(quaternions)).numpy().astype(np.float32)
    ends = np.cumsum(packed["lengths"]).tolist()
    clips = []
    for index, (start, end) in enumerate(pairwise([0, *ends])):
        name, source, licence = (str(packed[key][index]) for key in ("name", "source", "licence"))
        clips.append(
            MotionClip(
                rotations=rotations[start:end],
                translation=packed["translation"][start:end],
                fps=float(packed["fps"][index]),
                name=name,
                family=family_of(name),
                source=source,
                licence=licence,
                cyclic=bool(packed["cyclic"][index]),
            )
        )
    return clips


def shipped_clips() -> list[MotionClip]:
    """The clips in the package: pybullet's 15 at their own rates; CMU's and DeepMimic's further ones at 30 fps."""
    with files("hmr").joinpath("assets", "motion.npz").open("rb") as stream:
        return unpack_clips(dict(np.load(stream, allow_pickle=False)))
