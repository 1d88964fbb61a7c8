"""What the renderer knows beyond the pose, as training-only targets of the tokens, and all losses of the training.

Learning from pose labels alone, an encoder takes far longer to find the person: each token is also asked which body
part it shows, where on the rest shape that part lies, and where the joints are (soft-argmax over the tokens).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmr.body.model import BodyModel
from hmr.models.head import JOINTS, HMROutput

PARTS = JOINTS + 1  # class 0 is background
OFFSET = 0.1  # share of the crop by which one unit of a token's vote moves a joint

# NOTE: scales differ: rotations are squared, joints are metres (0.05 is good), keypoints are shares of the crop.
POSE_WEIGHTS = {"rotations": 3.0, "joints": 8.0, "betas": 0.1, "camera": 0.5}
TOKEN_WEIGHTS = {
    "keypoints": 4.0,
    "joints_of_tokens": 3.0,
    "cells": 0.3,
    "joints_in_cells": 3.0,
    "parts": 0.5,
    "canonical": 4.0,
}


@dataclass(frozen=True)
class TokenOutput:
    """What the auxiliary heads read from tokens of a grid of N cells."""

    parts: Tensor  # (B, N, 25) logits
    canonical: Tensor  # (B, N, 3) m, on the rest shape
    cells: Tensor  # (B, N, 24) logits: which cell each joint lies in
    places: Tensor  # (B, N, 24, 2) where each token would put each joint, shares of the crop from its centre
    votes: Tensor  # (B, N, 24, 3) m, and how far from the pelvis

    def read(self, votes: Tensor) -> Tensor:
        """Votes (B, N, 24, K) averaged with the cells' probabilities: (B, 24, K)."""
        return (self.cells.softmax(1)[..., None] * votes).sum(1)

    def at(self, cell: Tensor, votes: Tensor) -> Tensor:
        """The votes (B, N, 24, K) of the tokens cell (B, 24): (B, 24, K)."""
        return votes.gather(1, cell[:, None, :, None].expand(-1, 1, -1, votes.shape[-1]))[:, 0]


class TokenHeads(nn.Module):
    """Linear heads on the backbone's tokens (B, N, C); never saved with the model."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, PARTS + 3)
        self.votes = nn.Linear(dim, JOINTS * 6)  # per joint: weight, 2D offset, 3D position
        nn.init.trunc_normal_(self.votes.weight, std=0.02)
        nn.init.zeros_(self.votes.bias)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> TokenOutput:
        parts, canonical = self.dense(tokens).float().split((PARTS, 3), -1)
        votes = self.votes(tokens).float().unflatten(-1, (JOINTS, 6))  # (B, N, 24, 6)
        places = centres(grid, tokens.device)[:, None] + OFFSET * votes[..., 1:3]  # (B, N, 24, 2)
        return TokenOutput(parts, canonical, votes[..., 0], places, votes[..., 3:])


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


def losses(
    output: HMROutput, tokens: TokenOutput, target: dict[str, Tensor], body: BodyModel, grid: tuple[int, int]
) -> tuple[dict[str, Tensor], Tensor]:
    """Every part of the loss by name, unweighted, and the mean joint error (mm) of the batch.

    target: rotations (B,24,3,3), betas (B,10), joints (B,24,3) m, keypoints (B,24,2), camera (B,3), part (B,N) and
    canonical (B,N,3) as `on_grid` gives them for the tokens' grid.
    """
    joints = body.skeleton(output.rotations, output.betas)
    off = (joints - joints[:, :1]) - target["joints"]
    person = (target["part"] > 0)[..., None]  # (B, N, 1)
    cell = cells_of(target["keypoints"], grid)
    parts = {
        "rotations": (output.rotations - target["rotations"]).square().mean(),
        "joints": off.abs().mean(),
        "betas": (output.betas - target["betas"]).square().mean(),
        "camera": (output.camera - target["camera"]).abs().mean(),
        "keypoints": (tokens.read(tokens.places) - target["keypoints"]).abs().mean(),
        "joints_of_tokens": (tokens.read(tokens.votes) - target["joints"]).abs().mean(),
        # a mean over all tokens sharpens slowly: say which cell is right, and ask its token
        "cells": F.cross_entropy(tokens.cells, cell),
        "joints_in_cells": (tokens.at(cell, tokens.votes) - target["joints"]).abs().mean(),
        "parts": F.cross_entropy(tokens.parts.flatten(0, 1), target["part"].flatten()),
        "canonical": ((tokens.canonical - target["canonical"]).abs() * person).mean(),
    }
    return parts, off.detach().norm(dim=-1).mean() * 1000


def fade(fraction: float) -> float:
    """What the losses of the tokens count for, from 1 to a fifth as training goes from fraction 0 to 1.

    Early they teach the encoder to see, in the end the joints of the body are what is asked for.
    """
    return 1 - 0.8 * min(1.0, fraction)


def total(parts: dict[str, Tensor], tokens: float) -> Tensor:
    """Weighted sum of the parts; those of the tokens count `tokens` times."""
    pose = torch.stack([weight * parts[name] for name, weight in POSE_WEIGHTS.items()]).sum()
    return pose + tokens * torch.stack([weight * parts[name] for name, weight in TOKEN_WEIGHTS.items()]).sum()
