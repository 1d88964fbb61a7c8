"""What is left of an image encoder, block by block, and the steps of a recipe that leave it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from compress.policies.merge_layers import MergeLayers
from compress.policies.merge_tokens import MergeTokens
from compress.policies.prune_width import PruneWidth
from compress.policy import Policy
from compress.ranking.budget import BlockSize, Steps, block_sizes, prefix_of, windows_of

PARTS = 24  # tokens go in so many parts of the patches; a quarter of them stays
LEVERS = ("merge_layers", "prune_width", "merge_tokens")  # what leaves them out


@dataclass(frozen=True)
class EncoderSizes:
    """What of an image encoder recipes are made for."""

    sizes: Sequence[BlockSize]  # of the blocks that are no maps
    patches: int
    prefix: int  # tokens before the patches
    protect: bool  # whether masks spare the person
    drops: bool  # whether background can go before the first block

    @classmethod
    def of(cls, model: Any, protect: bool) -> EncoderSizes:
        drops = protect and model.head_needs != "grid"
        return cls(block_sizes(model), model.grid[0] * model.grid[1], prefix_of(model), protect, drops)

    @property
    def tokens(self) -> list[int]:
        """Numbers of patches that may be left, in rising order: a quarter at least."""
        return sorted({max(1, self.patches * n // PARTS) for n in range(PARTS // 4, PARTS + 1)})


@dataclass
class Layout:
    """What of a model is left. Blocks count from 0; of one that is a map, all other numbers are idle."""

    keep: int  # patches before the first block
    heads: list[int]
    hidden: list[int]
    merges: list[int]  # tokens that merge in each block
    mapped: set[int] = field(default_factory=set)

    def steps(self, encoder: EncoderSizes) -> Steps:
        """It as steps of a recipe. Tokens go before units, whose readers are fitted to the tokens that are left."""
        left = [i for i in range(len(encoder.sizes)) if i not in self.mapped]
        found: list[Policy] = []
        if self.mapped:
            found.append(MergeLayers(strategy="explicit", operator="linear", windows=windows_of(self.mapped)))
        merges = tuple(self.merges[i] for i in left)
        own: dict[str, Any] = {"merges": merges} if any(merges) else {}
        if self.keep < encoder.patches:
            found.append(MergeTokens(mode="drop", keep=self.keep, dilate=1, **own))
        elif own:
            own["protect"] = "mask" if encoder.protect else "none"
            found.append(MergeTokens(keep=encoder.patches - sum(merges), **own))
        heads, hidden = (tuple(each[i] for i in left) for each in (self.heads, self.hidden))
        if (heads, hidden) != tuple(
            tuple(getattr(encoder.sizes[i], name) for i in left) for name in ("heads", "hidden")
        ):
            found.append(PruneWidth(heads=heads, hidden=hidden, refit=True))
        return tuple(found)
