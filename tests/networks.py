"""Networks that are not ours, to compress: small copies of public layouts, written here."""

# nn.Module hides what it has, and the blocks here are written as their authors write them, without types
# mypy: disable-error-code="operator,union-attr,arg-type,override"

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.known_network import PATCH, Network

DIM, HEADS, DEPTH, HIDDEN = 32, 2, 4, 24
GRID = (8, 6)


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.randn(DIM))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(DIM, 48), nn.Linear(48, DIM)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGLU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w1, self.w2, self.w3 = nn.Linear(DIM, HIDDEN), nn.Linear(DIM, HIDDEN), nn.Linear(HIDDEN, DIM)

    def forward(self, x: Tensor) -> Tensor:
        return self.w3(F.silu(self.w1(x)) * self.w2(x))


class MaskedBias(nn.Linear):
    """No bias for the keys."""

    def __init__(self) -> None:
        super().__init__(DIM, 3 * DIM)
        self.register_buffer("bias_mask", torch.cat((torch.ones(DIM), torch.zeros(DIM), torch.ones(DIM))))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias * self.bias_mask)


class Attention(nn.Module):
    """By the book: one softmax per head, no fused kernel; with qk norms as timm has them, RoPE as DINOv3."""

    def __init__(self, qkv: nn.Module, normed: bool = False) -> None:
        super().__init__()
        self.num_heads = HEADS
        self.qkv, self.proj = qkv, nn.Linear(DIM, DIM)
        d = DIM // HEADS
        self.q_norm, self.k_norm = (nn.LayerNorm(d) if normed else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor] | None = None) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = (turn(t, *rope) for t in (q, k))
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


def turn(x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    """The last tokens of x (B, H, N, d), pair by pair as complex numbers, in the type of the angles."""
    start, half = x.shape[2] - sin.shape[-2], x.shape[-1] // 2
    real, imaginary = x[:, :, start:].to(sin.dtype).split(half, -1)
    s, c = sin[..., :half], cos[..., :half]
    pairs = torch.cat((real * c - imaginary * s, real * s + imaginary * c), -1).to(x.dtype)
    return torch.cat((x[:, :, :start], pairs), 2)


class Block(nn.Module):
    def __init__(self, qkv: nn.Module | None = None, scaled: bool = False, swiglu: bool = False, normed: bool = False):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.attn = Attention(qkv or nn.Linear(DIM, 3 * DIM), normed)
        self.ls1, self.ls2 = (Scale() if scaled else nn.Identity() for _ in range(2))
        self.mlp = SwiGLU() if swiglu else MLP()

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor] | None = None) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), rope))
        return x + self.ls2(self.mlp(self.norm2(x)))


class Patches(nn.Module):
    def __init__(self, padding: int = 0) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, DIM, PATCH, stride=PATCH, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class Timm(nn.Module):
    """timm's VisionTransformer with a class token and qk norms."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed, self.cls_token = Patches(), nn.Parameter(torch.randn(1, 1, DIM))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + math.prod(GRID), DIM))
        self.norm_pre, self.norm = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.blocks = nn.Sequential(*(Block(normed=True) for _ in range(DEPTH)))

    def _pos_embed(self, x: Tensor) -> Tensor:
        return torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), 1) + self.pos_embed

    def forward(self, crop: Tensor) -> Tensor:
        return self.norm(self.blocks(self.norm_pre(self._pos_embed(self.patch_embed(crop)))))


class ViTPose(nn.Module):
    """No class token, but a place for one."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = Patches(padding=1)
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + math.prod(GRID), DIM))
        self.blocks, self.last_norm = nn.ModuleList(Block() for _ in range(DEPTH)), nn.LayerNorm(DIM)

    def forward(self, crop: Tensor) -> Tensor:
        x = self.patch_embed(crop) + self.pos_embed[:, 1:] + self.pos_embed[:, :1]
        for block in self.blocks:
            x = block(x)
        return self.last_norm(x)


class DINOv2(nn.Module):
    """LayerScale, a class token and two registers that have no position."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed, self.norm = Patches(), nn.LayerNorm(DIM)
        self.cls_token, self.register_tokens = (nn.Parameter(torch.randn(1, n, DIM)) for n in (1, 2))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + math.prod(GRID), DIM))
        self.mask_token = nn.Parameter(torch.zeros(1, DIM))
        self.blocks = nn.ModuleList(Block(scaled=True) for _ in range(DEPTH))

    def prepare_tokens_with_masks(self, crop: Tensor, masks: Tensor | None = None) -> Tensor:
        x = torch.cat((self.cls_token.expand(crop.shape[0], -1, -1), self.patch_embed(crop)), 1) + self.pos_embed
        return torch.cat((x[:, :1], self.register_tokens.expand(x.shape[0], -1, -1), x[:, 1:]), 1)

    def forward(self, crop: Tensor) -> Tensor:
        x = self.prepare_tokens_with_masks(crop)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Rope(nn.Module):
    def __init__(self, ranges: str = "separate", dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.normalize_coords, self.dtype = ranges, dtype
        d = DIM // HEADS
        self.register_buffer("periods", 100.0 ** (2 * torch.arange(d // 4, dtype=dtype) / (d // 2)))

    def forward(self, *, H: int, W: int) -> tuple[Tensor, Tensor]:
        """Sine and cosine (H * W, d), patch by patch."""
        rows, columns = H, W
        span = {"separate": (rows, columns), "max": (max(rows, columns),) * 2, "min": (min(rows, columns),) * 2}
        lengths = span[self.normalize_coords]
        angles = torch.stack([angle(self, (r, c), lengths) for r in range(rows) for c in range(columns)])
        return angles.sin(), angles.cos()


def angle(rope: Rope, place: tuple[float, float], lengths: tuple[int, int]) -> Tensor:
    """(d,) of one place."""
    dtype = rope.dtype or rope.periods.dtype
    at = [2.0 * (torch.tensor(p + 0.5, dtype=dtype) / n) - 1.0 for p, n in zip(place, lengths, strict=True)]
    return torch.cat([2 * math.pi * one / rope.periods for one in at]).tile(2)


class DINOv3(nn.Module):
    """RoPE, SwiGLU, LayerScale, storage tokens, a masked bias of the keys: SAM 3D Body's backbone."""

    def __init__(self, ranges: str = "separate", dtype: torch.dtype | None = None, untied: bool = True) -> None:
        super().__init__()
        self.patch_embed, self.norm = Patches(), nn.LayerNorm(DIM)
        self.cls_norm = nn.LayerNorm(DIM) if untied else None
        self.cls_token, self.storage_tokens = (nn.Parameter(torch.randn(1, n, DIM)) for n in (1, 4))
        self.mask_token = nn.Parameter(torch.zeros(1, DIM))
        self.rope_embed = Rope(ranges, dtype)
        self.blocks = nn.ModuleList(Block(MaskedBias(), scaled=True, swiglu=True) for _ in range(DEPTH))

    def prepare_tokens_with_masks(self, crop: Tensor, masks: Tensor | None = None) -> tuple[Tensor, tuple[int, int]]:
        ahead = torch.cat((self.cls_token, self.storage_tokens), 1).expand(crop.shape[0], -1, -1)
        return torch.cat((ahead, self.patch_embed(crop)), 1), (crop.shape[2] // PATCH, crop.shape[3] // PATCH)

    def forward(self, crop: Tensor) -> Tensor:
        x, grid = self.prepare_tokens_with_masks(crop)
        for block in self.blocks:
            x = block(x, self.rope_embed(H=grid[0], W=grid[1]))
        return torch.cat(((self.cls_norm or self.norm)(x[:, :5]), self.norm(x[:, 5:])), 1)


def sam3d() -> nn.Module:
    """A module with SAM 3D Body's backbone at full size; changes the sizes of this file, so it needs a process."""
    globals().update(DIM=1280, HEADS=20, DEPTH=32, PATCH=16, HIDDEN=5120)
    model = nn.Module()
    model.backbone = nn.Module()
    model.backbone.encoder = DINOv3(untied=False)
    return model


class HFAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_attention_heads = HEADS
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(DIM, DIM) for _ in range(4))

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        heads = (self.num_attention_heads, -1)
        q, k, v = (p(x).unflatten(-1, heads).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        return self.o_proj((weights @ v).transpose(1, 2).flatten(2)), None


class HFLayer5(nn.Module):
    """transformers 5."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.mlp = HFAttention(), MLP()
        self.layernorm_before, self.layernorm_after = nn.LayerNorm(DIM), nn.LayerNorm(DIM)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.layernorm_before(x))[0]
        return x + self.mlp(self.layernorm_after(x))


class Dense(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, outputs)


class Intermediate(Dense):
    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.dense(x))


class Residual(Dense):
    """transformers 4 adds the residual in here."""

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        return self.dense(x) + before


class HFLayer4(nn.Module):
    """transformers 4: names of the BERT age, and a tuple comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.Module()
        inner = self.attention.attention = nn.Module()
        inner.num_attention_heads = HEADS  # type: ignore[assignment]
        inner.query, inner.key, inner.value = (nn.Linear(DIM, DIM) for _ in range(3))
        self.attention.output = Dense(DIM, DIM)
        self.layernorm_before, self.layernorm_after = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.intermediate, self.output = Intermediate(DIM, 48), Residual(48, DIM)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        inner, y = self.attention.attention, self.layernorm_before(x)
        heads = (inner.num_attention_heads, -1)
        q, k, v = (p(y).unflatten(-1, heads).transpose(1, 2) for p in (inner.query, inner.key, inner.value))
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        x = x + self.attention.output.dense((weights @ v).transpose(1, 2).flatten(2))
        return (self.output(self.intermediate(self.layernorm_after(x)), x),)


class HFEmbeddings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch_embeddings, self.cls_token = Patches(), nn.Parameter(torch.randn(1, 1, DIM))
        self.position_embeddings = nn.Parameter(torch.randn(1, 1 + math.prod(GRID), DIM))

    def forward(self, crop: Tensor) -> Tensor:
        x = self.patch_embeddings(crop)
        return torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), 1) + self.position_embeddings


class HFViT(nn.Module):
    def __init__(self, layer: type[nn.Module]) -> None:
        super().__init__()
        self.embeddings, self.layernorm = HFEmbeddings(), nn.LayerNorm(DIM)
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(layer() for _ in range(DEPTH))

    def forward(self, crop: Tensor) -> Tensor:
        x = self.embeddings(crop)
        for layer in self.encoder.layer:
            x = layer(x)
            x = x[0] if isinstance(x, tuple) else x
        return self.layernorm(x)


FAMILIES = {
    "vitpose": Network(ViTPose, "blocks", 0),
    "timm": Network(Timm, "blocks", 1),
    "dinov2": Network(DINOv2, "blocks", 3),
    "dinov3": Network(DINOv3, "blocks", 5),
    "dinov3-max": Network(lambda: DINOv3("max", untied=False), "blocks", 5),
    "dinov3-min-bf16": Network(lambda: DINOv3("min", torch.bfloat16), "blocks", 5),
    "hf5": Network(lambda: HFViT(HFLayer5), "encoder.layer", 1),
    "hf4": Network(lambda: HFViT(HFLayer4), "encoder.layer", 1),
}
