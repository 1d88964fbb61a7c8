"""The .npz in which CameraHMR keeps annotations: one row a person and picture, poses in camera axes and a gender."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compress.errors import BadInput
from hmr.data.annotated.recordings import AnnotatedRecording, boxes_at, gender_of, numbers, rotations, unknown

KEYS = ("center", "scale", "pose_cam", "shape", "gender", "cam_int")
CONVENTIONS = {"3dpw": "h36m14-pelvis", "emdb": "smpl24-hips-neutral"}  # by data set
PIXELS = 200.0  # of a box whose `scale` is 1


def read_rows(content: dict[str, Any], pictures: tuple[str, ...], path: Path) -> AnnotatedRecording:
    """Every row of the file, as one recording."""
    count = len(pictures)
    genders = content.get("gender")
    if genders is None or genders.shape != (count,):
        raise BadInput(f"{path}: 'gender' is missing or not one for each of {count} rows")
    pose, shape = numbers(content, "pose_cam", (count, None), path), numbers(content, "shape", (count, None), path)
    if pose.shape[1] < 72 or shape.shape[1] < 10:
        raise BadInput(f"{path}: poses of {pose.shape[1]} and shapes of {shape.shape[1]} numbers, SMPL has 72 and 10")
    known = "cam_int" in content
    return AnnotatedRecording(
        name=path.stem,
        pictures=pictures,
        boxes=boxes_at(content, count, PIXELS, path),
        rotations=rotations(pose[:, :72]),
        betas=shape[:, :10],
        genders=tuple(gender_of(word, path) for word in genders.tolist()),
        focal=numbers(content, "cam_int", (count, 3, 3), path)[:, 0, 0] if known else unknown(count),
    )
