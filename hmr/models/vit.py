"""Pre-norm transformer blocks with fused qkv, and the vision transformer of HMR2.0 (ViTPose's ViT), which is made of
them and has no class token.

State_dict keys are those of 4D-Humans, so its weights load without renaming. A `Backbone` is a `compress.stack.Stack`:
a block is two residual updates, `attend` and `feed`, and `compress.stack.encode` adds them up.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.stack import encode
from compress.tokens import Tokens


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax attention of q (B, H, M, d) over k, v (B, H, N, d) -> (B, H, M, d); bias (B, N) or (B, M, N) is added to
    the logits.

    Fused attention is the fast one, except where a CPU has to go backwards through it: under bfloat16 autocast its
    backward took five times as long as the rest of the network (35 images/s against 65 for the plain product).
    """
    mask = None if bias is None else (bias[:, None] if bias.ndim == 3 else bias[:, None, None])  # (B, 1, M or 1, N)
    if q.requires_grad and q.device.type == "cpu":
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # (B, H, M, N)
        weights = (logits if mask is None else logits + mask).softmax(-1)
        return weights.to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask.to(q.dtype))


def thinned(x: Tensor, update: Callable[[Tensor], Tensor], drop: float) -> Tensor:
    """update(x) for x (B, ...), but zero for a random share `drop` of the batch (stochastic depth).

    The update is computed only for the samples that keep it and is scaled by B / kept, so the mean stays what it was
    and the work shrinks (DINOv2, `drop_add_residual_stochastic_depth`). At least one sample keeps it.
    """
    if not drop:
        return update(x)
    batch = len(x)
    kept = max(1, round(batch * (1 - drop)))
    if kept == batch:
        return update(x)
    chosen = torch.randperm(batch, device=x.device)[:kept]
    new = update(x[chosen])
    return torch.zeros_like(x, dtype=new.dtype).index_add(0, chosen, new, alpha=batch / kept)


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection to q, k and v."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (B, N, C) -> what attention adds (B, N, C) and the keys (B, H, N, d)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # (B, N, 3, H, d)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, H, N, d)
        return self.proj(attention(q, k, v, bias).transpose(1, 2).flatten(2)), k


class MLP(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    """A factor for each feature of a residual update (Touvron et al. 2021, CaiT, Sec. 2)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """One pre-norm transformer block; `drop` is its share of stochastic depth while training, `scaled` adds LayerScale
    to both of its updates."""

    def __init__(self, dim: int, heads: int, hidden: int, drop: float = 0.0, scaled: bool = False) -> None:
        super().__init__()
        self.drop = drop
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.ls1 = LayerScale(dim) if scaled else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLP(dim, hidden)
        self.ls2 = LayerScale(dim) if scaled else nn.Identity()

    def attend(self, x: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, C) -> residual update (B, N, C) and the keys of all heads (B, H, N, d).

        With stochastic depth the keys are of no use (B, 1, N, 0): tokens are merged in finished models only.
        """
        if self.training and self.drop:
            return thinned(x, lambda kept: self.ls1(self.attn(self.norm1(kept), bias)[0]), self.drop), x[:, None, :, :0]
        update, keys = self.attn(self.norm1(x), bias)
        return self.ls1(update), keys

    def feed(self, x: Tensor) -> Tensor:
        """Tokens (B, N, C) -> residual update (B, N, C) of the MLP."""
        return thinned(x, lambda kept: self.ls2(self.mlp(self.norm2(kept))), self.drop if self.training else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(x)[0]
        return x + self.feed(x)


class PatchEmbed(nn.Module):
    """One convolution as wide as its stride: HMR2.0's, 16 pixels, is padded by 2, DINOv2's, 14 pixels, is not."""

    def __init__(self, dim: int, patch: int = 16, padding: int = 2) -> None:
        super().__init__()
        # NOTE: padding 0 gives the same shape for a 256x192 crop and wrong numbers with HMR2.0's released weights.
        self.proj = nn.Conv2d(3, dim, patch, stride=patch, padding=padding)

    def forward(self, crop: Tensor) -> Tensor:
        return self.proj(crop)


class Backbone(nn.Module):
    """Blocks between an embedding and a last norm, which a subclass has; `grid` is that of its crops (rows, columns).

    `drop_path` is the share of stochastic depth in the last block; it grows linearly from 0 in the first.
    """

    def __init__(
        self,
        patch_embed: PatchEmbed,
        dim: int,
        depth: int,
        heads: int,
        mlp_dim: int,
        drop_path: float,
        grid: tuple[int, int],
        scaled: bool = False,
    ) -> None:
        super().__init__()
        self.patch_embed, self.grid = patch_embed, grid
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid[0] * grid[1], dim))
        drops = [drop_path * i / max(1, depth - 1) for i in range(depth)]
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_dim, drop, scaled) for drop in drops)

    def attend(self, block: nn.Module, tokens: Tokens, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """A block's attention, as `compress.stack.Stack` asks for it, in the type of the block's weights."""
        x = tokens.x.to(block.norm1.weight.dtype)  # type: ignore[union-attr, arg-type]  # nn.Module hides what it has
        return block.attend(x, bias)  # type: ignore[operator]  # as above

    def feed(self, block: nn.Module, x: Tensor) -> Tensor:
        """A block's MLP, as `compress.stack.Stack` asks for it, in the type of the block's weights."""
        return block.feed(x.to(block.norm2.weight.dtype))  # type: ignore[operator, union-attr, arg-type]  # as above

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Position embedding (1, prefix + rows * columns, C) of the tokens of a crop of any grid."""
        raise NotImplementedError

    def embed(self, crop: Tensor) -> Tokens:
        """Crop (B, 3, H, W) -> tokens as the first block takes them."""
        raise NotImplementedError

    def finish(self, tokens: Tokens) -> Tokens:
        """The tokens after the last norm."""
        raise NotImplementedError

    def forward(self, crop: Tensor) -> Tensor:
        return encode(self, crop).x


class ViT(Backbone):
    """Crop (B, 3, H, W) -> tokens (B, H/16 * W/16, C), after the last norm."""

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        mlp_dim: int,
        drop_path: float,
        grid: tuple[int, int] = (16, 12),
        patch: int = 16,
    ) -> None:
        super().__init__(PatchEmbed(dim, patch), dim, depth, heads, mlp_dim, drop_path, grid)
        self.last_norm = nn.LayerNorm(dim, eps=1e-6)
        self.apply(_initialise)
        with torch.no_grad():
            self.pos_embed.copy_(torch.cat((torch.zeros(1, dim), sine_positions(grid, dim)))[None])

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Position embedding (1, rows * columns, C); a smaller grid than the model's gets the means over its wider
        cells."""
        table = self.pos_embed[:, 1:]  # (1, N0, C)
        if grid != self.grid:
            table = table.transpose(1, 2).unflatten(2, self.grid)  # (1, C, rows, columns)
            table = F.adaptive_avg_pool2d(table, grid).flatten(2).transpose(1, 2)
        # There is no class token: the first row, which was once its position, is added to every token (as 4D-Humans).
        return table + self.pos_embed[:, :1]

    def embed(self, crop: Tensor) -> Tokens:
        """Crop (B, 3, H, W) -> tokens as the first block takes them."""
        x = self.patch_embed(crop)  # (B, C, rows, columns)
        grid = (x.shape[2], x.shape[3])
        return Tokens.of(x.flatten(2).transpose(1, 2) + self.positions(grid), grid)

    def finish(self, tokens: Tokens) -> Tokens:
        """The tokens after the last norm."""
        return replace(tokens, x=self.last_norm(tokens.x))


def sine_positions(grid: tuple[int, int], dim: int) -> Tensor:
    """Sine and cosine waves of row and column (rows * columns, dim), amplitude 1: where position embeddings start.

    From small random numbers a network has to find out first that positions matter, and where each token lies.
    """
    waves = torch.exp(-math.log(100.0) * torch.arange((dim + 3) // 4) / ((dim + 3) // 4))  # 6 ... 600 tokens long
    row, column = torch.meshgrid(*(torch.arange(float(n)) for n in grid), indexing="ij")
    angles = [place.flatten()[:, None] * waves for place in (row, column)]  # (N, dim/4) each
    return torch.cat([wave(a) for a in angles for wave in (torch.sin, torch.cos)], 1)[:, :dim]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
