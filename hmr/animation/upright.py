"""Motion in the axes that animation programs have: y up, x right, z towards the viewer, who is where the camera is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hmr.animation.track import Track
from hmr.body.model import BodyModel

UP = np.array([1.0, -1.0, -1.0], np.float32)  # from a camera's axes: half a turn about x
Y_UP_AXES = "y up, x right, z towards the viewer, who stands at the origin, where the camera is"


@dataclass(frozen=True)
class UprightMotion:
    """A person's bones at rest, standing upright, and how T frames turn and move them; metres."""

    names: tuple[str, ...]
    parents: tuple[int, ...]
    joints: NDArray[np.float32]  # (J, 3) at rest
    ends: NDArray[np.float32]  # (5, 3) where head, hands and feet end, at rest
    vertices: NDArray[np.float32]  # (V, 3) at rest, in the person's own shape
    rotations: NDArray[np.float32]  # (T, J, 3, 3) local
    pelvis: NDArray[np.float32]  # (T, 3)


def upright_motion(track: Track, body: BodyModel) -> UprightMotion:
    """A track, upright."""
    betas = torch.from_numpy(track.betas[None])
    with torch.no_grad():
        rest = body.rest_joints29(betas)[0].numpy()
        vertices = body.v_template + body.shapedirs @ betas[0]
    turned = track.rotations.copy()
    turned[:, 0] = UP[:, None] * turned[:, 0]
    count = len(body.layout.joints)
    return UprightMotion(
        body.layout.joints,
        body.layout.parents,
        rest[:count],
        rest[count:],
        vertices.numpy(),
        turned,
        UP * track.joints_m[:, 0],
    )
