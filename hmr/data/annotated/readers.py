"""`3dpw` and `emdb` by name: their own files, or the .npz of a code base in their folder."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np

from compress.errors import BadInput
from hmr.checkpoints.safe_pickle import read_arrays
from hmr.data.annotated import camerahmr, fourdhumans
from hmr.data.annotated.emdb import read_emdb
from hmr.data.annotated.recordings import Annotations, chosen, refuse_missing
from hmr.data.annotated.threedpw import read_3dpw

READERS = {"3dpw": read_3dpw, "emdb": read_emdb}
NPZ: dict[str, ModuleType] = {"pose_cam": camerahmr, "extra_keypoints_3d": fourdhumans}  # by a key that no other has
PICTURES = {"3dpw": ("", "imageFiles"), "emdb": ("",)}  # where an .npz's names of pictures may start from


def read(name: str, split: str, root: Path) -> Annotations:
    """A data set's annotations of a split; `root` is its folder, or 4D-Humans' or CameraHMR's .npz in that folder.

    Raises BadInput, in one sentence, for files that are others, too few, or without their pictures.
    """
    if not root.exists():
        raise BadInput(f"{root}: there is no such folder: name that of the data set, {name}@FOLDER")
    return read_npz(name, split, root) if root.is_file() else READERS[name](root, split)


def read_npz(name: str, split: str, path: Path) -> Annotations:
    """A code base's own annotations, which are measured by its own convention; a recording is a folder of pictures.

    Two people in one picture are two rows, so no frames follow each other.
    """
    if path.suffix != ".npz" or split != "test" or f"{name}_test" not in path.stem:
        raise BadInput(f"{path}: of {name}, one file is read for the split test alone: a {name}_test*.npz")
    wanted = {"imgname", *camerahmr.KEYS, *fourdhumans.KEYS}
    content = read_arrays(path, only=wanted)
    kind = next((module for key, module in NPZ.items() if key in content), None)
    if kind is None or name not in kind.CONVENTIONS or not isinstance(content.get("imgname"), np.ndarray):
        raise BadInput(f"{path}: neither 4D-Humans' nor CameraHMR's file of {name}: it holds {sorted(content)}")
    pictures = tuple(content["imgname"].astype(str).tolist())
    places = [path.parent / place for place in PICTURES[name]]
    root = next((place for place in places if pictures and (place / pictures[0]).is_file()), path.parent)
    refuse_missing(root, pictures, path)
    rows = kind.read_rows(content, pictures, path)
    folders = np.array([Path(picture).parent.as_posix() for picture in pictures])
    recordings = [chosen(rows, folders == folder, path, folder) for folder in dict.fromkeys(folders.tolist())]
    return Annotations(tuple(recordings), root, kind.CONVENTIONS[name], f"those of {path.name}", None)
