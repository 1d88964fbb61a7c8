"""DATA as users write it, `name[:split][@root]`, and the data sets behind it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from compress.errors import BadInput
from experiments.choices import one_of
from hmr.data.synthetic import SIZE, WORLDS, open_world
from hmr.data.view import Sample

SPLITS = ("train", "calib", "val", "test")
SEED = 0  # of every synthetic data set that a report names


class Frames(Protocol):
    """What a data set offers: samples by index, in a video's order, and the recording of each."""

    fps: float | None  # None: single frames

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Sample: ...
    @property
    def clip_names(self) -> list[str]: ...


@dataclass(frozen=True)
class DataSpec:
    """A data set's name, its split and, for data that lies in files, their folder."""

    name: str
    split: str = "test"
    root: Path | None = None

    @property
    def mask_source(self) -> str:
        """Where the person masks come from."""
        return "renderer"


def parse(text: str) -> DataSpec:
    """`name[:split][@root]` as a DataSpec; the split is `test` where none is given.

    Raises BadInput for a name or split that does not exist (with the nearest that does) and for a root that the data
    set has no use for.
    """
    head, at, root = text.partition("@")
    name, colon, split = head.partition(":")
    one_of(name, WORLDS, "data set")
    if at:
        raise BadInput(f"'{text}': {name} is rendered, not read from files: leave '@{root}' out")
    return DataSpec(name, one_of(split, SPLITS, f"split of {name}") if colon else "test")


def open_data(
    spec: DataSpec, frames: int | None = None, mocap: Path | None = None, size: tuple[int, int] = SIZE
) -> Frames:
    """The data set of `spec`, at most `frames` long, in crops of `size` (height, width).

    `mocap` is a folder of more motion to train on. Raises BadInput where that holds none.
    """
    return open_world(spec.name, spec.split, frames=frames, seed=SEED, mocap=mocap, size=size)
