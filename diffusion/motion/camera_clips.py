"""Clips of motion as a camera sees them: what the VAE learns from, without a picture.

A clip is cut, blended and placed as a synthetic video's, and seen through a camera that is drawn and turned to the
person as a picture's is (`hmr.data`). For training, clips are also reversed, warped in time, and varied: there are few
recordings, and a prior that has learned them by heart does not know another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import roma
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion.model.representation import JOINTS, encode, swing
from hmr.body.model import BodyModel
from hmr.motion.clip import MotionClip
from hmr.world.light import yaw
from hmr.world.people import shape
from hmr.world.poses import LIMBS
from hmr.world.scene import SHIFT, SYNTH, place_camera
from hmr.world.synthetic import even_shares, generator, take

FASTEST = 1.5  # a warp plays no part of a clip faster than this, or slower than its inverse
SPEEDS = 3  # of a warp, spread over the clip; between them speed changes linearly
DISTANCE = (3.5, 6.0)  # m from the camera, as of a synthetic video


class CameraClips(NamedTuple):
    """Clips of one camera each: numbers (B, F, 133), local rotations (B, F, 24, 3, 3), the root in crop-camera axes,
    and betas (B, 10)."""

    numbers: Tensor
    rotations: Tensor
    betas: Tensor


class Motion:
    """`takes` pieces of motion cut from recordings once, and any number of clips of `frames` seen in them.

    Which recordings follow each other depends on `seed` and the piece's number alone. Held as quaternions: 47 kB a
    piece of 122 frames.
    """

    def __init__(
        self, clips: list[MotionClip], frames: int, takes: int, body: BodyModel, *, seed: int = 0, varied: bool = True
    ) -> None:
        self.frames, self.body, self.varied, self.seed = frames, body, varied, seed
        self.span = int(np.ceil(FASTEST * (frames - 1))) + 1 if varied else frames
        share = even_shares(clips)
        cut = [take(generator("motion", seed, i), clips, share, self.span) for i in range(takes)]
        rotations = torch.from_numpy(np.stack([piece.rotations for piece in cut]))
        self.names = [piece.name for piece in cut]
        device = body.v_template.device
        self.quaternions = roma.rotmat_to_unitquat(rotations).to(device)  # (N, span, 24, 4)
        self.travel = torch.from_numpy(np.stack([piece.travel for piece in cut])).to(device)  # (N, span, 3) m

    def __len__(self) -> int:
        return len(self.quaternions)

    def draw(self, which: Sequence[int] | NDArray[np.int64], rng: np.random.Generator) -> CameraClips:
        """A clip of each of the pieces `which`, its camera and its person drawn from `rng`."""
        count, device = len(which), self.travel.device
        chosen = torch.as_tensor(np.asarray(which), device=device)
        quaternions, travel = self.quaternions[chosen], self.travel[chosen]
        if self.varied:
            times = torch.from_numpy(warp(rng, count, self.frames, self.span)).to(device)
            quaternions, travel = mixed(at(quaternions, times), rng), at(travel, times)
        rotations = roma.unitquat_to_rotmat(torch.nn.functional.normalize(quaternions, dim=-1))
        if self.varied:
            rotations = tilted(rotations, rng)
        return self.through_cameras(rotations, travel, rng)

    def through_cameras(self, rotations: Tensor, travel: Tensor, rng: np.random.Generator) -> CameraClips:
        """Local rotations (B, F, 24, 3, 3) in a world of y up and the pelvis's place (B, F, 3) m, each by a camera."""
        count, worlds = len(rotations), [SYNTH if rng.random() < 0.5 else SHIFT for _ in range(len(rotations))]
        turns = [yaw(rng.uniform(0, 2 * np.pi)) for _ in worlds]
        cameras = [place_camera(rng, world, rng.uniform(*DISTANCE)) for world in worlds]
        shapes = [shape(rng) for _ in worlds]
        sway = rng.normal(0, [[[world.box_jitter / 3]] for world in worlds], (count, self.frames, 2))
        turn, view, centre, betas, jitter = (
            torch.as_tensor(np.asarray(values), dtype=torch.float32, device=travel.device)
            for values in (turns, [r for r, _ in cameras], [c for _, c in cameras], shapes, sway)
        )
        travel = travel @ turn.mT
        middle = travel[..., ::2].mean(1, keepdim=True)
        place = torch.stack((travel[..., 0] - middle[..., 0], travel[..., 1], travel[..., 2] - middle[..., 1]), -1)
        world = torch.cat((turn[:, None, None] @ rotations[:, :, :1], rotations[:, :, 1:]), 2)
        each = betas[:, None].expand(-1, self.frames, -1)
        numbers = encode(world.flatten(0, 1), each.flatten(0, 1), self.body).unflatten(0, (count, self.frames))
        joints = numbers[..., : 3 * JOINTS].unflatten(-1, (JOINTS, 3))
        points = (joints + place[..., None, :] - centre[:, None, None]) @ view[:, None].mT
        axes = crop_turn(points, jitter) @ view[:, None]  # (B, F, 3, 3) world -> crop camera
        joints = joints @ axes.mT
        rotations = torch.cat((axes[:, :, None] @ world[:, :, :1], world[:, :, 1:]), 2)
        return CameraClips(torch.cat((joints.flatten(2), numbers[..., 3 * JOINTS :]), -1), rotations, betas)


def crop_turn(points: Tensor, jitter: Tensor) -> Tensor:
    """Turns (..., 3, 3) that bring a camera to the middle of the box of points (..., P, 3) m in its axes.

    `jitter` (..., 2) moves the middle, in shares of the box. `hmr.world.view.aim` for many frames at once.
    """
    plane = points[..., :2] / points[..., 2:].clamp_min(0.1)
    low, high = plane.amin(-2), plane.amax(-2)
    middle = (low + high) / 2 + jitter * (high - low)
    ray = torch.nn.functional.normalize(torch.cat((middle, torch.ones_like(middle[..., :1])), -1), dim=-1)
    return swing(ray, ray.new_tensor([0, 0, 1]).expand_as(ray))


def warp(rng: np.random.Generator, count: int, frames: int, span: int) -> NDArray[np.float32]:
    """Places (count, frames) in pieces of `span` frames where the frames of a clip lie: warped half of the times,
    reversed half of the times (FastHMR, Tab. 14)."""
    knots = np.where(rng.random((count, 1)) < 0.5, rng.uniform(-1, 1, (count, SPEEDS)), 0.0) * np.log(FASTEST)
    at_frame = np.linspace(0, SPEEDS - 1, frames - 1)
    speed = np.exp([np.interp(at_frame, np.arange(SPEEDS), row) for row in knots])  # (count, frames - 1)
    places = np.concatenate((np.zeros((count, 1)), speed.cumsum(1)), 1)
    places = places * np.minimum(1, (span - 1) / places[:, -1:])  # a piece may be too short for a fast warp
    places = places + rng.uniform(0, 1, (count, 1)) * np.maximum(span - 1 - places[:, -1:], 0)
    reverse = rng.random((count, 1)) < 0.5
    return np.where(reverse, places[:, ::-1], places).clip(0, span - 1).astype(np.float32)


def at(values: Tensor, times: Tensor) -> Tensor:
    """Values (B, T, ...) at times (B, F) in frames, linearly between neighbours; for unit quaternions (..., 4) the
    shorter way."""
    low = times.floor().long().clamp(0, values.shape[1] - 1)
    part = (times - low).view(*times.shape, *[1] * (values.ndim - 2))
    rows = torch.arange(len(values), device=values.device)[:, None]
    first, second = values[rows, low], values[rows, (low + 1).clamp_max(values.shape[1] - 1)]
    if values.ndim == 4:  # a quaternion and its negative are one rotation
        second = torch.where((first * second).sum(-1, keepdim=True) < 0, -second, second)
    return first + part * (second - first)


def mixed(quaternions: Tensor, rng: np.random.Generator) -> Tensor:
    """Clips (B, F, 24, 4), some limbs of half of them from another of them, as `hmr.world.synthetic.varied`."""
    count = len(quaternions)
    other = quaternions[torch.from_numpy(rng.permutation(count)).to(quaternions.device)]
    taken = np.zeros((count, 24), bool)
    for limb in LIMBS:
        taken[:, list(limb)] = (rng.random((count, 1)) < 0.5) & (rng.random((count, 1)) < 0.6)
    return torch.where(torch.from_numpy(taken).to(quaternions.device)[:, None, :, None], other, quaternions)


def tilted(rotations: Tensor, rng: np.random.Generator) -> Tensor:
    """Clips (B, F, 24, 3, 3) with each joint turned a little, the same in all frames, and 3 in 10 persons tipped."""
    count = len(rotations)
    joints = rng.normal(0, 1, (count, 24, 3)) * rng.choice([0.0, 0.05, 0.1, 0.2], (count, 1, 1))
    axis = rng.normal(size=(count, 3)) * (1, 0.3, 1)
    angle = rng.uniform(0, 0.6 * np.pi, (count, 1)) * (rng.random((count, 1)) < 0.3)
    little, tip = (
        roma.rotvec_to_rotmat(torch.as_tensor(vectors, dtype=torch.float32, device=rotations.device))
        for vectors in (joints, axis / np.linalg.norm(axis, axis=1, keepdims=True) * angle)
    )
    rotations = rotations @ little[:, None]
    return torch.cat((tip[:, None, None] @ rotations[:, :, :1], rotations[:, :, 1:]), 2)
