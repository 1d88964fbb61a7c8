"""What the renderer knows beyond the pose, as training-only targets, and all losses of the training.

Learning from pose labels alone, an encoder takes far longer to find the person: each token is also asked which body
part it shows, where on the rest shape that part lies, and where the joints are (soft-argmax over the tokens); the class
token and the query token are asked which way the person faces.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.tokens import DROPPED, Tokens, taken
from hmr.body.model import BodyModel
from hmr.models.head import JOINTS, HMROutput

PARTS = JOINTS + 1  # class 0 is background
OFFSET = 0.1  # share of the crop by which one unit of a token's vote moves a joint
BINS = 16  # of the angle that a person faces
NEVER = -1e4  # logit of a cell whose token was dropped
SOME = 23  # every so manieth vertex has a loss
NEAREST = 0.2  # m from the camera

# NOTE: scales differ: rotations are squared, joints are metres (0.05 is good), keypoints are shares of the crop.
POSE_WEIGHTS = {
    "rotations": 3.0,
    "root": 1.5,
    "joints": 8.0,
    "vertices": 6.0,
    "betas": 0.1,
    "camera": 0.5,
    "reprojection": 2.0,
}
TOKEN_WEIGHTS = {
    "keypoints": 4.0,
    "joints_of_tokens": 3.0,
    "cells": 0.3,
    "joints_in_cells": 3.0,
    "parts": 0.5,
    "canonical": 4.0,
    "yaw_of_class": 0.2,
    "yaw_of_query": 0.2,
}


@dataclass(frozen=True)
class TokenOutput:
    """What the auxiliary heads read from tokens of a grid of N cells."""

    alive: Tensor  # (B, N) bool: cells whose token was not dropped
    parts: Tensor  # (B, N, 25) logits
    canonical: Tensor  # (B, N, 3) m, on the rest shape
    cells: Tensor  # (B, N, 24) logits: which cell each joint lies in
    places: Tensor  # (B, N, 24, 2) where each token would put each joint, shares of the crop from its centre
    votes: Tensor  # (B, N, 24, 3) m, and how far from the pelvis
    yaw_of_class: Tensor  # (B, BINS) logits
    yaw_of_query: Tensor

    def read(self, votes: Tensor) -> Tensor:
        """Votes (B, N, 24, K) averaged with the cells' probabilities: (B, 24, K)."""
        return (self.cells.softmax(1)[..., None] * votes).sum(1)

    def at(self, cell: Tensor, votes: Tensor) -> Tensor:
        """The votes (B, N, 24, K) of the tokens cell (B, 24): (B, 24, K)."""
        return votes.gather(1, cell[:, None, :, None].expand(-1, 1, -1, votes.shape[-1]))[:, 0]


class TokenHeads(nn.Module):
    """Linear heads on the backbone's tokens and the head's query token; never saved with the model."""

    def __init__(self, dim: int, head_dim: int) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, PARTS + 3)
        self.votes = nn.Linear(dim, JOINTS * 6)  # per joint: weight, 2D offset, 3D position
        self.yaw_of_class, self.yaw_of_query = nn.Linear(dim, BINS), nn.Linear(head_dim, BINS)
        nn.init.trunc_normal_(self.votes.weight, std=0.02)
        nn.init.zeros_(self.votes.bias)

    def forward(self, tokens: Tokens, query: Tensor) -> TokenOutput:
        """Finished tokens, of which some may be dropped, and query tokens (B, D)."""
        alive = tokens.source != DROPPED  # (B, N0)
        x = taken(tokens.x, tokens.source.clamp_min(0))  # (B, N0, C)
        parts, canonical = self.dense(x).float().split((PARTS, 3), -1)
        votes = self.votes(x).float().unflatten(-1, (JOINTS, 6))  # (B, N0, 24, 6)
        places = centres(tokens.grid, x.device)[:, None] + OFFSET * votes[..., 1:3]  # (B, N0, 24, 2)
        cells = votes[..., 0].masked_fill(~alive[..., None], NEVER)
        yaws = self.yaw_of_class(tokens.x[:, 0]).float(), self.yaw_of_query(query).float()
        return TokenOutput(alive, parts, canonical, cells, places, votes[..., 3:], *yaws)


def centres(grid: tuple[int, int], device: torch.device) -> Tensor:
    """(N, 2) x, y of the cells' centres as shares of the crop, from -0.5 to 0.5."""
    rows, columns = ((torch.arange(n, device=device) + 0.5) / n - 0.5 for n in grid)
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).flatten(0, 1)


def cells_of(keypoints: Tensor, grid: tuple[int, int]) -> Tensor:
    """Index (B, 24) of the cell that each keypoint (B, 24, 2) lies in; those outside belong to the nearest cell."""
    rows, columns = grid
    column = ((keypoints[..., 0] + 0.5) * columns).long().clamp(0, columns - 1)
    row = ((keypoints[..., 1] + 0.5) * rows).long().clamp(0, rows - 1)
    return row * columns + column


def on_grid(dense: Tensor, grid: tuple[int, int]) -> Tensor:
    """Per-token targets (B, R, C, ...) -> (B, rows * columns, ...); a smaller grid takes every so manieth cell."""
    step = dense.shape[1] // grid[0]
    return dense[:, step // 2 :: step, step // 2 :: step].flatten(1, 2)


def yaw_bins(root: Tensor) -> Tensor:
    """Which way people face: (B, BINS) shares of the two bins nearest to the angle, from root rotations (B, 3, 3).

    0 faces the camera; camera axes are x right, y down, z forward, and a body at rest faces +z.
    """
    ahead = root[:, :, 2]
    place = torch.atan2(ahead[:, 0], -ahead[:, 2]) / (2 * math.pi) * BINS % BINS  # (B,)
    low = place.floor()
    share = (place - low)[:, None]
    one, two = (F.one_hot((low.long() + i) % BINS, BINS) for i in (0, 1))
    return (1 - share) * one + share * two


def projected(joints: Tensor, camera: Tensor, focal: Tensor, aspect: float) -> Tensor:
    """Where joints (B, J, 3) m of a posed body are seen in the crop (B, J, 2), as shares of its sides from its centre.

    camera (B, 3) = (s, tx, ty) as HMR2.0 predicts it; focal (B,) in heights of the crop; aspect: height / width. The
    body lies at depth 2 f / (H s).
    """
    depth = 2 * focal / camera[:, 0].clamp_min(0.05)
    x, y, z = (joints + torch.stack((camera[:, 1], camera[:, 2], depth), 1)[:, None]).unbind(-1)
    away = focal[:, None] / z.clamp_min(NEAREST)
    return torch.stack((aspect * away * x, away * y), -1)


def some_vertices(body: BodyModel, rotations: Tensor, betas: Tensor) -> Tensor:
    """Every SOME-th vertex (B, K, 3) m of posed bodies whose pose bends no vertex."""
    rest, weights = body.v_template[::SOME], body.lbs_weights[::SOME]
    shaped = rest + torch.einsum("kxb,nb->nkx", body.shapedirs[::SOME], betas)  # (B, K, 3)
    joints, turned = body.chain(rotations, betas)  # (B, 24, 3), (B, 24, 3, 3)
    moved = joints - (turned @ body.rest_joints(betas)[..., None])[..., 0]  # what each joint adds to a turned point
    turn = torch.einsum("kj,njxy->nkxy", weights, turned)
    return (turn @ shaped[..., None])[..., 0] + torch.einsum("kj,njx->nkx", weights, moved)


def losses(
    output: HMROutput, tokens: TokenOutput, target: dict[str, Tensor], body: BodyModel, grid: tuple[int, int]
) -> tuple[dict[str, Tensor], Tensor]:
    """Every part of the loss by name, unweighted, and the mean joint error (mm) of the batch.

    target: rotations (B,24,3,3), betas (B,10), keypoints (B,24,2), camera (B,3), focal (B,), part (B,R,C) and
    canonical (B,R,C,3); `grid` is that of the tokens.
    """
    rotations, betas = output.rotations.float(), output.betas.float()
    joints, wanted = (body.skeleton29(*of) for of in ((rotations, betas), (target["rotations"], target["betas"])))
    surface, true_surface = (
        some_vertices(body, *of) for of in ((rotations, betas), (target["rotations"], target["betas"]))
    )
    off = (joints - joints[:, :1]) - (wanted - wanted[:, :1])
    camera = output.camera.float()
    aspect = target["part"].shape[1] / target["part"].shape[2]
    seen = projected(joints[:, :JOINTS], camera, target["focal"], aspect)
    turned = rotations - target["rotations"]
    parts = {
        "rotations": turned.square().mean(),
        "root": turned[:, 0].square().mean(),
        "joints": off.abs().mean(),
        "vertices": ((surface - joints[:, :1]) - (true_surface - wanted[:, :1])).abs().mean(),
        "betas": (betas - target["betas"]).square().mean(),
        "camera": (camera - target["camera"]).abs().mean(),
        "reprojection": (seen - target["keypoints"]).abs().clamp(max=1).mean(),
        **token_losses(tokens, target, wanted[:, :JOINTS] - wanted[:, :1], grid),
    }
    return parts, off[:, :JOINTS].detach().norm(dim=-1).mean() * 1000


def token_losses(
    tokens: TokenOutput, target: dict[str, Tensor], joints: Tensor, grid: tuple[int, int]
) -> dict[str, Tensor]:
    """The parts of the loss that the auxiliary heads have; joints (B, 24, 3) m from the pelvis, others as `losses`.

    Cells whose token was dropped have no part in it.
    """
    part, canonical = on_grid(target["part"], grid).long(), on_grid(target["canonical"], grid).float()
    cell, alive = cells_of(target["keypoints"], grid), tokens.alive
    there = alive.gather(1, cell)[..., None]  # (B, 24, 1): whether the joint's cell has a token
    yaw = yaw_bins(target["rotations"][:, 0])
    voted = tokens.at(cell, tokens.votes) - joints
    return {
        "keypoints": (tokens.read(tokens.places) - target["keypoints"]).abs().mean(),
        "joints_of_tokens": (tokens.read(tokens.votes) - joints).abs().mean(),
        # a mean over all tokens sharpens slowly: say which cell is right, and ask its token
        "cells": F.cross_entropy(tokens.cells, cell.where(there[..., 0], -100), reduction="sum") / cell.numel(),
        "joints_in_cells": (voted * there).abs().mean(),
        "parts": F.cross_entropy(tokens.parts.flatten(0, 1), part.where(alive, -100).flatten()),
        "canonical": ((tokens.canonical - canonical).abs() * ((part > 0) & alive)[..., None]).mean(),
        "yaw_of_class": F.cross_entropy(tokens.yaw_of_class, yaw),
        "yaw_of_query": F.cross_entropy(tokens.yaw_of_query, yaw),
    }


def fade(fraction: float) -> float:
    """What the losses of the tokens count for, from 1 to a fifth as training goes from fraction 0 to 1.

    Early they teach the encoder to see, in the end the joints of the body are what is asked for.
    """
    return 1 - 0.8 * min(1.0, fraction)


def total(parts: dict[str, Tensor], tokens: float) -> Tensor:
    """Weighted sum of the parts; those of the auxiliary heads count `tokens` times."""
    pose = torch.stack([weight * parts[name] for name, weight in POSE_WEIGHTS.items()]).sum()
    return pose + tokens * torch.stack([weight * parts[name] for name, weight in TOKEN_WEIGHTS.items()]).sum()
