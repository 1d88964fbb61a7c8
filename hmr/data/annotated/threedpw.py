"""3DPW: `sequenceFiles/<split>/*.pkl` beside `imageFiles/<sequence>/image_*.jpg`.

Splits are folders: test is 3DPW's own and reports; val, on which searches decide, is its validation; calib, on which
layers and importance are decided, is its train, and so is train. A recording is one person of one sequence.
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
    Doubles,
    boxes_of,
    chosen,
    gender_of,
    numbers,
    refuse_missing,
    rotations,
)

FOLDERS = {"train": "train", "calib": "train", "val": "validation", "test": "test"}
SEQUENCES = {"train": 24, "validation": 12, "test": 24}
MARGIN = 1.2  # of the box around the projected joints, as SPIN cut 3DPW
NEAR = 0.1  # m in front of the camera, where a person has to be to have a box


def read_3dpw(root: Path, split: str) -> Annotations:
    """All people of a split. Raises BadInput for another folder, missing sequences or pictures, and other files."""
    folder = root / "sequenceFiles" / FOLDERS[split]
    if not folder.is_dir():
        raise BadInput(f"{root}: {folder} is not a folder: name the one that holds 3DPW's sequenceFiles and imageFiles")
    files, wanted = sorted(folder.glob("*.pkl")), SEQUENCES[FOLDERS[split]]
    if len(files) < wanted:
        raise BadInput(f"{folder}: holds {len(files)} of the {wanted} sequences of 3DPW: unpack all of sequenceFiles")
    recordings: list[AnnotatedRecording] = []
    invalid = 0
    for file in files:
        content = read_pickle(file)
        everyone = people(content, file)
        refuse_missing(root, everyone[0].pictures, file)
        for i, person in enumerate(everyone):
            keep = valid(content, i, len(person), file) & np.isfinite(person.boxes).all(1)
            invalid += int((~keep).sum())
            recordings += [chosen(person, keep, file)] if keep.any() else []
    boxes = f"projected joints, {MARGIN} times as large"
    return Annotations(tuple(recordings), root, "h36m14-hips", boxes, 30.0, invalid)


def people(content: Any, path: Path) -> list[AnnotatedRecording]:
    """Every person of a sequence, with all frames."""
    cameras = numbers(content, "cam_poses", (None, 4, 4), path)
    intrinsics = numbers(content, "cam_intrinsics", (3, 3), path)
    count, name = len(cameras), path.stem
    genders = content.get("genders")
    if not isinstance(genders, list) or not genders:
        raise BadInput(f"{path}: 'genders' is not a list of people, so this is not a sequence file of 3DPW")
    pictures = tuple(f"imageFiles/{name}/image_{i:05d}.jpg" for i in range(count))
    out = []
    for i, gender in enumerate(genders):
        turns = rotations(numbers(of(content, "poses", i), "poses", (count, 72), path))
        turns[:, 0] = cameras[:, :3, :3] @ turns[:, 0]
        betas = numbers(of(content, "betas", i), "betas", (None,), path)[:10]
        if len(betas) < 10:
            raise BadInput(f"{path}: 'betas' of a person are {len(betas)} numbers, which have to be 10")
        joints = numbers(of(content, "jointPositions", i), "jointPositions", (count, 72), path)
        shape = np.tile(betas, (count, 1))
        focal = np.full(count, intrinsics[0, 0])
        joints = joints.reshape(count, 24, 3)  # (N, 72) -> (N, 24, 3)
        boxes = boxes_of(projected(joints, cameras, intrinsics), MARGIN)
        someone = gender_of(gender, path)
        out.append(AnnotatedRecording(f"{name}_{i}", pictures, boxes, turns, shape, (someone,) * count, focal))
    return out


def of(content: dict[str, Any], key: str, person: int) -> dict[str, Any]:
    """One person's value of the list under `key`, under the same key; empty where there is none."""
    values = content.get(key)
    return {key: values[person]} if isinstance(values, list) and person < len(values) else {}


def valid(content: dict[str, Any], person: int, count: int, path: Path) -> np.ndarray:
    """(N,) whether the camera is aligned with the person."""
    return numbers(of(content, "campose_valid", person), "campose_valid", (count,), path) > 0


def projected(joints: Doubles, cameras: Doubles, intrinsics: Doubles) -> Doubles:
    """World joints (N, 24, 3) m in pixels (N, 24, 2); NaN for all of a frame with a joint behind the camera."""
    seen = joints @ cameras[:, :3, :3].transpose(0, 2, 1) + cameras[:, None, :3, 3]
    seen[(seen[..., 2] < NEAR).any(1)] = np.nan
    pixels = seen @ intrinsics.T
    return pixels[..., :2] / pixels[..., 2:]
