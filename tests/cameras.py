"""Four calibrated cameras around a person of known places, for tests of what is made of their pictures."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor
from torch.nn.functional import normalize

from hmr.data.blazepose import COUNT
from hmr.data.real_people.camera import Camera
from hmr.data.real_people.skeleton import BONES, POINT_LANDMARKS, POINTS, placed


def looking(position: Tensor, target: Tensor, roll: float = 0.0) -> Camera:
    """A camera at `position` (3,) whose axis goes through `target` (3,), in a world with z up, rolled by radians."""
    forward = normalize(target - position, dim=0)
    right = normalize(torch.linalg.cross(forward, position.new_tensor([0, 0, 1])), dim=0)
    level = torch.stack([right, torch.linalg.cross(forward, right), forward])
    c, s = torch.tensor(roll).cos().item(), torch.tensor(roll).sin().item()
    rotation = position.new_tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ level
    bend = position.new_tensor([-0.05, 0.14, 6e-4, 7e-4])
    focal, centre = position.new_tensor([1680.0, 1675.0]), position.new_tensor([534.0, 950.0])
    return Camera(rotation, -rotation @ position, focal, centre, bend)


def four() -> Camera:
    """Four of them, 3.5 m around the origin at heights of 1.5 to 2.1 m, one rolled by 23 degrees."""
    rolls = (0.2, 0.0, -0.05, -0.4)
    spots = [(2.5, -2.4, 1.9), (2.6, 2.3, 1.5), (-2.7, 2.2, 2.1), (-2.2, -2.7, 1.8)]
    target = torch.tensor([0.1, 0.0, 1.0], dtype=torch.float64)
    one = [
        looking(torch.tensor(spot, dtype=torch.float64), target, roll) for spot, roll in zip(spots, rolls, strict=True)
    ]
    return Camera(*(torch.stack([getattr(each, field.name) for each in one]) for field in fields(Camera)))


def cloud(count: int, seed: int = 0) -> Tensor:
    """Points (P, 3) m where a person's joints may be."""
    draw = torch.Generator().manual_seed(seed)
    low, high = torch.tensor([-0.8, -0.8, 0.1]), torch.tensor([0.8, 0.8, 1.9])
    return (low + (high - low) * torch.rand(count, 3, generator=draw)).double()


def walk(frames: int = 60) -> Tensor:
    """A person (T, S, 3) who turns and swings arms and legs for a second, bones of constant length."""
    draw = torch.Generator().manual_seed(1)
    time = torch.linspace(0, 1, frames, dtype=torch.float64)[:, None, None]
    free = torch.tensor([[0.2, 0, 1.4], [-0.2, 0, 1.4], [0.1, 0, 0.9]]).double() + 0.3 * torch.sin(3 * time)
    still, swing = normalize(torch.randn(2, len(BONES), 3, generator=draw, dtype=torch.float64), dim=-1)
    lengths = torch.linspace(0.1, 0.45, len(BONES), dtype=torch.float64)
    return placed(free, still + 0.5 * swing * torch.sin(4 * time), lengths)


def landmarks33(points: Tensor) -> Tensor:
    """All of BlazePose's landmarks (T, 33, 3) of skeletons (T, S, 3): what these lack is on the head."""
    head = points[:, [POINTS.index("left_shoulder"), POINTS.index("right_shoulder")]].mean(1, keepdim=True)
    out = head + 0.1 * torch.randn(COUNT, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    out[:, POINT_LANDMARKS] = points
    return out
