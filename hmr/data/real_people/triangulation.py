"""Points seen by several calibrated cameras, placed in the world although some views are wrong.

Hartley and Zisserman, "Multiple View Geometry", 2004, 12.2, for the linear step; Geman and McClure, "Statistical
methods for tomographic image reconstruction", 1987, for the loss r^2 / (r^2 + s^2), which no error makes large.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import torch
from torch import Tensor

from hmr.data.real_people.camera import Camera

SCALE = 20.0  # pixels of 1,920; a smaller error counts, a larger one is a mistake
STEPS = 30
KNOWN = (
    0.1  # of the best known move of principal points, how well a move is known that is made: most are, three at 0.05
)
STILL = 1e-10  # m, and pixels: what moves less has come to rest


@dataclass(frozen=True)
class Views:
    """Where V cameras see P points, pixels (V, P, 2), and how far each is to be trusted, weight (V, P) 0..1."""

    cameras: Camera
    pixels: Tensor
    weight: Tensor

    def only(self, kept: Sequence[int]) -> Views:
        """What some of the cameras see."""
        return Views(self.cameras[list(kept)], self.pixels[list(kept)], self.weight[list(kept)])

    def without(self, view: int) -> Views:
        """What all cameras but one see."""
        return self.only([other for other in range(len(self.cameras)) if other != view])

    def residuals(self, points: Tensor) -> Tensor:
        """Projections of points (P, 3) m minus what is seen, (V, P, 2) pixels."""
        return self.cameras.project(points) - self.pixels


def triangulated(views: Views, scale: float = SCALE) -> Tensor:
    """Points (P, 3) m of the least robust error in pixels.

    Started from whichever pair of cameras agrees best with all of them, so that one wrong view does not matter where
    two others agree.
    """
    pairs = list(combinations(range(len(views.cameras)), 2))
    starts = torch.stack([linear(views.only(pair)) for pair in pairs])  # (pairs, P, 3)
    costs = torch.stack([cost(views, start, scale) for start in starts])
    best = starts[costs.argmin(0), torch.arange(starts.shape[1])]
    return settled(views, best, scale)


def settled(views: Views, points: Tensor, scale: float = SCALE) -> Tensor:
    """Points (P, 3) m at the nearest least robust error, by reweighted Gauss-Newton."""
    for _ in range(STEPS):
        error, slope = views.residuals(points), slopes(views.cameras, points)
        step = _solved(*_normal(slope, error, trust(error, views.weight, scale)))
        points = points - step
        if step.abs().max() < STILL:
            break
    return points


def robust(error: Tensor, scale: float = SCALE) -> Tensor:
    """Geman and McClure's loss (...) of errors (..., 2) in pixels: 0..1, one half at `scale` pixels."""
    square = error.square().sum(-1)
    return square / (square + scale**2)


def cost(views: Views, points: Tensor, scale: float = SCALE) -> Tensor:
    """Robust error (P,) of points (P, 3) over all views; infinite behind a camera."""
    total = (views.weight * robust(views.residuals(points), scale)).sum(0)
    return total.masked_fill(~(views.cameras.seen(points)[..., 2] > 0).all(0), torch.inf)


def trust(error: Tensor, weight: Tensor, scale: float = SCALE) -> Tensor:
    """Weights (V, P) that make least squares follow the robust loss, for errors (V, P, 2) in pixels."""
    return weight / (1 + error.square().sum(-1) / scale**2) ** 2


def linear(views: Views) -> Tensor:
    """Points (P, 3) m by weighted linear triangulation."""
    cameras, rays = views.cameras, views.cameras.rays(views.pixels)
    rows = rays[..., None] * cameras.rotation[:, None, 2:] - cameras.rotation[:, None, :2]  # (V, P, 2, 3)
    values = cameras.translation[:, None, :2] - rays * cameras.translation[:, None, 2:]  # (V, P, 2)
    return _solved(*_normal(rows, values, views.weight))


def slopes(cameras: Camera, points: Tensor) -> Tensor:
    """How pixels move with points (P, 3): (V, P, 2, 3) pixels a metre. The lens's bend is left out, which is small:
    the way to a solution depends on it, and the solution does not."""
    seen = cameras.seen(points)
    rays = seen[..., :2] / seen[..., 2:]
    plane = cameras.rotation[:, None, :2] - rays[..., None] * cameras.rotation[:, None, 2:]  # (V, P, 2, 3)
    return cameras.focal[:, None, :, None] * plane / seen[..., 2:, None]


def refined_centres(views: Views, points: Tensor, scale: float = SCALE, rounds: int = 50) -> tuple[Views, Tensor]:
    """Views whose cameras have the principal points on which all points agree best, and the points (P, 3) m there.

    Principal points and points are solved for together, the points eliminated (Schur complement). Moves that a moved
    world explains as well, of which there are three, are left out: they would follow noise by tens of pixels.
    """
    for _ in range(rounds):
        error = views.residuals(points)
        move = _centre_step(slopes(views.cameras, points), error, trust(error, views.weight, scale))
        centre = views.cameras.centre + move
        views = replace(views, cameras=replace(views.cameras, centre=centre))
        points = settled(views, points, scale)
        if move.abs().max() < 1e-4:
            break
    return views, points


def _centre_step(slope: Tensor, error: Tensor, weight: Tensor) -> Tensor:
    """Moves (V, 2) in pixels of the principal points, the points following."""
    count = len(slope)
    normal, right = _normal(slope, error, weight)
    pulled = weight[..., None, None] * slope  # (V, P, 2, 3)
    follow = _solved(normal[:, None], pulled.permute(1, 0, 2, 3).flatten(1, 2))  # (P, 2V, 3): of points, a pixel
    both = -torch.einsum("vpik,pjk->vij", pulled, follow).reshape(2 * count, 2 * count)  # (V, 2, 2V) -> (2V, 2V)
    both += torch.diag(weight.sum(1).repeat_interleave(2))
    wanted = (weight[..., None] * error).sum(1).flatten() - torch.einsum("pjk,pk->j", follow, right)
    return -torch.linalg.lstsq(both, wanted[:, None], rcond=KNOWN, driver="gelsd").solution.view(count, 2)


def _normal(slope: Tensor, error: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Normal equations (P, 3, 3) and (P, 3) of the points."""
    pulled = weight[..., None, None] * slope
    return torch.einsum("vpia,vpib->pab", pulled, slope), torch.einsum("vpia,vpi->pa", pulled, error)


def _solved(normal: Tensor, right: Tensor) -> Tensor:
    """x (..., 3) of normal (..., 3, 3) x = right (..., 3); 0 for what nobody sees."""
    ridge = 1e-12 * (1 + normal.diagonal(dim1=-2, dim2=-1).sum(-1))
    whole = normal + ridge[..., None, None] * torch.eye(3, dtype=normal.dtype)
    return torch.linalg.solve(whole, right[..., None])[..., 0]
