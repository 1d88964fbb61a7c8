"""What a compressed model is judged by: an error in mm of each frame, given its finished tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from compress.tokens import Tokens


class Judge(Protocol):
    """Frames that decide, in batches, and how wrong a model is on them.

    Every decision is taken on the same frames in the same batches, so that two models can be compared.
    """

    @property
    def crops(self) -> Sequence[Tensor]:
        """Batches (B, 3, H, W) as the model takes them, on its device."""

    @property
    def masks(self) -> Sequence[Tensor] | None:
        """The person masks (B, H, W) of each batch, or None where there are none."""

    def errors(self, index: int, tokens: Tokens) -> Tensor:
        """Error (B,) in mm of each frame of batch `index`, read from its finished tokens."""
