"""A user's own transformer as a `compress.stack.Stack`: what its blocks do, part by part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from compress.errors import BadInput
from compress.late import PlacedBlocks
from compress.stack import Units
from compress.tokens import Tokens
from hmr.models.known.layouts import BlockLayout, Parts, units_of
from hmr.models.known.rope import Rope
from hmr.models.known.windows import attend_within, listed, window_of

Embed = Callable[[Tensor], Tensor]
Patches = Callable[[Tensor], tuple[int, int]]


class OwnStack(PlacedBlocks):
    """A `compress.stack.Stack` over a module that stays as it is: blocks that merge are replaced in it, under the keys
    they had. Updates are those of a finished model: no dropout, no stochastic depth, no jitter of positions.
    """

    def __init__(self, holder: nn.Module, place: str, layout: BlockLayout, embed: Embed, patches: Patches) -> None:
        super().__init__(holder, place)
        self.layout, self.to_tokens, self.patches = layout, embed, patches
        self.width = Parts(self.blocks[0]).width(layout)
        self.norm: nn.Module = nn.Identity()
        self.prefix_norm: nn.Module | None = None
        self.rope: Rope | None = None

    def embed(self, crop: Tensor) -> Tokens:
        """Crop (B, 3, H, W) -> tokens as the first block takes them; those before the patches are the prefix.

        Raises BadInput where there are fewer tokens than patches, or more before them than the module itself counts,
        and where windows do not cut the grid into whole ones.
        """
        x, grid = listed(self.to_tokens(crop), self.width), self.patches(crop)
        prefix = x.shape[1] - grid[0] * grid[1]
        if prefix < 0 or prefix != self.counted(prefix):
            raise BadInput(
                f"{x.shape[1]} tokens do not hold {grid[0]} x {grid[1]} patches and {self.counted(0)} before them: "
                "name patch= or embed=, or another size of crop"
            )
        for side in {*map(window_of, self.blocks)} - {0}:
            if prefix or grid[0] % side or grid[1] % side:
                raise BadInput(
                    f"{grid[0]} x {grid[1]} patches and {prefix} tokens before them do not divide into windows of "
                    f"{side} x {side}: choose a size of crop that does"
                )
        return Tokens.of(x, grid, prefix)

    def counted(self, otherwise: int) -> int:
        """Tokens before the patches, where the module that holds the blocks has their number, as timm's do."""
        count = getattr(self.holder, "num_prefix_tokens", otherwise)
        return count if isinstance(count, int) else otherwise

    def attend(self, block: nn.Module, tokens: Tokens, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `compress.stack.Stack.attend`. Keys are those before RoPE turns them: two tokens merge because they show
        the same, and turned keys differ by where they lie alone."""
        parts, layout = Parts(block), self.layout
        x = parts.run(layout.norm1, tokens.x.to(parts.dtype(layout.norm1)))
        q, k, v = self.projected(parts, x)
        turned = (q, k)
        if self.rope is not None:
            sin, cos = self.rope.at(tokens)
            turned = self.rope.rotated(q, sin, cos, tokens.prefix), self.rope.rotated(k, sin, cos, tokens.prefix)
        seen = attend_within(*turned, v, tokens, window_of(block), bias)
        update = seen.transpose(1, 2).flatten(2)  # (B, N, C)
        for name in (*layout.out, layout.scale1):
            update = parts.run(name, update)
        return update, k

    def projected(self, parts: Parts, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v (B, H, N, d) of normed tokens (B, N, C)."""
        layout, heads, shared = self.layout, parts.heads(self.layout), parts.key_heads(self.layout)
        found = torch.cat([parts.run(name, x) for name in layout.project], -1)  # (B, N, (H + 2 * shared) * d)
        if layout.bias:
            found = found + torch.cat([cast(Tensor, parts.get(name)) for name in layout.bias])
        width = found.shape[-1] // (heads + 2 * shared)  # d
        counts = (heads, shared, shared)
        every = zip(found.split([n * width for n in counts], -1), counts, (*layout.qk_norm, ""), strict=True)
        q, k, v = (normed(parts, name, of.unflatten(-1, (n, width))).transpose(1, 2) for of, n, name in every)
        if heads > shared:
            k, v = (of.repeat_interleave(heads // shared, 1) for of in (k, v))
        return q, k, v

    def feed(self, block: nn.Module, x: Tensor) -> Tensor:
        """As `compress.stack.Stack.feed`."""
        parts, layout = Parts(block), self.layout
        x = x.to(parts.dtype(layout.norm2))
        for name in (layout.norm2, *layout.mlp, layout.scale2):
            x = parts.run(name, x)
        return x

    def units(self, block: nn.Module) -> Units:
        """As `compress.stack.units_of` asks for them."""
        return units_of(block, self.layout)

    def finish(self, tokens: Tokens) -> Tokens:
        """The tokens after the last norm; DINOv3 may have another one for its prefix."""
        x = self.norm(tokens.x)
        if self.prefix_norm is not None:
            x = torch.cat((self.prefix_norm(tokens.x[:, : tokens.prefix]), x[:, tokens.prefix :]), 1)
        return replace(tokens, x=x)


def normed(parts: Parts, norm: str, x: Tensor) -> Tensor:
    """Queries or keys (B, N, H, d) after their norm, which is one of each head or one of all heads together."""
    wide = next((value.shape[-1] for value in getattr(parts.get(norm), "parameters", tuple)()), x.shape[-1])
    if wide == x.shape[-1]:
        return parts.run(norm, x)
    return parts.run(norm, x.flatten(-2)).unflatten(-1, x.shape[-2:])
