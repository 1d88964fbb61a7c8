"""People in pictures whose poses somebody measured, drawn as samples; the files beside this one read the data sets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import roma
import torch
from numpy.typing import NDArray

from compress.errors import BadInput
from hmr.body.conventions import CONVENTIONS
from hmr.data.dataset import Frames
from hmr.data.pictures import LIMITS, Focal, PersonCropper, Photo, Segmenter, Side, Tally
from hmr.data.sample import Sample
from hmr.media.boxes import Corners
from hmr.media.picture import picture

Doubles = NDArray[np.float64]
GENDERS = {"m": "male", "male": "male", "f": "female", "female": "female", "n": "neutral", "neutral": "neutral"}


@dataclass(frozen=True)
class AnnotatedRecording:
    """Annotated frames of one video, in its order; rotations are local, the root's turns into camera axes."""

    name: str
    pictures: tuple[str, ...]  # (N,) paths in the data set's folder
    boxes: Doubles  # (N, 4) left, top, right, bottom in pixels
    rotations: Doubles  # (N, 24, 3, 3)
    betas: Doubles  # (N, 10)
    genders: tuple[str, ...]  # (N,)
    focal: Doubles  # (N,) pixels; NaN where the camera is not known
    landmarks: Doubles | None = None  # (N, R, 3) m, see `hmr.body.model.People`

    def __len__(self) -> int:
        return len(self.pictures)


@dataclass(frozen=True)
class Annotations:
    """A data set's annotations of one split, and how its errors are measured."""

    recordings: tuple[AnnotatedRecording, ...]
    root: Path  # of the pictures
    convention: str  # a name in `hmr.body.conventions`
    boxes: str  # where they come from
    fps: float | None  # None where frames of one person do not follow each other
    invalid: int = 0  # frames that the annotators exclude

    @property
    def cameras_known(self) -> bool:
        return all(np.isfinite(recording.focal).all() for recording in self.recordings)


def open_annotated(
    annotations: Annotations,
    split: str,
    frames: int | None,
    side: Side,
    segmenter: Segmenter | None,
    size: tuple[int, int],
    focal: Focal | None = None,
) -> Frames:
    """The samples of one split, each cut out of its picture when it is asked for.

    At most `frames`, spread evenly, else all of `test` and as many of other splits as the synthetic ones have.
    Acceleration needs every frame, so fps is None where some are left out. Frames that the annotators call invalid are
    not there, and those around them follow each other, as in WHAM's evaluation.

    `focal` is how a model that has to know the focal length finds it itself, which is how CameraHMR is evaluated; where
    it is None the camera's own counts. A frame in which the segmenter finds nobody stays, with an empty mask, and is
    counted in the notes, where the counts are None until every frame was drawn. Raises BadInput where no frame is
    valid, and, at the latest while they are drawn, where more than half of them are such.
    """
    every = [(i, j) for i, recording in enumerate(annotations.recordings) for j in range(len(recording))]
    if not every:
        raise BadInput(f"{annotations.root}: no frame of split {split} is valid")
    limit = len(every) if split == "test" else LIMITS.get(split, len(every))
    count = min(frames or limit, len(every))
    places = [every[k * len(every) // count] for k in range(count)]
    notes: dict[str, Any] = {
        "mask_source": segmenter.name if segmenter else "none",
        "boxes": annotations.boxes,
        "convention": annotations.convention,
        "convention_used_by": CONVENTIONS[annotations.convention].used_by,
        "invalid_frames": annotations.invalid,
        **(dict.fromkeys(Tally().notes) if segmenter else {}),
    }
    pictures = [name for recording in annotations.recordings for name in recording.pictures]
    cropper = PersonCropper(side, size, segmenter.among(pictures) if segmenter else None)
    refuse_few_masks(annotations, places, cropper)
    tally, drawn = Tally(), set[int]()

    def draw(index: int) -> Sample:
        i, j = places[index]
        sample = cut_out(annotations.root, annotations.recordings[i], j, cropper, focal, tally)
        drawn.add(index)
        if segmenter:
            tally.refuse_most(annotations.root, count)
            notes.update(tally.notes if len(drawn) == count else {})
        return sample

    names = [annotations.recordings[i].name for i, _ in places]
    return Frames(draw, names.__getitem__, count, annotations.fps if count == len(every) else None, notes)


def refuse_few_masks(annotations: Annotations, places: Sequence[tuple[int, int]], cropper: PersonCropper) -> None:
    """Raise BadInput where it is known, before a picture is read, that most frames have no mask."""
    names = [annotations.recordings[i].pictures[j] for i, j in places]
    boxes = [box_of(annotations.recordings[i], j) for i, j in places]
    bare = [cropper.segmenter is not None and cropper.segmenter.lacks(name) for name in names]
    keys = [key for key, lacking in zip(zip(names, boxes, strict=True), bare, strict=True) if lacking]
    Tally(dict.fromkeys(keys, "without_mask")).refuse_most(annotations.root, len(places))


def box_of(recording: AnnotatedRecording, frame: int) -> Corners:
    left, top, right, bottom = map(float, recording.boxes[frame])
    return left, top, right, bottom


def cut_out(
    root: Path, of: AnnotatedRecording, frame: int, cropper: PersonCropper, focal: Focal | None, tally: Tally
) -> Sample:
    """One frame of a recording; its mask is empty where a segmenter does not find its person, which is counted."""
    photo = Photo(of.pictures[frame], picture(root / of.pictures[frame]))
    own = float(of.focal[frame])
    length = focal(photo.image) if focal else own if math.isfinite(own) else None
    given = photo, box_of(of, frame)
    seen = cropper.see(*given, of.name, length, tally) if cropper.segmenter else None
    if seen is None:
        mask = np.zeros(photo.image.shape[:2], np.bool_) if cropper.segmenter else None
        seen = cropper.cut(*given, mask, of.name, length, tally)
    return replace(
        seen,
        rotations=of.rotations[frame].astype(np.float32),
        betas=of.betas[frame].astype(np.float32),
        gender=of.genders[frame],
        landmarks=None if of.landmarks is None else of.landmarks[frame].astype(np.float32),
    )


def numbers(content: Any, key: str, shape: tuple[int | None, ...], path: Path) -> Doubles:
    """`content[key]` as floats of `shape`, where None is any length. Raises BadInput naming file and key."""
    value = content.get(key) if isinstance(content, dict) else None
    if value is None:
        names = ", ".join(sorted(content)[:20]) if isinstance(content, dict) else "no names"
        raise BadInput(f"{path}: '{key}' is missing, so this is not a supported annotation file: {names}")
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{path}: '{key}' does not hold numbers of one shape ({error})") from error
    wanted = "(" + ", ".join("N" if length is None else str(length) for length in shape) + ")"
    if array.ndim != len(shape) or any(b is not None and a != b for a, b in zip(array.shape, shape, strict=True)):
        raise BadInput(f"{path}: '{key}' has shape {array.shape}, which has to be {wanted}")
    return array


def rotations(axis_angle: Doubles) -> Doubles:
    """Axis-angle (N, 72) in radians -> matrices (N, 24, 3, 3)."""
    vectors = torch.from_numpy(axis_angle.reshape(-1, 24, 3))  # (N, 72) -> (N, 24, 3)
    return roma.rotvec_to_rotmat(vectors).numpy()


def gender_of(word: Any, path: Path) -> str:
    """neutral, female or male. Raises BadInput for another word."""
    gender = GENDERS.get(str(word).lower())
    if gender is None:
        raise BadInput(f"{path}: gender '{word}' is none of {', '.join(GENDERS)}")
    return gender


def chosen(recording: AnnotatedRecording, keep: NDArray[np.bool_], path: Path, name: str = "") -> AnnotatedRecording:
    """The frames of a recording that `keep` (N,) marks, with another `name` where one is given.

    Raises BadInput where one of them holds a value that is not finite.
    """
    frames = np.flatnonzero(keep).tolist()
    parts: dict[str, Any] = {"name": name or recording.name}
    for field in fields(AnnotatedRecording):
        value = getattr(recording, field.name)
        if isinstance(value, np.ndarray):
            parts[field.name] = value[frames]
            if field.name != "focal" and not np.isfinite(value[frames]).all():
                raise BadInput(f"{path}: '{field.name}' of a frame that counts as valid is not finite")
        elif field.name not in parts:
            parts[field.name] = value and tuple(value[i] for i in frames)
    return AnnotatedRecording(**parts)


def refuse_missing(root: Path, names: Sequence[str], path: Path) -> None:
    """Raise BadInput where pictures that the annotations in `path` name are not in `root`, or lie outside of it."""
    lies = {name: PurePosixPath(name) for name in names}
    if outside := next((name for name, at in lies.items() if at.is_absolute() or ".." in at.parts), None):
        raise BadInput(f"{path}: names the picture {outside}, which is outside the data set")
    folders = {at.parent: root / at.parent for at in lies.values()}
    present = {parent: {file.name for file in at.iterdir()} if at.is_dir() else set() for parent, at in folders.items()}
    lost = [name for name, at in lies.items() if at.name not in present[at.parent]]
    if lost:
        raise BadInput(
            f"{path}: {len(lost)} of the {len(lies)} pictures that it annotates are missing, such as {root / lost[0]}: "
            "unpack all pictures of the data set"
        )


def boxes_of(points: Doubles, factor: float) -> Doubles:
    """Boxes (N, 4) around points (N, P, 2) in pixels, `factor` times as large as they have to be."""
    low, high = points.min(1), points.max(1)
    middle, half = (low + high) / 2, factor * (high - low) / 2
    return np.concatenate([middle - half, middle + half], 1)


def unknown(count: int) -> Doubles:
    """Unknown focal lengths (N,)."""
    return np.full(count, math.nan)


def boxes_at(content: Any, count: int, unit: float, path: Path) -> Doubles:
    """Boxes (N, 4) of a file's `center` (N, 2) in pixels and `scale` (N,), (N, 1) or (N, 2) in `unit` pixels."""
    centre, scale = numbers(content, "center", (count, 2), path), content.get("scale")
    if isinstance(scale, np.ndarray) and scale.ndim == 1:
        scale = scale[:, None]  # (N,) -> (N, 1)
    size = unit * numbers({"scale": scale}, "scale", (count, None), path)
    if size.shape[1] not in (1, 2) or not (size > 0).all():
        raise BadInput(f"{path}: 'scale' has to be one or two numbers above zero for each row")
    return np.concatenate([centre - size / 2, centre + size / 2], 1)
