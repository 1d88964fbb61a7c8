"""A stretch of a stack: some of its blocks, run from tokens that are already there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from compress.stack import Stack, encode
from compress.tokens import Tokens


@dataclass
class Stretch:
    """A `Stack` of some `blocks` of another one. It starts from `tokens` and knows no last norm.

    So whatever runs a few blocks (a search that starts in the middle, a look at each layer) runs them as `encode` does.
    """

    stack: Stack
    blocks: nn.ModuleList
    tokens: Tokens

    def embed(self, crop: Tensor) -> Tokens:
        return self.tokens

    def attend(self, block: nn.Module, tokens: Tokens, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.stack.attend(block, tokens, bias)

    def feed(self, block: nn.Module, x: Tensor) -> Tensor:
        return self.stack.feed(block, x)

    def finish(self, tokens: Tokens) -> Tokens:
        return tokens


def through(stack: Stack, blocks: Iterable[nn.Module], tokens: Tokens) -> Tokens:
    """`tokens` after `blocks` of `stack`, before its last norm; nothing is merged or dropped on the way."""
    return encode(Stretch(stack, nn.ModuleList(blocks), tokens), tokens.x)
