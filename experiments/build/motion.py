"""Build `motion_pybullet.npz` from the pybullet wheel: `python -m experiments.build.motion WHEEL_OR_FOLDER`.

The wheel is the one of pybullet 3.2.7 (zlib licence); its humanoid clips are DeepMimic's (MIT, Xue Bin Peng).
"""

from __future__ import annotations

import io
import sys
import tempfile
import zipfile
from importlib.resources import files
from pathlib import Path

import numpy as np

from compress.atomic import atomic_write
from compress.errors import BadInput
from hmr.motion.deepmimic import read_deepmimic
from hmr.motion.recordings import pack_clips

_PATTERN = "pybullet_data/data/motions/humanoid3d_*.txt"
_SOURCE = "pybullet 3.2.7 pybullet_data/data/motions, from DeepMimic (Xue Bin Peng)"
_LICENCE = "zlib (pybullet); MIT (DeepMimic)"


def build(origin: Path, target: Path) -> int:
    """Write the clips of a pybullet wheel, or of a folder of such files, to `target`; returns their number."""
    with tempfile.TemporaryDirectory() as unpacked:
        folder = origin if origin.is_dir() else _unpack(origin, Path(unpacked))
        paths = sorted(folder.glob("humanoid3d_*.txt"))
        clips = [read_deepmimic(path, _SOURCE, _LICENCE) for path in paths]
    if not clips:
        raise BadInput(f"{origin}: no {_PATTERN} inside")
    buffer, packed = io.BytesIO(), pack_clips(clips)
    np.savez_compressed(buffer, **packed)  # type: ignore[arg-type]  # numpy types ** as allow_pickle
    atomic_write(target, buffer.getvalue())
    return len(clips)


def _unpack(wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if Path(name).match(_PATTERN):
                (folder / Path(name).name).write_bytes(archive.read(name))
    return folder


def main() -> None:
    """Command line of the module."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m experiments.build.motion WHEEL_OR_FOLDER")
    target = Path(str(files("hmr").joinpath("assets", "motion_pybullet.npz")))
    sys.stderr.write(f"{build(Path(sys.argv[1]), target)} clips in {target}\n")


if __name__ == "__main__":
    main()
