"""How real people of the synthetic world are to a network that knows real ones: BlazePose's 2D error on `synth:val`.

    fasthmr masks import mediapipe-0.10.21-*.whl
    python -m experiments.build.realism [FRAMES]

Errors are shares of a person's height in the picture, over joints that are seen: inside the picture and not hidden by
something else. BlazePose puts joints in other places than the body does: a constant offset of each joint in its own axes
is fitted on `synth:calib` and taken off.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.errors import BadInput
from hmr.body.model import JOINT_NAMES, PARENTS
from hmr.data.blazepose import NAMES, LandmarkNetwork, Square
from hmr.data.sample import Sample, known
from hmr.world.synthetic import open_world

Doubles = NDArray[np.float64]
STATURE = 1.73  # m, the mean body
COMPARED = [
    (JOINT_NAMES.index(f"{side}_{joint}"), NAMES.index(f"{side}_{joint}"))
    for side in ("left", "right")
    for joint in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
]


@dataclass(frozen=True)
class Found:
    """Frames (N) in which BlazePose finds somebody, J joints each: the body's and BlazePose's places (N,J,2) as shares
    of the person's height, how an offset of 1 m along each axis of the joint moves it (N,J,2,3), which are seen (N,J)."""

    true: Doubles
    told: Doubles
    moves: Doubles
    seen: NDArray[np.bool_]
    share: float  # of all frames


def global_rotations(rotations: Doubles) -> Doubles:
    """(24,3,3) local -> in camera axes."""
    out = rotations.copy()
    for joint, parent in enumerate(PARENTS):
        if parent >= 0:
            out[joint] = out[parent] @ rotations[joint]
    return out


def look(network: LandmarkNetwork, samples: Iterable[Sample]) -> Found:
    """Run BlazePose on the square around each subject, as MediaPipe does once a person is tracked."""
    rows, total = [], 0
    for sample in samples:
        total += 1
        height, width = sample.image.shape[:2]
        pixels = (known(sample.keypoints, "joints").astype(np.float64) + 0.5) * (width, height)
        low, high = pixels.min(0), pixels.max(0)
        middle = (low + high) / 2
        start = Square((float(middle[0]), float(middle[1])), 1.4 * float((high - low).max()))
        person = network.see(sample.image, network.see(sample.image, start).next)
        if person.score < 0.5:
            continue
        body, blaze = [pair[0] for pair in COMPARED], [pair[1] for pair in COMPARED]
        focal, joints = known(sample.focal, "focal length"), known(sample.joints, "joints")
        # the pelvis is at `pixels[0]` of a camera that looks through the middle
        depth = 2 * focal / (height * known(sample.camera, "camera")[0])
        size = focal / depth * STATURE
        at = pixels.round().astype(int)
        inside = ((at >= 0) & (at < (width, height))).all(1)
        mask = known(sample.mask, "masks")
        seen = inside & mask[at[:, 1].clip(0, height - 1), at[:, 0].clip(0, width - 1)]
        axes = global_rotations(known(sample.rotations, "poses").astype(np.float64))[body]
        scale = focal / (depth + joints[body, 2]) / size
        rows.append((pixels[body] / size, person.pixels[blaze] / size, axes[:, :2] * scale[:, None, None], seen[body]))
    if not rows:
        raise BadInput("BlazePose finds nobody in these frames")
    true, told, moves, visible = (np.stack(column) for column in zip(*rows, strict=True))
    return Found(true, told, moves, visible, len(rows) / total)


def offsets(found: Found, largest: float = 0.05) -> Doubles:
    """Where BlazePose puts each joint, (J,3) m in the joint's axes: least squares over joints that are nearly right."""
    result = np.zeros((len(COMPARED), 3))
    for joint in range(len(COMPARED)):
        gap = found.told[:, joint] - found.true[:, joint]
        good = found.seen[:, joint] & (np.linalg.norm(gap, axis=1) < largest)
        matrix = found.moves[good, joint].reshape(-1, 3)  # (n, 2, 3) -> (2n, 3)
        result[joint] = np.linalg.lstsq(matrix, gap[good].ravel(), rcond=None)[0]
    return result


def errors(found: Found, offset: Doubles) -> Doubles:
    """(N,J) shares of the height, NaN where a joint is not seen."""
    gap = found.told - found.true - np.einsum("njak,jk->nja", found.moves, offset)
    return np.where(found.seen, np.linalg.norm(gap, axis=-1), np.nan)


def main(frames: int) -> None:
    """Print the figures as JSON."""
    network = LandmarkNetwork()
    calib = look(network, list(open_world("synth", "calib", min(frames, 512))))
    val = look(network, list(open_world("synth", "val", frames)))
    away = errors(val, offsets(calib))
    bare = errors(val, np.zeros((len(COMPARED), 3)))
    result = {
        "frames": frames,
        "found": val.share,
        "median": float(np.nanmedian(away)),
        "median_without_offsets": float(np.nanmedian(bare)),
        "within_5_percent": float((away[~np.isnan(away)] < 0.05).mean()),
        "joints": {NAMES[b]: float(np.nanmedian(away[:, i])) for i, (_, b) in enumerate(COMPARED)},
    }
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
