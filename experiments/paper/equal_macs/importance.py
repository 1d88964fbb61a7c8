"""Models whose encoder saves otherwise than by a step of `compress`: the material of `levers.py`.

Tokens are ranked by their norm or by what attends to them, with a person mask or without one, and the last of the
ranking are dropped, or the first of it merge last; or a picture is made smaller.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.cost.macs import macs, operators
from compress.policies.merge_tokens import merges_to
from compress.ranking.budget import block_sizes, prefix_of
from compress.stack import Schedule, encode, through
from compress.tokens import Tokens, coverage, nearness
from hmr.models.cost import frame

SPARED = 64  # patches that merge last, the first of a ranking
PER_LAYER = 40  # merge in a block
LEAST_MERGED = 36  # patches that are left at least: 192, 152, 112, 72, of which half merge at most


@dataclass(frozen=True)
class Ranking:
    """By what patches are ranked, and where.

    `score`: the norm of a token; the attention of the class token to it in block `at` - 1; that of the head's first
    query to the tokens before block `at`; or `whole`, that of all layers of the head to the finished tokens of a pass
    of its own, which no saving could pay for: what such attention could give at most. `rings`: None where no mask is
    looked at; else the person's patches come first, then so many rings around them, and the score decides within.
    """

    score: Literal["norm", "class", "query", "whole"]
    at: int = 0  # blocks that see every token
    sign: Literal[1, -1] = 1  # -1: the lowest score first
    rings: int | None = None


class LeverModel(nn.Module):
    """An HMR model whose encoder is another, by `encode`; heads and weights are the model's own."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def encode(self, crop: Tensor, mask: Tensor | None = None) -> Tokens:
        """As the model's."""
        raise NotImplementedError

    def read(self, tokens: Tokens, condition: Tensor | None = None) -> Any:
        return self.model.read(tokens, condition)

    def forward(self, crop: Tensor, mask: Tensor | None = None, condition: Tensor | None = None) -> Any:
        return self.read(self.encode(crop, mask), condition)


class RankedModel(LeverModel):
    """Patches behind the first `keep` of a ranking are dropped; or `keep` are left after merging, the first SPARED of
    the ranking last."""

    def __init__(self, model: Any, ranking: Ranking, keep: int, merge: bool = False) -> None:
        super().__init__(model)
        self.ranking, self.keep, self.merge = ranking, keep, merge

    def encode(self, crop: Tensor, mask: Tensor | None = None) -> Tokens:
        stack, at = self.model.stack, self.ranking.at
        tokens, attended = stack.embed(crop), None
        for i, block in enumerate(stack.blocks[:at]):
            update, keys = stack.attend(block, tokens)
            if i == at - 1 and self.ranking.score == "class":
                attended = class_attention(block, tokens, keys)
            tokens = replace(tokens, x=tokens.x + update)
            tokens = replace(tokens, x=tokens.x + stack.feed(block, tokens.x))
        places = places_in(self.scores(crop, tokens, attended), self.near(mask, tokens))
        if self.merge:
            schedule = Schedule(merges_to(self.keep, places.shape[1], PER_LAYER))
            return stack.finish(through(stack, stack.blocks[at:], tokens.protecting(places < SPARED), schedule))
        return stack.finish(through(stack, stack.blocks[at:], first_of(tokens, places, self.keep)))

    def scores(self, crop: Tensor, tokens: Tokens, attended: Tensor | None) -> Tensor:
        """Of each patch (B, N0), higher ones first."""
        ranking, head = self.ranking, self.model.head
        if attended is not None:
            found = attended
        elif ranking.score == "norm":
            found = tokens.x[:, tokens.prefix :].norm(dim=-1)
        elif ranking.score == "query":
            found = query_attention(head, self.model.stack.finish(tokens).x, 1)[:, tokens.prefix :]
        else:
            whole = encode(self.model.stack, crop)
            found = query_attention(head, whole.x, len(head.transformer.transformer.layers))[:, whole.prefix :]
        return ranking.sign * found

    def near(self, mask: Tensor | None, tokens: Tokens) -> Tensor:
        """How near each patch is to the person (B, N0), as far as the ranking asks for it."""
        if self.ranking.rings is None or mask is None:
            return torch.zeros_like(tokens.source)
        return nearness(coverage(mask, tokens.grid) > 0, tokens.grid, self.ranking.rings)


def places_in(scores: Tensor, near: Tensor) -> Tensor:
    """The place of each patch (B, N0) in the ranking, 0 the first: the nearest first, then the highest score."""
    patches = scores.shape[1]
    rank = scores.argsort(1).argsort(1)  # (B, N0)
    return (near * patches + rank).argsort(1, descending=True).argsort(1)


def first_of(tokens: Tokens, places: Tensor, keep: int) -> Tokens:
    """The prefix and the `keep` patches that come first, in the picture's order; places (B, N0)."""
    index = tokens.prefix + places.topk(keep, largest=False).indices.sort(1).values
    prefix = torch.arange(tokens.prefix, device=index.device).expand(len(index), -1)
    return tokens.kept(torch.cat((prefix, index), 1))


def class_attention(block: Any, tokens: Tokens, keys: Tensor) -> Tensor:
    """How much the class token attends to each patch (B, N0) in a block of DINOv2, the mean over heads: its query alone
    is computed again. keys (B, H, N, d)."""
    heads, width = keys.shape[1], keys.shape[1] * keys.shape[3]
    project = block.attn.qkv
    query = F.linear(block.norm1(tokens.x[:, :1]), project.weight[:width], project.bias[:width])  # (B, 1, H d)
    return attending(query.unflatten(-1, (heads, -1)).transpose(1, 2), keys)[:, tokens.prefix :]


def query_attention(head: Any, context: Tensor, layers: int) -> Tensor:
    """How much the head's query attends to tokens (B, N, C) in its first `layers`: (B, N), the mean over layers and
    heads."""
    decoder, start = head.transformer, head.init_body_pose.new_zeros(len(context), 1, 1)
    x, total = decoder.to_token_embedding(start) + decoder.pos_embedding, context.new_zeros(context.shape[:2])
    for i, (own, cross, feed) in enumerate(decoder.transformer.layers[:layers]):
        x = x + own(x, context)
        reads = cross.fn
        query, key = reads.to_q(cross.norm(x)), F.linear(context, reads.to_kv.weight.chunk(2)[0])
        total = total + attending(*(t.unflatten(-1, (reads.heads, -1)).transpose(1, 2) for t in (query, key)))
        if i < layers - 1:  # what comes behind the last one is of no use here
            x = x + cross(x, context)
            x = x + feed(x, context)
    return total / layers


def attending(query: Tensor, keys: Tensor) -> Tensor:
    """Softmax attention of one query (B, H, 1, d) to keys (B, H, N, d), the mean over heads (B, N)."""
    return (query @ keys.mT * query.shape[-1] ** -0.5).softmax(-1).mean(1)[:, 0]


class SmallerPicture(LeverModel):
    """The picture resized so that it has another `grid` of patches (rows, columns), and the position embedding too."""

    def __init__(self, model: Any, grid: tuple[int, int]) -> None:
        super().__init__(model)
        self.grid = grid

    def encode(self, crop: Tensor, mask: Tensor | None = None) -> Tokens:
        size = [n * wide // old for n, wide, old in zip(self.grid, crop.shape[2:], self.model.grid, strict=True)]
        if size != list(crop.shape[2:]):
            crop = F.interpolate(crop, size=size, mode="bilinear", antialias=True, align_corners=False)
        return encode(self.model.stack, crop)


def macs_of(model: Any) -> int:
    """True multiply-accumulates of one frame, counted on a trace; a pass that only ranks, as `whole` does, is left
    out."""
    if isinstance(model, RankedModel) and model.ranking.score == "whole":
        model = RankedModel(model.model, replace(model.ranking, score="norm"), model.keep, model.merge)
    plain = model.model if isinstance(model, LeverModel) else model
    return macs(operators(model, *frame(plain))[""]).true


def saved_macs(model: Any, keep: int, at: int = 0, merge: bool = False) -> int:
    """True multiply-accumulates that go, by the closed formula, where patches drop or merge to `keep` behind the first
    `at` blocks; without what it takes to rank them."""
    sizes, prefix, patches = block_sizes(model), prefix_of(model), model.grid[0] * model.grid[1]
    merges = merges_to(keep, patches, PER_LAYER) if merge else ()
    left = Schedule(merges, 0 if merge else patches - keep).counts(patches, len(sizes) - at)
    before = [patches, *left] if merge else left
    reads = [layer[1].fn.to_kv for layer in model.head.transformer.transformer.layers]
    gone = (patches - keep) * model.head.iterations * sum(one.weight.numel() + one.out_features for one in reads)
    for size, mine, after in zip(sizes[at:], before, left, strict=False):
        whole = size.macs(prefix + patches, prefix + patches, size.heads, size.hidden)
        gone += whole - size.macs(prefix + mine, prefix + after, size.heads, size.hidden)
    return int(gone)


def most_within(make: Callable[[int], Any], model: Any, wanted: int, at: int = 0, merge: bool = False) -> int:
    """The largest number of patches left with which `make(number)` takes at most `wanted` MACs: looked for by the
    closed formula of `model`, and counted. Raises ValueError where there is none."""
    numbers, whole = range(LEAST_MERGED if merge else 1, model.grid[0] * model.grid[1]), macs_of(model)

    def fitting(more: int) -> int:  # how many of `numbers` do, where ranking takes `more`
        return bisect_right(numbers, wanted - more - whole, key=lambda n: -saved_macs(model, n, at, merge))

    guess = numbers[max(0, fitting(0) - 1)]
    left = fitting(macs_of(make(guess)) - whole + saved_macs(model, guess, at, merge))
    while left and macs_of(make(numbers[left - 1])) > wanted:
        left -= 1
    if not left:
        raise ValueError(f"behind {at} blocks no number of patches takes as few as {wanted} MACs")
    return numbers[left - 1]
