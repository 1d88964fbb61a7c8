"""A backbone under the key `encoder`, where authors keep it."""

from __future__ import annotations

from torch import Tensor, nn


class Encoder(nn.Module):
    """What it holds does all the work."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, crop: Tensor) -> Tensor:
        return self.encoder(crop)
