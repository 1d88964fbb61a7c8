"""EMDB: `P*/<sequence>/*_data.pkl` beside `images/*.jpg`.

test is EMDB 1, the 17 sequences whose file has `emdb1` set. There is no other split: EMDB was made to test on, so no
choices are made on it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import BadInput
from hmr.checkpoints.safe_pickle import read_pickle
from hmr.data.annotated.recordings import (
    AnnotatedRecording,
    Annotations,
    chosen,
    gender_of,
    numbers,
    refuse_missing,
    rotations,
)

SEQUENCES = 17


def read_emdb(root: Path, split: str = "test") -> Annotations:
    """EMDB 1. Raises BadInput for another split or folder, missing sequences or pictures, and other files."""
    if split != "test":
        raise BadInput(
            f"emdb:{split}: EMDB is a test set alone: use another for this, as 3dpw:{split} or synth:{split}"
        )
    files = sorted(root.glob("P*/*/*_data.pkl"))
    if not files:
        raise BadInput(f"{root}: there is no P*/*/*_data.pkl: name the folder that holds EMDB's P0 to P9")
    recordings: list[AnnotatedRecording] = []
    invalid = 0
    for file in files:
        content = read_pickle(file)
        if not numbers(content, "emdb1", (), file):
            continue
        whole, keep = sequence(content, root, file)
        refuse_missing(root, whole.pictures, file)
        invalid += int((~keep).sum())
        recordings.append(chosen(whole, keep, file))
    if len(recordings) < SEQUENCES:
        raise BadInput(f"{root}: holds {len(recordings)} of the {SEQUENCES} sequences of EMDB 1: unpack P0 to P9")
    return Annotations(tuple(recordings), root, "smpl24-hips", "EMDB's own", 30.0, invalid)


def sequence(content: dict[str, Any], root: Path, path: Path) -> tuple[AnnotatedRecording, np.ndarray]:
    """All frames of a sequence, and (N,) which of them are good and have a box."""
    smpl, camera, boxes = (content.get(key) for key in ("smpl", "camera", "bboxes"))
    poses = numbers(smpl, "poses_body", (None, 69), path)
    count = len(poses)
    cameras = numbers(camera, "extrinsics", (count, 4, 4), path)
    turns = rotations(np.concatenate([numbers(smpl, "poses_root", (count, 3), path), poses], 1))
    turns[:, 0] = cameras[:, :3, :3] @ turns[:, 0]
    corners = numbers(boxes, "bboxes", (count, 4), path)
    keep = numbers(content, "good_frames_mask", (count,), path) > 0
    keep &= (corners[:, 2:] > corners[:, :2]).all(1)
    keep &= ~np.isin(np.arange(count), numbers(boxes, "invalid_idxs", (None,), path))
    folder = path.parent.relative_to(root).as_posix()
    return AnnotatedRecording(
        name=path.stem.removesuffix("_data"),
        pictures=tuple(f"{folder}/images/{i:05d}.jpg" for i in range(count)),
        boxes=corners,
        rotations=turns,
        betas=np.tile(numbers(smpl, "betas", (10,), path), (count, 1)),
        genders=(gender_of(content.get("gender"), path),) * count,
        focal=np.full(count, numbers(camera, "intrinsics", (3, 3), path)[0, 0]),
    ), keep
