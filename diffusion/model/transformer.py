"""Transformers with long skips, which VAE and denoiser are made of.

Own layers rather than torch's: those run fused in evaluation, where no counter of products sees into them.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

from hmr.models.vit import attention

FAINT = 0.02  # of a wave's height: what a token holds is to outweigh where it is


def silent(linear: nn.Linear) -> nn.Linear:
    """A layer whose output is 0 before training."""
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


class ClipDropout(nn.Module):
    """Dropout of whole features of a clip (B, N, D), the same in all of its tokens (Gal and Ghahramani 2016, Sec. 4).

    NOTE: a mask of each token's own took 37 % of a training step on a CPU.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.rate:
            return x
        return x * F.dropout(x.new_ones(len(x), 1, x.shape[-1]), self.rate)


class ContextAttention(nn.Module):
    """Attention of tokens (B, N, D) over `context` (B, M, D)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key_value, self.out = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, N, d)
        pairs = self.key_value(context).unflatten(-1, (2, self.heads, -1))  # (B, M, 2, H, d)
        k, v = pairs.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, H, M, d)
        return self.out(attention(q, k, v).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Self-attention, with `cross` attention to a memory, and an MLP with GELU; norms before or after the sums.

    It adds nothing yet: all is learned from there.
    """

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float, cross: bool, pre_norm: bool) -> None:
        super().__init__()
        self.pre_norm, self.dropout = pre_norm, ClipDropout(dropout)
        self.attend = ContextAttention(dim, heads)
        self.cross = ContextAttention(dim, heads) if cross else None
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3 if cross else 2))
        for last in (self.attend.out, *([self.cross.out] if self.cross else []), self.fc2):
            silent(last)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        """Tokens (B, N, D), memory (B, M, D) where there is cross-attention -> (B, N, D)."""
        parts = [lambda y: self.attend(y, y), lambda y: self.fc2(self.dropout(F.gelu(self.fc1(y))))]
        cross = self.cross
        if cross is not None:
            parts.insert(1, lambda y: cross(y, memory))
        for norm, part in zip(self.norms, parts, strict=True):
            x = x + self.dropout(part(norm(x))) if self.pre_norm else norm(x + self.dropout(part(x)))
        return x


class SkipTransformer(nn.Module):
    """An odd number of layers; the outputs of the first half join the inputs of the second, last to first. A join lets
    its input through before it has learned.

    U-ViT's long skips as in MLD (Chen et al., Executing your Commands via Motion Diffusion in Latent Space, 2023).
    """

    def __init__(
        self, layers: int, dim: int, heads: int, hidden: int, dropout: float, cross: bool = False, pre_norm: bool = True
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(dim, heads, hidden, dropout, cross, pre_norm) for _ in range(layers))
        self.joins = nn.ModuleList(nn.Linear(2 * dim, dim) for _ in range(layers // 2))
        # With norms before the sums nothing is normalised at the end: what goes in can come out as it was.
        self.norm = nn.Identity() if pre_norm else nn.LayerNorm(dim)
        for join in self.joins:
            nn.init.eye_(silent(cast(nn.Linear, join)).weight)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        """Tokens (B, N, D), memory (B, M, D) for cross-attention -> (B, N, D)."""
        half = len(self.joins)
        kept: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            if i > half:
                x = self.joins[i - half - 1](torch.cat((x, kept.pop()), -1))
            x = layer(x, memory)
            if i < half:
                kept.append(x)
        return self.norm(x)


def waves(times: Tensor, dim: int) -> Tensor:
    """Sines and cosines (N, dim) of times (N,): DDPM's embedding with flip_sin_to_cos and frequency shift 0."""
    return get_timestep_embedding(times, dim, flip_sin_to_cos=True, downscale_freq_shift=0)


def positions(count: int, dim: int, span: int) -> nn.Parameter:
    """Learned positions (count, dim) that start as `waves` of places spread over `span` frames.

    So tokens of a latent and frames that are at the same time know each other from the first step on.
    """
    return nn.Parameter(FAINT * waves((torch.arange(count) + 0.5) * (span / count), dim))


def at_their_time(tokens: Tensor, count: int) -> Tensor:
    """Tokens (B, N, D) spread over a clip, averaged or repeated to (B, count, D): what queries start from.

    NOTE: queries that start from a position alone, as in MLD, first have to find out by attention where to look: after
    4 minutes on one core reconstruction was at 300 mm on families not seen.
    """
    return F.adaptive_avg_pool1d(tokens.transpose(1, 2), count).transpose(1, 2)
