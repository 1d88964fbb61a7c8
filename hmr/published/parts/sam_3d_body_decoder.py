"""The decoder of SAM 3D Body: tokens for the pose, a prompt, both hands and 70 keypoints look at the picture's grid.

Between two layers a person is posed, and keypoints learn where they would lie and what the picture shows there. Keys
are those of the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmr.models.vit import attention
from hmr.published.parts.mhr import TwoLayers
from hmr.published.parts.places import RAY, ChannelNorm, WholePicture, fourier

EPS = 1e-6


class Projected(NamedTuple):
    """Keypoints in the square: places (B, 70, 2) from -0.5 to 0.5, and depths (B, 70) m."""

    place: Tensor
    depth: Tensor

    @property
    def visible(self) -> Tensor:
        """Which lie in the square and before the camera, (B, 70, 1)."""
        inside = ((self.place >= -0.5) & (self.place <= 0.5)).all(-1)
        return (inside & (self.depth >= 1e-5))[..., None]


class SeparateAttention(nn.Module):
    """Attention with its own projections of queries, keys and values."""

    def __init__(self, dim: int, context: int, heads: int, width: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(n, heads * width) for n in (dim, context, context))
        self.proj = nn.Linear(heads * width, dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts = ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        heads = (project(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for project, x in parts)
        return self.proj(attention(*heads).transpose(1, 2).flatten(2))


@dataclass(frozen=True)
class PromptSizes:
    """Of a decoder; as released."""

    dim: int = 1024
    context: int = 1280
    depth: int = 6
    heads: int = 8
    width: int = 64  # of a head
    hidden: int = 1024


class PromptLayer(nn.Module):
    """Tokens (B, T, D) look at each other and at the picture (B, N, C); places are added to queries and keys."""

    def __init__(self, sizes: PromptSizes) -> None:
        super().__init__()
        dim, context = sizes.dim, sizes.context
        self.ln_pe_1, self.ln1, self.ln2_1, self.ln3 = (nn.LayerNorm(dim, eps=EPS) for _ in range(4))
        self.ln_pe_2, self.ln2_2 = (nn.LayerNorm(context, eps=EPS) for _ in range(2))
        self.self_attn = SeparateAttention(dim, dim, sizes.heads, sizes.width)
        self.cross_attn = SeparateAttention(dim, context, sizes.heads, sizes.width)
        self.ffn = TwoLayers(dim, sizes.hidden, dim, nn.GELU())

    def forward(self, x: Tensor, place: Tensor, picture: Tensor, where: Tensor, first: bool) -> Tensor:
        """`first`: the first layer adds no places to its self-attention."""
        place, where = self.ln_pe_1(place), self.ln_pe_2(where)
        value = self.ln1(x)
        query = value if first else value + place
        x = x + self.self_attn(query, query, value)
        value = self.ln2_2(picture)
        x = x + self.cross_attn(self.ln2_1(x) + place, value + where, value)
        return x + self.ffn(self.ln3(x))


class PromptLayers(nn.Module):
    def __init__(self, sizes: PromptSizes) -> None:
        super().__init__()
        self.layers = nn.ModuleList(PromptLayer(sizes) for _ in range(sizes.depth))
        self.norm_final = nn.LayerNorm(sizes.dim, eps=EPS)


class RayCondition(nn.Module):
    """A grid (B, C, h, w) that also knows where its patches look."""

    told: Tensor  # (1, 99, h, w)

    def __init__(self, dim: int, view: WholePicture, patch: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(dim + RAY, dim, 1, bias=False), ChannelNorm(dim)
        grid = (view.side // patch, view.columns // patch)
        rays = F.interpolate(view.rays(), grid, mode="bilinear", align_corners=False, antialias=True)
        self.register_buffer("told", fourier(rays), persistent=False)

    def forward(self, grid: Tensor) -> Tensor:
        return self.norm(self.conv(torch.cat((grid, self.told.expand(grid.shape[0], -1, -1, -1)), 1)))


class BoxMLP(nn.Module):
    """Three linear layers with ReLUs between them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(dim, n) for n in (dim, dim, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[2](self.layers[1](self.layers[0](x).relu()).relu())


class PersonCamera(nn.Module):
    """The pose token -> a camera (B, 3): scale and shifts. `scale`: of a hand's."""

    def __init__(self, dim: int, scale: float) -> None:
        super().__init__()
        self.proj, self.scale = TwoLayers(dim, dim, 3, nn.ReLU()), scale

    def projected(self, camera: Tensor, keypoints: Tensor, view: WholePicture) -> Projected:
        """Keypoints (B, 70, 3) m in the square of a view."""
        scale, x, y = (camera * camera.new_tensor((-1, 1, -1))).unbind(-1)
        depth = 2 * view.focal / (view.side * scale * self.scale + 1e-8)
        placed = keypoints + torch.stack((x, y, depth), -1)[:, None]
        return Projected(view.focal / view.side * placed[..., :2] / placed[..., 2:], placed[..., 2])
