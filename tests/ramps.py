"""Stacks, models and a judge that are small enough to be followed by hand."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import Any, Literal

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from compress.stack import Schedule
from compress.tokens import Tokens

WIDTH, GRID = 4, (2, 3)
strategies = st.sampled_from(["window", "greedy", "cka"])
operators = st.sampled_from(["slm", "mean", "drop"])


class Ramp(nn.Module):
    """A block that no other order of blocks replaces: x -> 7/8 x + v, and v is its own."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.v = nn.Parameter(torch.randn(WIDTH, generator=torch.Generator().manual_seed(number)))


class Ramps(nn.Module):
    """A stack of `depth` ramps that counts how often one runs."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Ramp(i) for i in range(depth))
        self.ran = 0

    def embed(self, crop: Tensor) -> Tokens:
        return Tokens.of(crop.flatten(2).transpose(1, 2)[:, :6, :1].expand(-1, -1, WIDTH).contiguous(), GRID)

    def attend(self, block: nn.Module, tokens: Tokens, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.ran += 1
        return -tokens.x / 8, tokens.x[:, None]

    def feed(self, block: Any, x: Tensor) -> Tensor:
        return block.v.expand_as(x)

    def finish(self, tokens: Tokens) -> Tokens:
        return replace(tokens, x=tokens.x * 3)


class Model(nn.Module):
    """Just enough of a model to be compressed."""

    head_needs: Literal["tokens", "grid"] = "tokens"
    grid = GRID
    protect: float | None = None
    stacks: dict[str, Any] = {}  # noqa: RUF012  # none, for all

    def __init__(self, stack: Any, dim: int = WIDTH) -> None:
        super().__init__()
        self.backbone, self.dim, self.schedule = stack, dim, Schedule()

    @property
    def stack(self) -> Any:
        return self.backbone


class Verdict:
    """A judge: crops of three batches, and any function of all finished tokens as error in mm."""

    masks = None

    def __init__(self, seed: int = 0, rule: str = "random", sizes: tuple[int, ...] = (3, 3, 2)) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.crops = [torch.randn(size, 3, 32, 48, generator=generator) for size in sizes]
        self.seed, self.rule = seed, rule
        self.first: dict[int, Tensor] = {}

    def errors(self, index: int, tokens: Tokens, model: Any = None) -> Tensor:
        original = self.first.setdefault(index, tokens.x)  # the first trial is the original model
        if torch.equal(original, tokens.x):
            return torch.full((len(tokens.x),), 50.0)
        if self.rule != "random":
            return torch.full((len(tokens.x),), {"never": 60.0, "always": 50.0}[self.rule])
        digests = [sha256(f"{self.seed}".encode() + x.numpy().tobytes()).digest() for x in tokens.x]
        return torch.tensor([50 - 0.4 + digest[0] / 255 for digest in digests])
