"""A file of clips: videos with SMPL labels, or motion alone, that a user trains on; and converters that write one.

`clips.json` lists the clips; the arrays of each lie in a safetensors file beside it, pictures and masks in files that
it names. All paths are relative to the folder of `clips.json`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as to_bytes

from compress.atomic import atomic_folder, atomic_write
from compress.errors import BadInput
from hmr.data.crop import cut
from hmr.data.dataset import DataSpec, Frames
from hmr.data.pictures import Side
from hmr.data.sample import CropSquare, Sample, known
from hmr.media.mask import at_size, person
from hmr.media.picture import picture
from hmr.motion.amass import betas_of, read_amass
from hmr.motion.clip import MotionClip, family_of
from hmr.motion.recordings import split_of

SHAPES = {"rotations": (24, 3, 3), "betas": (10,), "translation": (3,), "boxes": (4,), "camera": (3,)}


class Entry(BaseModel):
    """One clip of N frames, one after the other at `fps`.

    The file `arrays` holds rotations (N, 24, 3, 3), local, and betas (N, 10); with pictures, the root is in camera axes
    (x right, y down, z forward) and boxes (N, 4) are left, top, right, bottom in pixels; without, the root is in a
    world of y up and translation (N, 3) is the pelvis in m. There may be camera (N, 3), a crop's weak perspective.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(min_length=1)
    split: Literal["train", "calib", "val", "test"]
    fps: float = Field(gt=0)
    arrays: str
    frames: tuple[str, ...] = ()  # pictures
    masks: tuple[str, ...] = ()  # as `hmr.media.mask` reads them; at another scale they are scaled
    focal: float | None = Field(None, gt=0)  # pixels of the frames; only CameraHMR asks

    @model_validator(mode="after")
    def _inside(self) -> Self:
        for name in (self.arrays, *self.frames, *self.masks):
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise ValueError(f"{name} is outside the folder of the file of clips")
        return self


class ClipFile(BaseModel):
    """The content of `clips.json`."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    schema_version: Literal[1] = 1
    clips: tuple[Entry, ...]


def read_file(path: Path) -> ClipFile:
    """A file of clips; raises BadInput, naming the field, where it is none."""
    try:
        return ClipFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BadInput(f"{path}: not a file of clips: {where}: {first['msg']}") from error


def arrays_of(path: Path, entry: Entry, wanted: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """The arrays of a clip of a file `path`; raises BadInput where one that is wanted is missing or odd."""
    file = path.parent / entry.arrays
    try:
        arrays = load_file(file)
    except (OSError, SafetensorError, TypeError) as error:  # TypeError: of a type that numpy does not know
        raise BadInput(f"{file}: not a file of arrays that can be read ({error})") from error
    count = len(entry.frames) or (*arrays.get("rotations", np.zeros(0)).shape, 0)[0]
    for name in sorted({*wanted, *(arrays.keys() & SHAPES.keys())}):
        shape = arrays[name].shape if name in arrays else None
        if shape != (count, *SHAPES[name]) or not count or not np.isfinite(arrays[name]).all():
            raise BadInput(f"{file}: {name} has to be finite, of shape {(count, *SHAPES[name])}; it is {shape}")
    return {name: arrays[name].astype(np.float32) for name in wanted}


def contents(path: Path) -> bytes:
    """A file as it is; raises BadInput where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from error


def motion_in(path: Path, split: str) -> list[MotionClip]:
    """The clips of a split as motion; raises BadInput where a clip has pictures, whose world is a camera's."""
    found = []
    for entry in (entry for entry in read_file(path).clips if entry.split == split):
        if entry.frames:
            raise BadInput(f"{path}: {entry.name} has pictures: a motion VAE is trained on clips without")
        arrays = arrays_of(path, entry, ("rotations", "translation"))
        family = family_of(entry.name)
        where, fps = str(path), entry.fps
        found.append(
            MotionClip(arrays["rotations"], arrays["translation"], fps, entry.name, family, source=where, licence="")
        )
    return found


def open_clips(path: Path, split: str, side: Side, size: tuple[int, int], frames: int | None = None) -> Frames:
    """The videos of one split of a file of clips, at most `frames` long; raises BadInput where they are no data set."""
    entries = [entry for entry in read_file(path).clips if entry.split == split and entry.frames]
    rates = sorted({entry.fps for entry in entries})
    if len(rates) != 1:
        raise BadInput(f"{path}: split {split} needs clips with pictures at one rate: found {rates or 'none'}")
    masked = all(entry.masks for entry in entries)
    odd = [entry.name for entry in entries if len(entry.masks) != (len(entry.frames) if masked else 0)]
    if odd:
        raise BadInput(f"{path}: {odd[0]} needs one mask for each frame, as every clip or as none")
    arrays = {entry.name: arrays_of(path, entry, ("rotations", "betas", "boxes")) for entry in entries}
    if len(arrays) != len(entries):
        raise BadInput(f"{path}: two clips of split {split} have one name")
    places = [(entry, i) for entry in entries for i in range(len(entry.frames))][:frames]

    def draw(index: int) -> Sample:
        entry, i = places[index]
        try:
            return cut_out(path, entry, i, arrays[entry.name], side, size)
        except BadInput as error:
            raise BadInput(f"{path}: frame {i} of {entry.name}: {error}") from None

    names = [entry.name for entry, _ in places]
    return Frames(
        draw,
        names.__getitem__,
        len(places),
        rates[0],
        notes={"mask_source": "files" if masked else "none"},
        spec=DataSpec("clips", split, path),
    )


def cut_out(
    path: Path, entry: Entry, frame: int, arrays: dict[str, NDArray[np.float32]], side: Side, size: tuple[int, int]
) -> Sample:
    """One frame of a clip of the file `path`."""
    image = picture(path.parent / entry.frames[frame])
    left, top, right, bottom = map(float, arrays["boxes"][frame])
    centre, square = ((left + right) / 2, (top + bottom) / 2), side(right - left, bottom - top)
    mask = None
    if entry.masks:
        file = path.parent / entry.masks[frame]
        visible = at_size(person(file), image.shape[:2], file)
        mask = cut(visible.astype(np.uint8) * 255, centre, square, size) > 127
    place = CropSquare(centre, square, image.shape[:2], entry.focal)
    labels = {name: arrays[name][frame] for name in ("rotations", "betas")}
    return Sample(cut(image, centre, square, size), entry.name, mask, place, **labels)


def digest_of(path: Path, split: str, frames: int) -> str:
    """sha256 of labels, pictures and masks of a split's first frames: a file's name does not identify its content."""
    found, left = hashlib.sha256(), frames
    for entry in (entry for entry in read_file(path).clips if entry.split == split and entry.frames):
        if not left:
            break
        some = min(left, len(entry.frames))
        left -= some
        for _, values in sorted(arrays_of(path, entry, ("rotations", "betas", "boxes")).items()):
            found.update(values.tobytes())
        for i in range(some):
            for named in (entry.frames[i], *entry.masks[i : i + 1]):
                found.update(contents(path.parent / named))
    return found.hexdigest()


def write_file(path: Path, clips: Sequence[Entry]) -> Path:
    """Write a file of clips, last of all: what it names is there already."""
    return atomic_write(path, ClipFile(clips=tuple(clips)).model_dump_json(indent=1).encode())


def from_amass(source: Path, out: Path) -> Path:
    """A file of motion from a folder of AMASS .npz files, split by family as `hmr.motion.recordings` splits; its own
    folder is written whole or not at all."""
    files = sorted(source.rglob("*.npz"))
    if not files:
        raise BadInput(f"{source}: holds no AMASS .npz files")
    entries = []
    with atomic_folder(out.parent) as folder:
        for i, file in enumerate(files):
            clip, betas = read_amass(file), betas_of(file)
            arrays = {
                "rotations": clip.rotations,
                "translation": clip.translation,
                "betas": np.tile(betas, (len(clip), 1)),
            }
            name = f"{i:05d}.safetensors"
            (folder / name).write_bytes(to_bytes(arrays))
            entries.append(Entry(name=clip.name, split=split_of(clip.family), fps=clip.fps, arrays=name))
        write_file(folder / out.name, entries)
    return out


def from_videos(some: Sequence[Frames], out: Path, tell: Callable[[int], None] = lambda frames: None) -> Path:
    """A file of clips from synthetic videos of some splits: pictures, masks and labels as a user's own would come.

    Pictures are crops already: the box is the whole of each. `tell` is called for each frame that is drawn. The
    folder of the file is written whole or not at all.
    """
    entries = []
    with atomic_folder(out.parent) as folder:
        for videos in some:
            if videos.fps is None or videos.spec is None:
                raise BadInput("a clip file holds videos: name synth-video")
            for name, frames in groupby(range(len(videos)), lambda i, names=videos.recordings: names[i]):  # type: ignore[misc]  # mypy infers no lambda with a default
                samples = []
                for i in frames:
                    samples.append(videos[i])
                    tell(1)
                entries.append(written(samples, name, videos.spec.split, videos.fps, folder))
        write_file(folder / out.name, entries)
    return out


def written(samples: Sequence[Sample], name: str, split: str, fps: float, folder: Path) -> Entry:
    """One clip, its pictures and arrays below SPLIT/NAME in `folder`."""
    place = f"{split}/{name}"
    (folder / place).mkdir(parents=True, exist_ok=True)
    frames, masks = (tuple(f"{place}/{what}-{i:04d}.png" for i in range(len(samples))) for what in ("frame", "mask"))
    for sample, frame, mask in zip(samples, frames, masks, strict=True):
        Image.fromarray(sample.image).save(folder / frame)
        Image.fromarray(known(sample.mask, "person masks").astype(np.uint8) * 255).save(folder / mask)
    height, width = samples[0].image.shape[:2]
    arrays = {field: np.stack([getattr(s, field) for s in samples]) for field in ("rotations", "betas", "camera")}
    arrays["boxes"] = np.tile(np.array([0, 0, width, height], np.float32), (len(samples), 1))
    file = f"{place}.safetensors"
    (folder / file).write_bytes(to_bytes({k: v.astype(np.float32) for k, v in arrays.items()}))
    return Entry(name=name, split=split, fps=fps, arrays=file, frames=frames, masks=masks)  # type: ignore[arg-type]  # a split's name
