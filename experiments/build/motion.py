"""Build `motion.npz`: `python -m experiments.build.motion WHEEL FOLDER... OUT`.

The wheel is the one of pybullet 3.2.7 (zlib licence); its 15 humanoid clips are DeepMimic's (MIT, Xue Bin Peng). The
folders hold CMU's motion (mocap.cs.cmu.edu, .amc or .bvh) and DeepMimic's further clips; all of it is taken that the
wheel has not, at 30 fps and without tracking errors.
"""

from __future__ import annotations

import io
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from compress.atomic import atomic_write
from compress.errors import BadInput
from hmr.motion.clip import MotionClip, clip_name, plausible_parts, resampled
from hmr.motion.deepmimic import read_deepmimic
from hmr.motion.recordings import motion_files, pack_clips, read_clip

_PATTERN = "pybullet_data/data/motions/humanoid3d_*.txt"
_SOURCE = "pybullet 3.2.7 pybullet_data/data/motions, from DeepMimic (Xue Bin Peng)"
_LICENCE = "zlib (pybullet); MIT (DeepMimic)"


def build(wheel: Path, more: list[Path], target: Path) -> int:
    """Write the clips of a pybullet wheel, or of a folder of such files, and of `more`; returns their number."""
    with tempfile.TemporaryDirectory() as unpacked:
        folder = wheel if wheel.is_dir() else _unpack(wheel, Path(unpacked))
        paths = sorted(folder.glob("humanoid3d_*.txt"))
        clips = [read_deepmimic(path, _SOURCE, _LICENCE) for path in paths]
    if not clips:
        raise BadInput(f"{wheel}: no {_PATTERN} inside")
    names = {clip.name for clip in clips}
    clips += [part for folder in more for part in others(folder, names)]
    buffer, packed = io.BytesIO(), pack_clips(clips)
    np.savez_compressed(buffer, **packed)  # type: ignore[arg-type]  # numpy types ** as allow_pickle
    atomic_write(target, buffer.getvalue())
    return len(clips)


def others(folder: Path, names: set[str]) -> list[MotionClip]:
    """The motion of a folder, without the clips of these names."""
    clips = [read_clip(path) for path in motion_files(folder) if clip_name(path) not in names]
    return [part for clip in clips for part in plausible_parts(resampled(clip))]


def _unpack(wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if Path(name).match(_PATTERN):
                (folder / Path(name).name).write_bytes(archive.read(name))
    return folder


def main() -> None:
    """Command line of the module."""
    if len(sys.argv) < 4:
        sys.exit("usage: python -m experiments.build.motion WHEEL FOLDER... OUT")
    wheel, *more, target = map(Path, sys.argv[1:])
    sys.stderr.write(f"{build(wheel, more, target)} clips in {target}\n")


if __name__ == "__main__":
    main()
