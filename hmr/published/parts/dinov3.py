"""DINOv3's vision transformer (Siméoni et al. 2025), under its authors' keys: rotary positions, storage tokens,
LayerScale, no bias of the keys, gated MLPs."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmr.models.vit import LayerScale, PatchEmbed, attention

STORAGE = 4  # tokens behind the class token
EPS = 1e-5
Turn = tuple[Tensor, Tensor]  # sine and cosine (N, d)


class AxialRope(nn.Module):
    """Angles of row and column from -1 to 1; periods grow from 1 to 100."""

    normalize_coords = "separate"
    periods: Tensor  # (d / 4,)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("periods", 100.0 ** (2 * torch.arange(width // 4) / (width // 2)))

    def forward(self, *, H: int, W: int) -> Turn:
        lines = [torch.arange(0.5, n, device=self.periods.device) / n * 2 - 1 for n in (H, W)]
        place = torch.stack(torch.meshgrid(*lines, indexing="ij"), -1).flatten(0, 1)  # (H * W, 2)
        angles = (2 * math.pi * place[..., None] / self.periods).flatten(1).tile(2)
        return angles.sin(), angles.cos()


class KeysWithoutBias(nn.Linear):
    """A fused projection to q, k and v; its mask is 0 for the keys."""

    bias_mask: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__(dim, 3 * dim)
        self.register_buffer("bias_mask", torch.tensor([1.0, 0, 1]).repeat_interleave(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias * self.bias_mask.to(self.bias.dtype))


class TurnedAttention(nn.Module):
    """Self-attention whose queries and keys of patches are turned to their places."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv, self.proj = KeysWithoutBias(dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, rope: Turn) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, H, N, d)
        return self.proj(attention(turned(q, rope), turned(k, rope), v).transpose(1, 2).flatten(2))


def turned(x: Tensor, rope: Turn) -> Tensor:
    """Queries or keys (B, H, N, d) at the places of the last tokens; those before them have none."""
    sin, cos = rope
    before = x.shape[2] - sin.shape[0]
    still, moving = x[:, :, :before], x[:, :, before:]
    low, high = moving.chunk(2, -1)
    return torch.cat((still, moving * cos + torch.cat((-high, low), -1) * sin), 2)


class GatedMLP(nn.Module):
    """w3(silu(w1 x) * w2 x)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w1, self.w2, self.w3 = nn.Linear(dim, hidden), nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.w3(F.silu(self.w1(x)) * self.w2(x))


class TurnedBlock(nn.Module):
    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attn, self.ls1 = nn.LayerNorm(dim, eps=EPS), TurnedAttention(dim, heads), LayerScale(dim)
        self.norm2, self.mlp, self.ls2 = nn.LayerNorm(dim, eps=EPS), GatedMLP(dim, hidden), LayerScale(dim)

    def forward(self, x: Tensor, rope: Turn) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), rope))
        return x + self.ls2(self.mlp(self.norm2(x)))


class DINOv3(nn.Module):
    """Pictures (B, 3, 16 h, 16 w) -> tokens (B, 5 + h * w, C), after the last norm."""

    def __init__(self, dim: int = 1280, depth: int = 32, heads: int = 20, hidden: int = 5120) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(dim, padding=0)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.storage_tokens = nn.Parameter(torch.zeros(1, STORAGE, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, dim))  # of its training
        self.rope_embed = AxialRope(dim // heads)
        self.blocks = nn.ModuleList(TurnedBlock(dim, heads, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=EPS)

    def prepare_tokens_with_masks(self, crop: Tensor) -> Tensor:
        """Tokens as the first block takes them."""
        before = torch.cat((self.cls_token, self.storage_tokens), 1).expand(crop.shape[0], -1, -1)
        return torch.cat((before, self.patch_embed(crop).flatten(2).transpose(1, 2)), 1)

    def forward(self, crop: Tensor) -> Tensor:
        x, rope = self.prepare_tokens_with_masks(crop), self.rope_embed(H=crop.shape[2] // 16, W=crop.shape[3] // 16)
        for block in self.blocks:
            x = block(x, rope)
        return self.norm(x)
