"""The .npz in which 4D-Humans and TokenHMR keep annotations: one row a person and picture, positions of 44 joints.

It has no gender, so its joints are the truth and the true vertices are unknown.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hmr.body.conventions import J19
from hmr.data.annotated.recordings import AnnotatedRecording, boxes_at, numbers, rotations, unknown

KEYS = ("center", "scale", "body_pose", "betas", "extra_keypoints_3d")
CONVENTIONS = {"3dpw": "j19-mpii"}  # by data set


def read_rows(content: dict[str, Any], pictures: tuple[str, ...], path: Path) -> AnnotatedRecording:
    """Every row of the file, as one recording. `scale` is the box's width and height in pixels, or one for both."""
    count = len(pictures)
    landmarks = numbers(content, "extra_keypoints_3d", (count, J19.rows, 4), path)
    return AnnotatedRecording(
        name=path.stem,
        pictures=pictures,
        boxes=boxes_at(content, count, 1.0, path),
        rotations=rotations(numbers(content, "body_pose", (count, 72), path)),
        betas=numbers(content, "betas", (count, 10), path),
        genders=("neutral",) * count,
        focal=unknown(count),
        landmarks=landmarks[..., :3],
    )
