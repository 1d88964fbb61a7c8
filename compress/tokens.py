"""Tokens of a picture, and the two ways to have fewer of them: merge the most similar, or drop.

Everything here is static: token counts follow from the numbers that are asked for, never from what a picture shows, and
a frame's result does not depend on the frames beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.errors import BadInput

Partition = Literal["parity", "unprotected"]
DROPPED = -1
LISTS = ("x", "size", "protected", "source")  # the fields of tokens that have a row for each frame
# A step between the tiers of pairs (no, one, two protected tokens) that no cosine, -1..1, can climb. Not -inf: among
# equal scores a sort picks at random, and then protected tokens merge while unprotected ones are left.
TIER = 4.0


@dataclass(frozen=True)
class Tokens:
    """A batch of token lists, each knowing which patches it stands for. The first `prefix` tokens are no patches."""

    x: Tensor  # (B, N, C) features
    size: Tensor  # (B, N) patches each token stands for; over the patch tokens they sum to N0 unless some were dropped
    protected: Tensor  # (B, N) bool: tokens of the person mask, and prefix tokens
    source: Tensor  # (B, N0) index of the token that now holds each original patch; DROPPED where it is gone
    grid: tuple[int, int]
    prefix: int = 0
    dropped: bool = False

    @classmethod
    def of(cls, x: Tensor, grid: tuple[int, int], prefix: int = 0) -> Tokens:
        """Fresh tokens x (B, prefix + rows * columns, C), one a patch, none but the prefix protected."""
        batch, count, _ = x.shape
        if count != prefix + grid[0] * grid[1]:
            raise ValueError(f"{count} tokens are not {prefix} and a grid of {grid[0]} x {grid[1]}")
        place = torch.arange(count, device=x.device).expand(batch, count)
        return cls(x, x.new_ones(batch, count), place < prefix, place[:, prefix:], grid, prefix)

    @classmethod
    def joined(cls, parts: Sequence[Tokens]) -> Tokens:
        """The token lists of several batches, of equal counts, as one batch."""
        lists: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts]) for name in LISTS}
        return replace(parts[0], **lists)

    def row(self, index: int) -> Tokens:
        """A batch of one token list."""
        lists: dict[str, Any] = {name: getattr(self, name)[index : index + 1] for name in LISTS}
        return replace(self, **lists)

    def protecting(self, patches: Tensor) -> Tokens:
        """The same tokens with patches (B, N0) bool protected too; for tokens that stand for one patch each."""
        if patches.shape != self.source.shape:
            raise ValueError(f"protected patches are {tuple(patches.shape)}, the tokens' {tuple(self.source.shape)}")
        return replace(self, protected=torch.cat((self.protected[:, : self.prefix], patches), 1))

    def reduced(self, assign: Tensor, count: int) -> Tokens:
        """Merge: token i goes to place assign[:, i] (B, N) of `count`; features are means weighted by size."""
        batch, _, width = self.x.shape
        size = self.size.new_zeros(batch, count).scatter_add_(1, assign, self.size)
        # Add and divide: scatter_reduce("mean") exports to ONNX without an error and with wrong numbers.
        weighted = (self.x * self.size[..., None].to(self.x.dtype)).flatten(0, 1)  # (B * N, C)
        x = weighted.new_zeros(batch * count, width).index_add_(0, rows(assign, count).flatten(), weighted)
        x = x.unflatten(0, (batch, count))
        held = torch.zeros_like(size).scatter_add_(1, assign, self.protected.to(size.dtype))
        return replace(
            self,
            x=x.div_(size[..., None].to(x.dtype)),  # in place, as above: fresh memory costs more than the division
            size=size,
            protected=held > 0,
            source=moved(self.source, assign) if self.dropped else assign.gather(1, self.source),
        )

    def kept(self, index: Tensor) -> Tokens:
        """Drop: only the tokens index (B, K), in that order, remain; prefix tokens must be among the first."""
        place = torch.full_like(self.size, DROPPED, dtype=torch.long)
        place = place.scatter(1, index, torch.arange(index.shape[1], device=index.device).expand_as(index))
        return replace(
            self,
            x=taken(self.x, index),
            size=self.size.gather(1, index),
            protected=self.protected.gather(1, index),
            source=moved(self.source, place),
            dropped=True,
        )

    def to_grid(self) -> Tensor:
        """Each patch's token back at its place: (B, C, rows, columns), right after any merge.

        Raises BadInput after a drop: what is gone has no features.
        """
        if self.dropped:
            raise BadInput("tokens were dropped and this head needs the full grid: use mode: merge instead of drop")
        full = taken(self.x, self.source)  # (B, N0, C)
        return full.transpose(1, 2).unflatten(2, self.grid)  # (B, C, rows, columns)

    def positions(self) -> Tensor:
        """Row and column (B, N, 2) of each token: the mean over the patches it stands for; prefix tokens are at 0."""
        lines = (torch.arange(n, device=self.x.device, dtype=torch.float32) for n in self.grid)
        patch = torch.stack(torch.meshgrid(*lines, indexing="ij"), -1).flatten(0, 1)  # (N0, 2)
        return self.averaged(patch)

    def averaged(self, values: Tensor) -> Tensor:
        """Mean (B, N, C) of values (B, N0, C), or (N0, C), over the patches each token stands for; 0 without any."""
        alive = (self.source != DROPPED)[..., None].to(values.dtype)  # (B, N0, 1)
        index, kept = self.source.clamp_min(0)[..., None], values * alive
        count = values.new_zeros(*self.size.shape, 1).scatter_add(1, index, alive)
        total = values.new_zeros(*self.size.shape, values.shape[-1])
        return total.scatter_add(1, index.expand_as(kept), kept) / count.clamp_min(1)


def moved(source: Tensor, place: Tensor) -> Tensor:
    """source (B, N0) after token i went to place[:, i] (B, N); DROPPED stays DROPPED."""
    return torch.where(source == DROPPED, source, place.gather(1, source.clamp_min(0)))


class Matching(NamedTuple):
    """One layer's merge as an index map."""

    assign: Tensor  # (B, N) the place of each token among the N - r that are left, in their old order
    score: Tensor  # (B, r) cosine of each pair that merges, less TIER for each protected token in it


def match(key: Tensor, protected: Tensor, r: int, *, prefix: int = 0, partition: Partition = "parity") -> Matching:
    """Bipartite soft matching (Bolya et al. 2023, Sec. 3) that spares protected tokens (FastHMR Sec. 3.2).

    key (B, N, d), protected (B, N) bool. Tokens are split into two sides, each token of one side finds the most similar
    (cosine) of the other, and exactly r pairs merge in every frame: unprotected ones first, the most similar first;
    then pairs with one protected token, then with two. Which of equal pairs merges is left open. `partition` parity
    splits by even and odd place in the whole list, prefix included, as the paper's code does; unprotected splits the
    unprotected tokens evenly, so that a lopsided mask wastes no pair. Prefix tokens never merge. Raises ValueError
    where r pairs do not exist.
    """
    a, b = sides(protected, prefix, partition)
    if not 0 <= r <= (b.shape[1] and a.shape[1]):
        count = a.shape[1] + b.shape[1]
        raise ValueError(f"{r} pairs cannot merge: one matching of {count} tokens has {a.shape[1]} pairs")
    key = key.float()
    unit = key / torch.linalg.vector_norm(key, dim=-1, keepdim=True).clamp_min_(1e-12)
    spared = protected.float()
    if partition == "parity":  # views: two copies cost as much as the product
        even, odd = prefix + prefix % 2, prefix + 1 - prefix % 2
        (left, right), (one, other) = ((of[:, even::2], of[:, odd::2]) for of in (unit, spared))
    else:
        left, right, one, other = taken(unit, a), taken(unit, b), spared.gather(1, a), spared.gather(1, b)
    scores = torch.baddbmm(other[:, None], left, right.mT, beta=-TIER)  # (B, A, B)
    best, partner = scores.max(-1)
    # What a token's own protection takes is the same for every partner. Not a sort, which takes three times as long.
    best, chosen = best.float().sub_(one, alpha=TIER).topk(r)  # (B, r)
    source, target = a.gather(1, chosen), b.gather(1, partner.gather(1, chosen))
    survives = torch.ones_like(protected, dtype=torch.long).scatter_(1, source, 0)
    place = survives.cumsum_(1).sub_(1)  # (B, N): order is kept, so that the next layer's parity still means neighbours
    return Matching(place.scatter(1, source, place.gather(1, target)), best)


def sides(protected: Tensor, prefix: int, partition: Partition) -> tuple[Tensor, Tensor]:
    """Token indices (B, A) and (B, B) of the two sides of a matching: those of the first merge into the second."""
    batch, count = protected.shape
    if partition == "parity":
        places = torch.arange(count, device=protected.device).expand(batch, -1)
        return places[:, prefix + prefix % 2 :: 2], places[:, prefix + 1 - prefix % 2 :: 2]
    place = torch.arange(count - prefix, device=protected.device)
    # no two keys are equal: exporters and runtimes know no stable sort
    order = prefix + (protected[:, prefix:] * (count - prefix) + place).argsort(dim=1)  # (B, N - prefix)
    return order[:, ::2], order[:, 1::2]


def taken(x: Tensor, index: Tensor) -> Tensor:
    """Rows index (B, K) of x (B, N, d) -> (B, K, d)."""
    return x.flatten(0, 1)[rows(index, x.shape[1])]  # whole rows, see `rows`


def rows(index: Tensor, count: int) -> Tensor:
    """Places index (B, K) in lists of `count` tokens as rows (B, K) of the one list (B * count) of the whole batch.

    So torch copies and adds whole rows: 3 to 10 times as fast on a CPU as along dimension 1.
    """
    batch = index.shape[0]
    return index + torch.arange(0, batch * count, count, device=index.device)[:, None]


def coverage(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Share of each patch that a mask (B, H, W), bool or 0..1, covers: (B, rows * columns)."""
    return F.adaptive_avg_pool2d(mask.float()[:, None], grid).flatten(1)


def nearness(person: Tensor, grid: tuple[int, int], rings: int) -> Tensor:
    """How near each patch is to the person (B, N0): rings + 1 on it, `rings` in the ring of patches that touch it by a
    side or a corner, one less in each ring further out, 0 beyond the last. person (B, N0) bool."""
    grown = total = person.float().unflatten(1, grid)[:, None]  # (B, 1, rows, columns)
    for _ in range(rings):
        grown = F.max_pool2d(grown, 3, stride=1, padding=1)
        total = total + grown
    return total.flatten(1).long()
