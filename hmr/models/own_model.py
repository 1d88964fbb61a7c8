"""A user's own transformer as a `compress.stack.Stack`: `stack_from` finds the parts of its blocks, or says what it
could not find.

Known block layouts: fused qkv (ViTPose, timm, DINOv2 and DINOv3 as their authors wrote them), and Hugging Face's ViT
and DINOv2 of transformers 4 and 5. Nothing is guessed: every weight of a block has to be accounted for, and the parts
put together have to give what the block itself gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from compress.artefact import Base, sha256, weights_of
from compress.cost.macs import Cost
from compress.errors import BadInput
from compress.policies.merge_layers import evaluating
from compress.policy import Compressible
from compress.stack import Schedule, Stack, encode
from compress.tokens import Tokens, coverage
from hmr.models.cost import frame_cost
from hmr.models.layouts import Layout, Parts, layout_of
from hmr.models.rope import rope_at, rope_of, rotated
from hmr.models.vit import attention

Embed = Callable[[Tensor], Tensor]
NORMS = ("last_norm", "norm", "layernorm")
PROBE = (2, 3)  # the grid that a block is tried on


class OwnStack:
    """A `compress.stack.Stack` over a module that stays as it is: blocks that merge are replaced in it, under the keys
    they had. Updates are those of a finished model: no dropout, no stochastic depth, no jitter of positions.
    """

    def __init__(
        self, holder: nn.Module, place: str, layout: Layout, embed: Embed, patches: Callable[[Tensor], tuple[int, int]]
    ) -> None:
        self.holder, self.place, self.layout = holder, place, layout
        self.to_tokens, self.patches = embed, patches
        self.norm: nn.Module = nn.Identity()
        self.prefix_norm: nn.Module | None = None
        self.rope: Any = None

    @property
    def blocks(self) -> nn.ModuleList:
        return cast(nn.ModuleList, self.holder.get_submodule(self.place))

    @blocks.setter
    def blocks(self, blocks: nn.ModuleList) -> None:
        setattr(self.holder, self.place, blocks)

    def embed(self, crop: Tensor) -> Tokens:
        """Crop (B, 3, H, W) -> tokens as the first block takes them; those before the patches are the prefix.

        Raises BadInput where there are fewer tokens than patches.
        """
        x, grid = self.to_tokens(crop), self.patches(crop)
        prefix = x.shape[1] - grid[0] * grid[1]
        if prefix < 0:
            raise BadInput(f"{x.shape[1]} tokens cannot hold {grid[0]} x {grid[1]} patches: name patch= or embed=")
        return Tokens.of(x, grid, prefix)

    def attend(self, block: nn.Module, tokens: Tokens, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `compress.stack.Stack.attend`. Keys are those before RoPE turns them: two tokens merge because they show
        the same, and turned keys differ by where they lie alone."""
        parts, layout = Parts(block), self.layout
        x = parts.run(layout.norm1, tokens.x.to(parts.dtype(layout.norm1)))
        q, k, v = self.projected(parts, x)
        turned = (q, k)
        if self.rope is not None:
            sin, cos = rope_at(self.rope, tokens)
            turned = rotated(q, sin, cos, tokens.prefix), rotated(k, sin, cos, tokens.prefix)
        update = attention(*turned, v, bias).transpose(1, 2).flatten(2)  # (B, N, C)
        for name in (*layout.out, layout.scale1):
            update = parts.run(name, update)
        return update, k

    def projected(self, parts: Parts, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v (B, H, N, d) of normed tokens (B, N, C)."""
        heads = parts.heads(self.layout)
        found = torch.cat([parts.run(name, x) for name in self.layout.project], -1)  # (B, N, 3 * H * d)
        q, k, v = found.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        for_q, for_k = self.layout.qk_norm or ("", "")
        return parts.run(for_q, q), parts.run(for_k, k), v

    def feed(self, block: nn.Module, x: Tensor) -> Tensor:
        """As `compress.stack.Stack.feed`."""
        parts, layout = Parts(block), self.layout
        x = x.to(parts.dtype(layout.norm2))
        for name in (layout.norm2, *layout.mlp, layout.scale2):
            x = parts.run(name, x)
        return x

    def finish(self, tokens: Tokens) -> Tokens:
        """The tokens after the last norm; DINOv3 may have another one for its prefix."""
        x = self.norm(tokens.x)
        if self.prefix_norm is not None:
            x = torch.cat((self.prefix_norm(tokens.x[:, : tokens.prefix]), x[:, tokens.prefix :]), 1)
        return replace(tokens, x=x)


def stack_from(
    module: nn.Module,
    blocks: str = "backbone.blocks",
    *,
    embed: Embed | None = None,
    patch: int | None = None,
    norm: str | None = None,
) -> Stack:
    """The blocks at `blocks` in a user's module as a `Stack`; the module itself is not changed.

    What cannot be found may be named: `embed`, crop (B, 3, H, W) -> tokens (B, prefix + patches, C) as the first block
    takes them, prefix tokens first; `patch`, pixels per token and side; `norm`, the last norm's dotted name ("": none).
    Raises BadInput that names the block's class and what was missed.
    """
    parent, _, place = blocks.rpartition(".")
    try:
        found, holder = module.get_submodule(blocks), module.get_submodule(parent)
    except AttributeError as error:
        raise BadInput(f"{type(module).__name__} has no {blocks!r} ({error}): name its list of blocks") from error
    if not isinstance(found, nn.ModuleList) or not len(found):
        raise BadInput(f"{blocks!r} of {type(module).__name__} is not a list of blocks but {type(found).__name__}")
    if len({type(block) for block in found}) > 1:
        names = ", ".join(sorted({type(block).__name__ for block in found}))
        raise BadInput(f"the blocks of {type(module).__name__} are of several kinds, which cannot merge: {names}")
    layouts = [layout_of(block) for block in found]
    owners = list(above(module, parent))
    stack = OwnStack(holder, place, layouts[0], embed or embedding(owners), patching(owners, patch))
    stack.norm = last_norm(module, owners, norm)
    owner = next((o for o in owners if isinstance(getattr(o, "cls_norm", None), nn.Module)), None)
    stack.prefix_norm = None if owner is None else cast(nn.Module, owner.cls_norm)
    stack.rope = rope_of(owners, type(found[0]).__name__)
    for block in found:
        prove(stack, block)
    return stack


def above(module: nn.Module, parent: str) -> Iterator[nn.Module]:
    """The module at `parent` and those around it, innermost first."""
    steps = parent.split(".") if parent else []
    for end in range(len(steps), -1, -1):
        yield module.get_submodule(".".join(steps[:end]))


def embedding(owners: list[nn.Module]) -> Embed:
    """How a known backbone makes its first tokens: its own function where it has one.

    No closure: a copy of the model has to ask the copy's layers, and a process it is sent to its own.
    """
    for owner in owners:
        if hasattr(owner, "prepare_tokens_with_masks"):  # DINOv2; DINOv3 tells the grid too
            return partial(dino_tokens, owner)
        if isinstance(getattr(owner, "embeddings", None), nn.Module):  # Hugging Face
            return cast(Embed, owner.embeddings)
        if hasattr(owner, "patch_embed") and hasattr(owner, "_pos_embed"):  # timm
            return partial(timm_tokens, owner)
        if hasattr(owner, "patch_embed") and hasattr(owner, "pos_embed") and not hasattr(owner, "cls_token"):
            return partial(vitpose_tokens, owner)
    names = ", ".join(type(owner).__name__ for owner in owners)
    raise BadInput(
        f"how {names} makes the first tokens was not recognised: no prepare_tokens_with_masks (DINO), embeddings "
        "(Hugging Face), _pos_embed (timm) or pos_embed without a cls_token (ViTPose); give embed="
    )


def first(value: Any) -> Tensor:
    return value[0] if isinstance(value, tuple | list) else value


def dino_tokens(owner: Any, crop: Tensor) -> Tensor:
    return first(owner.prepare_tokens_with_masks(crop))


def timm_tokens(owner: Any, crop: Tensor) -> Tensor:
    x = owner._pos_embed(owner.patch_embed(crop))
    for name in ("patch_drop", "norm_pre"):
        x = Parts(owner).run(name, x)
    return x


def vitpose_tokens(owner: Any, crop: Tensor) -> Tensor:
    x = first(owner.patch_embed(crop))
    x = x.flatten(2).transpose(1, 2) if x.ndim == 4 else x  # (B, C, rows, columns) -> (B, N, C)
    table = owner.pos_embed
    if table.shape[1] == x.shape[1]:
        return x + table
    return x + table[:, 1:] + table[:, :1]  # the place of a class token that is gone goes to every token


def patching(owners: list[nn.Module], patch: int | None) -> Callable[[Tensor], tuple[int, int]]:
    """How many rows and columns of patches a crop (B, 3, H, W) gives."""
    if patch is not None:
        return partial(square_grid, patch)
    for owner in owners:
        stem = getattr(owner, "patch_embed", None) or getattr(owner, "embeddings", None)
        convs = [m for m in stem.modules() if isinstance(m, nn.Conv2d)] if isinstance(stem, nn.Module) else []
        if len(convs) == 1 and not isinstance(convs[0].padding, str):
            return partial(conv_grid, convs[0])
    names = ", ".join(type(owner).__name__ for owner in owners)
    raise BadInput(f"the patches of {names} were not recognised (no single convolution makes them): give patch=")


def square_grid(patch: int, crop: Tensor) -> tuple[int, int]:
    return crop.shape[2] // patch, crop.shape[3] // patch


def conv_grid(conv: nn.Conv2d, crop: Tensor) -> tuple[int, int]:
    rows, columns = (
        (crop.shape[2 + i] + 2 * int(conv.padding[i]) - conv.kernel_size[i]) // conv.stride[i] + 1 for i in (0, 1)
    )
    return rows, columns


def last_norm(module: nn.Module, owners: list[nn.Module], norm: str | None) -> nn.Module:
    """The norm after the last block; the module that embeds has it, or one inside of that."""
    if norm is not None:
        return module.get_submodule(norm) if norm else nn.Identity()
    found = (getattr(owner, name, None) for owner in owners for name in NORMS)
    if (one := next((m for m in found if isinstance(m, nn.Module)), None)) is None:
        names = ", ".join(type(owner).__name__ for owner in owners)
        raise BadInput(f"no last norm ({', '.join(NORMS)}) was found in {names}: give norm=, or norm='' for none")
    return one


@torch.no_grad()
def prove(stack: OwnStack, block: nn.Module) -> None:
    """Raise BadInput where a block says something else of a few random tokens than its parts put together.

    That is how a block shows what its weights do not: another order, windows, parallel halves. On the meta device there
    is nothing to compare.
    """
    name = type(block).__name__
    # of the norm where that has weights: a projection may be in fewer bits than what goes through it
    parts = (Parts(block).get(name) for name in (stack.layout.norm1, stack.layout.project[0]))
    like = next(value for part in parts for value in cast(nn.Module, part).parameters())  # (C,) or (out, C)
    if like.is_meta:
        return
    noise = torch.randn(2, 1 + math.prod(PROBE), like.shape[-1], generator=torch.Generator().manual_seed(0))
    tokens = Tokens.of(noise.to(like), PROBE, 1)
    extra = () if stack.rope is None else (tuple(t[0, 0] for t in rope_at(stack.rope, tokens)),)
    with evaluating(cast(Compressible, block)):
        try:
            whole = first(block(tokens.x, *extra))
        except Exception as error:  # whatever a stranger's forward raises
            raise BadInput(f"{name} blocks cannot be run on tokens alone ({error})") from error
        x = tokens.x + stack.attend(block, tokens)[0]
        mine = x + stack.feed(block, x)
    limit = 1e-4 if like.dtype == torch.float32 else 5e-2
    off = float((mine - whole).norm() / whole.norm()) if mine.shape == whole.shape else math.nan
    if not off <= limit:
        raise BadInput(
            f"{name} blocks do more than x + attention(norm(x)), then x + MLP(norm(x)): put together from their parts "
            f"they differ by {off:.2g} of the output"
        )


class OwnModel(nn.Module):
    """A user's model as a `compress.policy.Compressible`: policies change its stack, schedule and mask threshold.

    read(module, tokens): the model's output from finished tokens. It is handed the module, so that a copy of the model
    reads with the copy's weights. `Tokens.x` holds prefix tokens first, and `to_grid()` gives every patch its features
    back (B, C, rows, columns) whatever was merged: a model that needs that has head_needs="grid". crop: (height, width)
    of the pictures. Other arguments as `stack_from`.
    """

    takes_clips = False
    compressed = False
    needs_condition = False
    sha256 = ""

    def __init__(
        self,
        module: nn.Module,
        read: Callable[[Any, Tokens], Any],
        crop: tuple[int, int],
        *,
        blocks: str = "backbone.blocks",
        head_needs: Literal["tokens", "grid"] = "tokens",
        **found: Any,
    ) -> None:
        super().__init__()
        self.name = self.architecture = type(module).__name__
        self.module, self.reader, self.head_needs, self.crop_size = module, read, head_needs, crop
        self._stack = stack_from(module, blocks, **found)
        self.schedule, self.protect = Schedule(), cast(float | None, None)
        like = next(module.parameters())
        with torch.no_grad(), evaluating(cast(Compressible, module)):
            tokens = self._stack.embed(torch.zeros(1, 3, *crop, dtype=like.dtype, device=like.device))
        self.dim, self.grid = tokens.x.shape[-1], tokens.grid

    @property
    def stack(self) -> Stack:
        """The blocks that are compressed."""
        return self._stack

    @property
    def base(self) -> Base:
        """What an artefact made from this model says of it; it comes back by `artefact.load(folder, own_model)`."""
        return Base(name=self.name, architecture=self.architecture, sizes={}, sha256=sha256(weights_of(self)))

    @property
    def encoder(self) -> OwnModel:
        """Itself."""
        return self

    def cost(self) -> Cost:
        """Parameters and multiply-accumulates of one crop."""
        return frame_cost(self)

    def forward(self, crop: Tensor, mask: Tensor | None = None) -> Any:
        """crop (B, 3, H, W), and the person mask (B, H, W) where tokens were reduced around it -> what `read` gives."""
        return self.read(self.encode(crop, mask))

    def read(self, tokens: Tokens) -> Any:
        """The model's output from finished tokens."""
        return self.reader(self.module, tokens)

    def encode(self, crop: Tensor, mask: Tensor | None = None) -> Tokens:
        """The finished tokens. Raises BadInput where a mask is needed and there is none."""
        if self.protect is None:
            return encode(self.stack, crop, None, self.schedule)
        if mask is None:
            raise BadInput("this model's tokens were reduced around the person: it needs a person mask for each crop")
        return encode(self.stack, crop, coverage(mask, self.grid) - self.protect, self.schedule)
