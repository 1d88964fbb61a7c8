"""A skeleton whose bones keep their lengths, moved through a recording as its cameras saw it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from hmr.data.blazepose import NAMES
from hmr.data.real_people.triangulation import SCALE, Views, robust

FREE = ("left_shoulder", "right_shoulder", "left_hip")  # shoulders move against the trunk, so it has no bone
BONES = (  # from, to
    ("left_hip", "right_hip"),
    ("left_shoulder", "left_elbow"), ("right_shoulder", "right_elbow"),
    ("left_elbow", "left_wrist"), ("right_elbow", "right_wrist"),
    ("left_hip", "left_knee"), ("right_hip", "right_knee"),
    ("left_knee", "left_ankle"), ("right_knee", "right_ankle"),
    ("left_ankle", "left_heel"), ("right_ankle", "right_heel"),
    ("left_ankle", "left_foot_index"), ("right_ankle", "right_foot_index"),
)  # fmt: skip
POINTS = (*FREE, *(to for _, to in BONES))
POINT_LANDMARKS = [NAMES.index(name) for name in POINTS]  # BlazePose's number of each of the S points
ACCELERATION = 10.0  # m/s^2, a limb's; cameras err by some pixels, so what is faster than about 5 Hz is taken for noise
SEEN = 5000.0  # 1/m^2, the curvature of the loss where a point is seen: by four cameras of 500 pixels a metre
ITERATIONS = 100  # of each of the four steps


def fitted(views: Views, points: Tensor, fps: float, scale: float = SCALE) -> Tensor:
    """Points (T, S, 3) m of the skeleton in a recording of T frames, whose bones have one length each: of the least
    robust error in pixels with accelerations like a limb's, started from points (T, S, 3) m.

    The views are of T * S points, frame after frame. Lengths are medians over the recording. The loss grows robust step
    by step (graduated non-convexity, Blake and Zisserman, "Visual Reconstruction", 1987): a limb that starts far off is
    drawn in before it counts as a mistake.
    """
    steady = conditioner(len(points), fps)
    smooth = SEEN * torch.tensordot(steady @ steady, points, 1)  # so that jitter does not take the first steps
    at = dict(zip(POINTS, smooth.unbind(1), strict=True))
    free = torch.stack([at[name] for name in FREE], 1)
    bones = torch.stack([at[to] - at[origin] for origin, to in BONES], 1)  # (T, B, 3)
    lengths = bones.norm(dim=-1).median(0).values
    free_move, bone_move = torch.zeros_like(free).requires_grad_(), torch.zeros_like(bones).requires_grad_()

    def skeleton() -> Tensor:
        moved = free + torch.tensordot(steady, free_move, 1)
        return placed(moved, bones + torch.tensordot(steady, bone_move, 1), lengths)

    for allowed in (8 * scale, 4 * scale, 2 * scale, scale):

        def loss(allowed: float = allowed) -> Tensor:
            found = skeleton()
            wrong = robust(views.residuals(found.flatten(0, 1)), allowed)  # (T, S, 3) -> (T * S, 3)
            return (views.weight * wrong).sum() * (allowed / scale) ** 2 + rough(found, fps)

        descend([free_move, bone_move], loss)
    return skeleton().detach()


def placed(free: Tensor, bones: Tensor, lengths: Tensor) -> Tensor:
    """Points (T, S, 3) m from those that no bone places (T, 3, 3), directions (T, B, 3) of bones and lengths (B,) m."""
    bones = lengths[:, None] * normalize(bones, dim=-1)
    at = {name: free[:, i] for i, name in enumerate(FREE)}
    for i, (origin, to) in enumerate(BONES):
        at[to] = at[origin] + bones[:, i]
    return torch.stack([at[name] for name in POINTS], 1)


def rough(points: Tensor, fps: float) -> Tensor:
    """Half the squared accelerations of points (T, S, 3) m, in units of ACCELERATION."""
    return (fps**2 / ACCELERATION * points.diff(n=2, dim=0)).square().sum() / 2


def conditioner(frames: int, fps: float) -> Tensor:
    """(T, T): from moves of all frames that weigh about the same to moves in m, the inverse root of the loss's
    curvature, roughly. Without it jitter takes all steps and what is slow takes none."""
    second = torch.eye(frames, dtype=torch.float64).diff(n=2, dim=0) * fps**2 / ACCELERATION
    values, vectors = torch.linalg.eigh(second.mT @ second)
    return vectors / (values + SEEN).sqrt() @ vectors.mT


def descend(unknowns: list[Tensor], loss: Callable[[], Tensor]) -> None:
    """Change the unknowns to a minimum of the loss, by L-BFGS."""
    solver = torch.optim.LBFGS(
        unknowns, max_iter=ITERATIONS, history_size=20, line_search_fn="strong_wolfe", tolerance_change=1e-9
    )

    def closure() -> Tensor:
        solver.zero_grad()
        value = loss()
        value.backward()
        return value

    solver.step(closure)
