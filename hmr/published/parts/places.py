"""Where a patch lies in a picture and looks in space, as SAM 3D Body, Multi-HMR and PromptHMR tell their decoders."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6
BANDS = 16  # of the waves that tell rays apart, up to 32 half waves
RAY = 3 + 6 * BANDS  # numbers that tell a ray


def fourier(rays: Tensor) -> Tensor:
    """Where patches look, (1, 2, h, w) as x / z and y / z -> that and its waves (1, 99, h, w)."""
    rays = torch.cat((rays, torch.ones_like(rays[:, :1])), 1)
    bands = torch.linspace(1, 32, BANDS, device=rays.device) * math.pi
    waves = (rays[:, :, None] * bands[:, None, None]).flatten(1, 2)  # (1, 48, h, w), those of x first
    return torch.cat((rays, waves.sin(), waves.cos()), 1)


def rays_by_row(side: int, patch: int, focal: float, like: Tensor) -> Tensor:
    """Where patches of a square picture of `side` pixels look, (1, 2, h, w): the row first, as Multi-HMR has it."""
    line = (torch.arange(side // patch, device=like.device, dtype=like.dtype) * patch + patch // 2 - side / 2) / focal
    return torch.stack(torch.meshgrid(line, line, indexing="ij"))[None]


@dataclass(frozen=True)
class WholePicture:
    """The square picture of `side` pixels that a crop is: the middle of a camera whose focal length is its diagonal, as
    the authors take where no lens is known. The network sees its middle columns."""

    side: int
    columns: int

    @property
    def focal(self) -> float:
        return math.sqrt(2) * self.side

    def rays(self) -> Tensor:
        """Where each pixel of the crop looks, (1, 2, side, columns): x / z and y / z."""
        line = (torch.arange(self.side) - self.side / 2) / self.focal
        left = (self.side - self.columns) // 2
        y, x = torch.meshgrid(line, line[left : left + self.columns], indexing="ij")
        return torch.stack((x, y))[None]


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of a grid (B, C, h, w)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2], self.weight, self.bias, EPS).permute(0, 3, 1, 2)


class RandomWaves(nn.Module):
    """Places as sines and cosines of random directions (Tancik et al. 2020)."""

    positional_encoding_gaussian_matrix: Tensor  # (2, C / 2)

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.zeros(2, dim // 2))

    def forward(self, side: int, columns: int) -> Tensor:
        """Of the middle columns of a square grid, (1, side * columns, C)."""
        line = (torch.arange(side, device=self.positional_encoding_gaussian_matrix.device) + 0.5) / side
        left = (side - columns) // 2
        y, x = torch.meshgrid(line, line[left : left + columns], indexing="ij")
        return self.at(torch.stack((x, y), -1).flatten(0, 1))[None]

    def at(self, place: Tensor) -> Tensor:
        """Of places (..., 2), x and y in 0..1 of the picture: (..., C)."""
        waves = 2 * math.pi * ((2 * place - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat((waves.sin(), waves.cos()), -1)
