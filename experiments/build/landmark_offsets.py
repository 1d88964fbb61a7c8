"""Measure where BlazePose's landmarks lie beside the joints of the open body, and write `landmark_offsets.json`:

    python -m experiments.build.landmark_offsets [FRAMES]

Rendered bodies of `synth:train` are shown to BlazePose (`fasthmr masks import`). In each picture the offset of a
landmark is seen from one side alone; over all of them the offsets in bone axes that explain most are found by robust
least squares.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import hmr
from compress.atomic import atomic_write
from compress.provenance import commit
from hmr.body.limbs import LIMBS, ROWS, bone_axes
from hmr.data.blazepose import LandmarkNetwork, Square, square_of
from hmr.data.real_people.offsets import AXES, FILE, KINDS, LIMB_LANDMARKS
from hmr.data.sample import Sample, known

SIZE = (448, 336)  # of the pictures: as large as a person in a photograph
SURE = 0.9  # score, and visibility of a landmark, from which it is looked at
SCALE = 0.03  # m; what lies farther off is a mistake and no offset
RIDGE = 1e-3  # keeps apart what bones that are always straight cannot tell apart


def seen(sample: Sample, network: LandmarkNetwork) -> tuple[Tensor, Tensor, Tensor] | None:
    """Of one picture: how landmarks move with offsets (12, 2, 5) in m, where they are seen beside the joints (12, 2) in
    m across the line of sight, and whether each is sure (12,). None where the person is not seen."""
    height, width = sample.image.shape[:2]
    focal, scale = known(sample.focal, "focal lengths"), known(sample.camera, "cameras")[0]
    pixels = (known(sample.keypoints, "keypoints") + 0.5) * (width, height)
    joints = torch.from_numpy(known(sample.joints, "joints")).double()
    depth = joints[:, 2] + 2 * focal / (height * float(scale))
    person = network.see(sample.image, network.see(sample.image, around(pixels)).next)
    if person.score < SURE:
        return None
    rays = torch.from_numpy((pixels - [width / 2, height / 2]) / focal).double()[list(ROWS)]
    depth = depth[list(ROWS), None]
    axes = bone_axes(joints[list(ROWS)])
    slopes = (axes[..., :2] - rays[:, None] * axes[..., 2:]).mT  # (12, 2, 5)
    error = torch.from_numpy(person.pixels[LIMB_LANDMARKS] - pixels[list(ROWS)]) / focal * depth
    return slopes, error, torch.from_numpy(person.visibility[LIMB_LANDMARKS] > SURE)


def around(pixels: np.ndarray) -> Square:
    """A square for BlazePose around keypoints (24, 2), upright on the trunk."""
    pelvis, neck = pixels[0].astype(np.float64), pixels[12].astype(np.float64)
    up = (neck - pelvis) / np.linalg.norm(neck - pelvis)
    return square_of(pelvis, pelvis + up * np.linalg.norm(pixels - pelvis, axis=1).max())


def fitted(slopes: Tensor, error: Tensor, sure: Tensor) -> tuple[Tensor, Tensor]:
    """Offsets (5,) of one kind of joint, and the distances (N,) in m that they leave, from N landmarks: slopes (N, 2,
    5), error (N, 2), sure (N,)."""
    slopes, error = slopes[sure], error[sure]
    offsets = error.new_zeros(5)
    for _ in range(50):
        left = error - slopes @ offsets
        weight = 1 / (1 + left.square().sum(-1) / SCALE**2) ** 2
        pulled = weight[:, None, None] * slopes
        normal = torch.einsum("nia,nib->ab", pulled, slopes) + RIDGE * weight.sum() * torch.eye(5, dtype=error.dtype)
        offsets = torch.linalg.solve(normal, torch.einsum("nia,ni->a", pulled, error))
    return offsets, (error - slopes @ offsets).norm(dim=-1)


def measured(samples: Iterable[Sample], network: LandmarkNetwork) -> dict[str, Any]:
    """Offsets of all kinds of joints and what they leave, as JSON values."""
    parts = [part for part in (seen(sample, network) for sample in samples) if part is not None]
    slopes, error, sure = (torch.stack(each) for each in zip(*parts, strict=True))  # (N, 12, ...)
    offsets: dict[str, dict[str, float]] = {}
    medians: dict[str, dict[str, float]] = {}
    for kind in KINDS:
        rows = [i for i, name in enumerate(LIMBS) if name.endswith(kind)]
        found, left = fitted(*(each[:, rows].flatten(0, 1) for each in (slopes, error, sure)))
        offsets[kind] = dict(zip(AXES, (round(value, 5) for value in found.tolist()), strict=True))
        before = error[:, rows][sure[:, rows]].norm(dim=-1)
        medians[kind] = {"without_mm": 1000 * before.median().item(), "with_mm": 1000 * left.median().item()}
    return {"pictures": len(parts), "offsets": offsets, "median_distance": medians}


def main() -> None:
    """Command line of the module."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    found = measured(hmr.frames("synth:train", count, size=SIZE, keep=False), LandmarkNetwork())
    target = Path(str(files("hmr").joinpath("assets", FILE)))
    text = json.dumps({"data": "synth:train", "frames": count, "commit": commit(), **found}, indent=1)
    atomic_write(target, f"{text}\n".encode())
    sys.stderr.write(f"{text}\n{target}\n")


if __name__ == "__main__":
    main()
