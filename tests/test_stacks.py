"""Stacks of models that are not ours: small copies of public layouts, written here, and what is refused."""

# nn.Module hides what it has, and the blocks here are written as their authors write them, without types
# mypy: disable-error-code="operator,union-attr,arg-type,override"

from __future__ import annotations

import copy
import math
import pickle
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress import artefact
from compress.cost.macs import cost
from compress.errors import BadInput
from compress.policies.merge_layers import MergeLayers
from compress.policies.merge_tokens import MergeTokens
from compress.stack import encode
from compress.tokens import Tokens
from hmr.models.own_model import OwnModel, stack_from
from hmr.models.rope import rope_at
from tests.planning import applied, planned

DIM, HEADS, DEPTH, PATCH, HIDDEN = 32, 2, 4, 4, 24
CROP = (32, 24)  # 8 x 6 patches
GRID = (8, 6)


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, *CROP, generator=torch.Generator().manual_seed(1))


def masks(count: int = 3) -> Tensor:
    """Of whole patches: a column of people."""
    out = torch.zeros(count, *GRID, dtype=torch.bool)
    out[:, 1:7, 2:4] = True
    return out.repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)


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
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
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
        self.blocks = nn.ModuleList(Block(normed=True) for _ in range(DEPTH))

    def _pos_embed(self, x: Tensor) -> Tensor:
        return torch.cat((self.cls_token.expand(len(x), -1, -1), x), 1) + self.pos_embed

    def forward(self, crop: Tensor) -> Tensor:
        x = self.norm_pre(self._pos_embed(self.patch_embed(crop)))
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


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
        x = torch.cat((self.cls_token.expand(len(crop), -1, -1), self.patch_embed(crop)), 1) + self.pos_embed
        return torch.cat((x[:, :1], self.register_tokens.expand(len(x), -1, -1), x[:, 1:]), 1)

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

    def forward(self, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Sine and cosine (rows * columns, d), patch by patch."""
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
        ahead = torch.cat((self.cls_token, self.storage_tokens), 1).expand(len(crop), -1, -1)
        return torch.cat((ahead, self.patch_embed(crop)), 1), (crop.shape[2] // PATCH, crop.shape[3] // PATCH)

    def forward(self, crop: Tensor) -> Tensor:
        x, grid = self.prepare_tokens_with_masks(crop)
        for block in self.blocks:
            x = block(x, self.rope_embed(*grid))
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
        q, k, v = (p(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
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
        q, k, v = (p(y).unflatten(-1, (HEADS, -1)).transpose(1, 2) for p in (inner.query, inner.key, inner.value))
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
        return torch.cat((self.cls_token.expand(len(x), -1, -1), x), 1) + self.position_embeddings


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
    "vitpose": (ViTPose, "blocks", 0),
    "timm": (Timm, "blocks", 1),
    "dinov2": (DINOv2, "blocks", 3),
    "dinov3": (DINOv3, "blocks", 5),
    "dinov3-max": (lambda: DINOv3("max", untied=False), "blocks", 5),
    "dinov3-min-bf16": (lambda: DINOv3("min", torch.bfloat16), "blocks", 5),
    "hf5": (lambda: HFViT(HFLayer5), "encoder.layer", 1),
    "hf4": (lambda: HFViT(HFLayer4), "encoder.layer", 1),
}


def network(name: str) -> tuple[nn.Module, str, int]:
    torch.manual_seed(0)
    make, blocks, prefix = FAMILIES[name]
    return make().eval(), blocks, prefix


def own(name: str, **asked) -> OwnModel:
    module, blocks, _ = network(name)
    return OwnModel(module, lambda own, tokens: tokens, CROP, blocks=blocks, **asked).eval()


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


@torch.no_grad()
def test_without_steps_it_is_the_users_own_network(family):
    """Identity, against the network's own forward, whose attention is written out."""
    module, blocks, prefix = network(family)
    tokens = encode(stack_from(module, blocks), images())
    assert (tokens.prefix, tokens.grid) == (prefix, GRID)
    torch.testing.assert_close(tokens.x, module(images()), rtol=1e-5, atol=5e-5)


@torch.no_grad()
def test_steps_that_change_nothing_leave_it_as_it_is_to_the_bit(family):
    """Identity."""
    model = own(family)
    said = model(images(), masks()).x
    for step in (MergeLayers(strategy="explicit", windows=()), MergeTokens(keep=48)):
        applied(planned(step, model), model)
    assert torch.equal(model(images(), masks()).x, said) and torch.equal(own(family)(images()).x, said)


@torch.no_grad()
def test_mask_tome_spares_the_person_and_the_prefix(family):
    """Laws 2 and 3: 48 patches come down to 20, of which the person's 12 and the prefix keep tokens of their own."""
    model, prefix = own(family), network(family)[2]
    applied(planned(MergeTokens(keep=20, per_layer=12), model), model)
    tokens = model(images(), masks())
    assert tokens.x.shape[1] == prefix + 20
    assert tokens.size[:, prefix:].sum(1).tolist() == [48] * 3 and (tokens.size[:, :prefix] == 1).all()
    place, person = tokens.source, masks()[:, ::PATCH, ::PATCH].flatten(1)
    assert (place >= prefix).all()
    assert (tokens.size.gather(1, place)[person] == 1).all()
    assert tokens.to_grid().shape == (3, DIM, *GRID)
    alone = torch.cat([model(images()[i : i + 1], masks()[i : i + 1]).x for i in range(3)])
    torch.testing.assert_close(tokens.x, alone, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_grid_has_each_patch_the_features_of_its_token(family):
    model = own(family, head_needs="grid")
    applied(planned(MergeTokens(keep=20, per_layer=14, protect="none"), model), model)
    tokens = model(images())
    grid = tokens.to_grid()
    for frame in range(3):
        for patch in range(math.prod(GRID)):
            assert torch.equal(grid[frame, :, patch // 6, patch % 6], tokens.x[frame, tokens.source[frame, patch]])
    with pytest.raises(BadInput, match="full grid"):
        planned(MergeTokens(keep=20, mode="drop"), own(family, head_needs="grid"))


@torch.no_grad()
def test_layers_merge_in_the_users_module_under_the_same_keys(family):
    model = own(family)
    before = set(model.state_dict())
    applied(planned(MergeLayers(strategy="explicit", operator="drop", windows=((1, 2),)), model), model)
    assert len(model.stack.blocks) == 3 and set(model.state_dict()) < before
    by_hand, blocks, _ = network(family)
    left = by_hand.get_submodule(blocks)
    del left[2]
    # in float64: the last bit of a float32 product differs between CPUs, and can tip a rounding of bfloat16 rotations
    found, wanted = model.double()(images().double()).x, by_hand.double()(images().double())
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_cost_counts_each_part_once(family):
    model = own(family)
    model.reader = lambda own, tokens: tokens.x
    counted = cost(model, images(1))
    assert counted.params == sum(p.numel() for p in model.parameters()) == sum(p.params for p in counted.parts)
    assert counted.layers == DEPTH and counted.macs.true == sum(p.macs.true for p in counted.parts)


@pytest.mark.parametrize("ranges", ["separate", "max", "min"])
@torch.no_grad()
def test_merged_tokens_are_turned_to_the_mean_of_their_patches(ranges):
    """Positions of merged tokens by brute force: each angle from the mean row and column of a token's patches."""
    model = own("dinov3")
    model.module.rope_embed.normalize_coords = ranges
    applied(planned(MergeTokens(keep=15, per_layer=12), model), model)
    tokens = model(images(), masks())
    rope: Rope = model.module.rope_embed  # type: ignore[assignment]
    sin, cos = rope_at(rope, tokens)
    lengths = {"separate": GRID, "max": (8, 8), "min": (6, 6)}[ranges]
    assert tokens.size.max() > 2
    for frame in range(3):
        for token in range(5, tokens.x.shape[1]):
            held = (tokens.source[frame] == token).nonzero()[:, 0].tolist()
            place = (sum(p // 6 for p in held) / len(held), sum(p % 6 for p in held) / len(held))
            wanted = angle(rope, place, lengths)
            torch.testing.assert_close(sin[frame, 0, token - 5], wanted.sin(), rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(cos[frame, 0, token - 5], wanted.cos(), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_attention_of_merged_tokens_is_that_of_their_own_positions():
    """A block of DINOv3 on merged tokens, against its own forward with brute-force sines and cosines, by frame."""
    model = own("dinov3")
    applied(planned(MergeTokens(keep=15, per_layer=12), model), model)
    tokens, rope, block = model(images(), masks()), model.module.rope_embed, model.stack.blocks[0]
    update = model.stack.attend(block, tokens)[0]
    for frame in range(3):
        angles = []
        for token in range(5, tokens.x.shape[1]):
            held = (tokens.source[frame] == token).nonzero()[:, 0].float()
            angles.append(angle(rope, ((held // 6).mean().item(), (held % 6).mean().item()), GRID))
        turned = torch.stack(angles)
        x = tokens.x[frame : frame + 1]
        wanted = block.ls1(block.attn(block.norm1(x), (turned.sin(), turned.cos())))
        torch.testing.assert_close(update[frame : frame + 1], wanted, rtol=1e-4, atol=1e-4)


def test_unmerged_positions_are_the_modules_own_to_the_bit():
    for dtype in (torch.float32, torch.bfloat16):
        rope = Rope("separate", dtype)
        tokens = Tokens.of(torch.zeros(1, 5 + math.prod(GRID), DIM), GRID, 5)
        assert all(torch.equal(a[0, 0], b) for a, b in zip(rope_at(rope, tokens), rope(*GRID), strict=True))


@torch.no_grad()
def test_artefact_of_a_users_model_comes_back_into_their_own_module(family, tmp_path):
    """It comes back with no data, no search and no builder of ours."""
    model, plans = own(family), []
    for step in (MergeLayers(strategy="explicit", windows=((1, 2),)), MergeTokens(keep=20, per_layer=14)):
        plans.append(planned(step, model))
        applied(plans[-1], model)
    base = artefact.Base(name=family, architecture="their own", sizes={}, sha256="0" * 64)
    origin = artefact.Origin(base=base, seed=0, commit="", versions={})
    artefact.save(tmp_path / "out", model, plans, origin, "", "")
    fresh = own(family)
    for value in fresh.parameters():
        value.zero_()
    found = artefact.load(tmp_path / "out", fresh)
    assert torch.equal(found(images(), masks()).x, model(images(), masks()).x)


class RelativeBias(Block):
    def __init__(self) -> None:
        super().__init__()
        self.attn.rel_pos = nn.Parameter(torch.zeros(4, 4))


class Parallel(Block):
    """The weights of a pre-norm block, used side by side."""

    def forward(self, x: Tensor, rope: None = None) -> Tensor:
        return x + self.attn(self.norm1(x)) + self.mlp(self.norm2(x))


class Windowed(Block):
    def forward(self, x: Tensor, rope: None = None, *, window: int) -> Tensor:
        return super().forward(x)


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)


@pytest.mark.parametrize(
    "kind, words",
    [
        (RelativeBias, "RelativeBias blocks .* attn.rel_pos has no place"),
        (Parallel, "Parallel blocks do more than"),
        (Windowed, "Windowed blocks cannot be run on tokens alone .*window"),
        (Convolution, "Convolution blocks .* no norm1; no attn.qkv"),
    ],
)
def test_what_is_not_recognised_is_named(kind, words):
    module = ViTPose()
    module.blocks = nn.ModuleList(kind() for _ in range(2))
    with pytest.raises(BadInput, match=words):
        stack_from(module, "blocks")


def test_the_rest_of_a_backbone_is_asked_for_where_it_is_not_found():
    lone = nn.Module()
    lone.blocks = nn.ModuleList(Block() for _ in range(2))
    with pytest.raises(BadInput, match=r"has no 'backbone\.blocks'"):
        stack_from(lone)
    with pytest.raises(BadInput, match="give embed="):
        stack_from(lone, "blocks")
    known = {"embed": lambda crop: crop.flatten(2).transpose(1, 2)}
    with pytest.raises(BadInput, match="give patch="):
        stack_from(lone, "blocks", **known)
    with pytest.raises(BadInput, match="give norm="):
        stack_from(lone, "blocks", **known, patch=1)
    crop = torch.randn(1, DIM, 2, 3)
    tokens = encode(stack_from(lone, "blocks", **known, patch=1, norm=""), crop)
    x = crop.flatten(2).transpose(1, 2)
    for block in lone.blocks:
        x = block(x)
    torch.testing.assert_close(tokens.x, x, rtol=1e-5, atol=1e-5)
    lone.rope = SimpleNamespace()  # type: ignore[assignment]
    with pytest.raises(BadInput, match="Block blocks: rotary positions of rope"):
        stack_from(lone, "blocks", **known, patch=1, norm="")


@torch.no_grad()
def test_a_copy_is_whole_and_so_is_one_from_another_process(family):
    """No patched classes: what makes the first tokens is the copy's own, and a model can be pickled."""
    model = own(family)
    said, copied = model(images(), masks()).x, copy.deepcopy(model)
    for value in model.parameters():
        value.zero_()
    assert torch.equal(copied(images(), masks()).x, said)
    stack = copied.stack
    again = pickle.loads(pickle.dumps(stack))
    assert torch.equal(encode(again, images()).x, encode(stack, images()).x)


def test_norms_without_weights_are_norms():
    module = ViTPose()
    for block in module.blocks:
        block.norm1, block.norm2 = (nn.LayerNorm(DIM, elementwise_affine=False) for _ in range(2))
    tokens = encode(stack_from(module.eval(), "blocks"), images())
    torch.testing.assert_close(tokens.x, module(images()), rtol=1e-5, atol=5e-5)


def test_blocks_of_several_kinds_are_refused():
    module = ViTPose()
    module.blocks[1] = Parallel()
    with pytest.raises(BadInput, match="several kinds, which cannot merge: Block, Parallel"):
        stack_from(module, "blocks")
