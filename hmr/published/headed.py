"""A ViT of a package with a head of the user's, as two small classes that say the rest: which package, which head."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any, ClassVar

from torch import Tensor, nn

from compress.errors import BadInput
from compress.tokens import Tokens
from hmr.adapters.adapter import Adapter
from hmr.published.parts.weights import checkpoint, filled


class HeadedNetwork(nn.Module):
    """Crops (B, 3, H, W) -> what the head makes of finished tokens (B, N, C), class and register tokens first."""

    def __init__(self, vit: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.vit, self.head = vit, head

    def forward(self, crop: Tensor) -> Any:
        return self.head(tokens_of(self.vit, crop))


def tokens_of(vit: Any, crop: Tensor) -> Tensor:
    """The finished tokens, as timm's networks and transformers' give them."""
    if hasattr(vit, "forward_features"):
        tokens: Tensor = vit.forward_features(crop)
    else:
        tokens = vit(crop).last_hidden_state
    return tokens


class HeadedViT(Adapter):
    """What `TimmViT` and `TransformersViT` have in common; a class of the user's adds `size`, `head` and `joints`."""

    network: ClassVar[str]  # by the name that the package has for it
    checkpoint: ClassVar[str] = ""  # of the head alone, by its own keys; "": as `head` makes it

    def vit(self) -> nn.Module:
        """The backbone with its weights."""
        raise NotImplementedError

    def head(self, dim: int) -> nn.Module:
        """What takes finished tokens (B, N, dim), merged or not."""
        raise NotImplementedError

    def load(self) -> HeadedNetwork:
        """Raises BadInput where the package, its network or the head's weights are not there, or do not fit."""
        vit: Any = self.vit()
        head = self.head(getattr(vit, "embed_dim", None) or vit.config.hidden_size)
        if self.checkpoint:
            source = checkpoint(self.checkpoint, "wherever the head was trained")
            filled(head, source.state, source.path)
        return HeadedNetwork(vit, head).eval()

    def read(self, model: Any, tokens: Tokens) -> Any:
        return model.head(tokens.x)


def package_of(name: str) -> ModuleType:
    """An installed package; raises BadInput that says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BadInput(f"this adapter's network is one of {name} ({error}): pip install {name}") from error
