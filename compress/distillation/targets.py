"""What a student follows: its teacher's tokens, after some blocks and finished."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol, cast

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from compress.frames import Pictures
from compress.policy import Compressible
from compress.stack import after_each, entering, transformer_blocks
from compress.tokens import Tokens

KEPT_BYTES = 4 << 30  # of the teacher's tokens


class Recoverable(Compressible, Protocol):
    """A model whose forward pass is `read` of what its stack makes of `crop`, around `person`."""

    def person(self, crop: Tensor, mask: Tensor | None) -> Tensor | None:
        """How far each patch of crops (B, 3, H, W) is the person's (B, N0), by masks (B, H, W); None where no token is
        reduced by those."""

    @property
    def read(self) -> Callable[..., Any]:
        """The model's output, from its finished tokens and whatever else it asks for."""


def matched(student: Recoverable, teacher: Recoverable) -> tuple[int, ...]:
    """The blocks after which tokens are compared too, a third and two thirds of the way up: none where a block is
    missing or became a map, or where there are only a few."""
    depth, left = len(teacher.stack.blocks), len(transformer_blocks(student.stack))
    return (depth // 3 - 1, 2 * depth // 3 - 1) if depth == left and depth >= 6 else ()


def seen(model: Recoverable, crop: Tensor, mask: Tensor | None, places: Sequence[int]) -> list[Tokens]:
    """A model's tokens after some blocks, and the finished ones."""
    tokens = entering(model.stack, crop, model.person(crop, mask), model.schedule)
    every = list(after_each(model.stack, model.stack.blocks, tokens, model.schedule))
    return [*(every[place] for place in places), model.stack.finish(every[-1])]


class Targets:
    """The teacher's tokens of each crop, computed once: half of a step's time where they are not kept.

    Crops go through the teacher in groups, always the same, since the last bit of a product may depend on the batch:
    so a training that goes on, with nothing kept, sees the same targets. Where they are more than KEPT_BYTES, each
    step computes its own.
    """

    def __init__(
        self, teacher: Recoverable, places: Sequence[int], crops: Pictures, groups: list[list[int]], bfloat16: bool
    ) -> None:
        self.teacher, self.places, self.crops, self.bfloat16 = teacher, places, crops, bfloat16
        self.device = next(cast(nn.Module, teacher).parameters()).device
        self.groups, self.kept = groups, dict[int, list[Tokens]]()
        self.group_of = {i: group for group, members in enumerate(groups) for i in members}

    def read(self, chosen: list[int]) -> tuple[tuple[Any, ...], list[Tokens]]:
        """What `Pictures.read` gives of some crops, and their tokens."""
        given = self.crops.read(chosen)
        if not self.fit:
            return given, self.of(given)
        for group in sorted({self.group_of[i] for i in chosen if i not in self.kept}):
            members = self.groups[group]
            found = self.of(given if members == chosen else self.crops.read(members))
            self.kept |= {i: [tokens.row(place) for tokens in found] for place, i in enumerate(members)}
        return given, [Tokens.joined(rows) for rows in zip(*(self.kept[i] for i in chosen), strict=True)]

    @torch.no_grad()
    def of(self, given: tuple[Any, ...]) -> list[Tokens]:
        """The tokens of what `Pictures.read` gave."""
        crop, mask, *_ = send_to_device(given, self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            return seen(self.teacher, crop, mask, self.places)

    @cached_property
    def fit(self) -> bool:
        """Whether the tokens of all crops may be kept, by those of one."""
        one = self.of(self.crops.read(self.groups[0][:1]))
        return len(self.group_of) * sum(tokens.x.nbytes for tokens in one) <= KEPT_BYTES
