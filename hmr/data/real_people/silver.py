"""Silver truth: where a person was in a recording of several calibrated cameras, from the landmarks in their views.

What is compared with one view comes from the others, so that no network's error in a view is in that view's truth.
Errors that all views share are in it still.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hmr.body.limbs import LIMBS
from hmr.data.blazepose import COUNT
from hmr.data.real_people.camera import Camera
from hmr.data.real_people.offsets import LIMB_LANDMARKS
from hmr.data.real_people.skeleton import BONES, POINT_LANDMARKS, POINTS, fitted
from hmr.data.real_people.triangulation import Views, refined_centres, triangulated

VISIBLE = 0.5
LIMB_POINTS = [POINTS.index(name) for name in LIMBS]
HIPS = [POINTS.index(name) for name in ("left_hip", "right_hip")]


@dataclass(frozen=True)
class Silver:
    """The skeleton of `hmr.data.real_people.skeleton.POINTS` through T frames of V cameras, in the world."""

    cameras: Camera  # with refined principal points
    points: Tensor  # (V, T, S, 3) m: for each view, from all others
    error: Tensor  # (T, S) m, an estimate of the error of points from between the hips
    figures: dict[str, Any]  # residuals and lengths, as JSON values


def silver(cameras: Camera, pixels: Tensor, visibility: Tensor, fps: float) -> Silver:
    """From landmarks (V, T, 33, 2) in pixels that are visible (V, T, 33) 0..1."""
    whole = Views(cameras, pixels.flatten(1, 2), visibility.flatten(1, 2) ** 2)
    given = triangulated(whole)
    refined, all_points = refined_centres(whole, given)
    kept = Views(
        refined.cameras,
        pixels[:, :, POINT_LANDMARKS].flatten(1, 2),
        visibility[:, :, POINT_LANDMARKS].flatten(1, 2) ** 2,
    )
    held = torch.stack([_skeleton(kept.without(view), pixels.shape[1], fps) for view in range(len(cameras))])
    figures: dict[str, Any] = {
        "median_residual_px": {
            "given_principal_points": _median_residual(whole, given, visibility),
            "refined_principal_points": _median_residual(refined, all_points, visibility),
        },
        "principal_points_moved_px": (refined.cameras.centre - cameras.centre).tolist(),
        "held_out": _held_out(refined.cameras, held, pixels, visibility),
        "bone_lengths_m": _lengths(held),
    }
    return Silver(refined.cameras, held, spread(held - held[:, :, HIPS].mean(2, keepdim=True)), figures)


def spread(estimates: Tensor) -> Tensor:
    """The jackknife's standard error (...) of points (V, ..., 3), of which each leaves one of V views out (Efron and
    Stein, "The jackknife estimate of variance", 1981): sqrt((V - 1) / V * sum of squared distances from their mean)."""
    count = len(estimates)
    square = (estimates - estimates.mean(0)).square().sum(-1)
    return ((count - 1) / count * square.sum(0)).sqrt()


def _skeleton(views: Views, frames: int, fps: float) -> Tensor:
    points = triangulated(views)
    return fitted(views, points.view(frames, len(POINTS), 3), fps)  # (T * S, 3) -> (T, S, 3)


def _median_residual(views: Views, points: Tensor, visibility: Tensor) -> float:
    """Of visible limbs in all views, in pixels."""
    error = views.residuals(points).norm(dim=-1).view(visibility.shape)  # (V, T * 33) -> (V, T, 33)
    return error[:, :, LIMB_LANDMARKS][visibility[:, :, LIMB_LANDMARKS] > VISIBLE].median().item()


def _held_out(cameras: Camera, held: Tensor, pixels: Tensor, visibility: Tensor) -> dict[str, list[float]]:
    """How far each view's visible limbs lie from the skeleton of the other views: median pixels, and the median share
    of the longer side of the box around all landmarks."""
    found: dict[str, list[float]] = {"median_px": [], "median_share_of_box": []}
    for view, points in enumerate(held):
        expected = cameras[view].project(points[:, LIMB_POINTS].flatten(0, 1)).view(-1, len(LIMBS), 2)
        error = (expected - pixels[view][:, LIMB_LANDMARKS]).norm(dim=-1)
        box = pixels[view].view(-1, COUNT, 2)
        side = (box.amax(1) - box.amin(1)).amax(-1, keepdim=True)
        seen = visibility[view][:, LIMB_LANDMARKS] > VISIBLE
        found["median_px"].append(error[seen].median().item())
        found["median_share_of_box"].append((error / side)[seen].median().item())
    return found


def _lengths(held: Tensor) -> dict[str, list[float]]:
    """The length of each bone in m, from V - 1 views."""
    return {
        f"{origin} to {to}": (held[:, 0, POINTS.index(to)] - held[:, 0, POINTS.index(origin)]).norm(dim=-1).tolist()
        for origin, to in BONES
    }
