"""Stacks behind the image encoder, as a decoder's: blocks that a model's `read` runs by the model's own code."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from compress.choices import one_of
from compress.errors import BadInput
from compress.stack import LinearBlock, Units


class Call(NamedTuple):
    """One call of a block."""

    before: Tensor  # its tokens (B, Q, C), the first that it is given
    after: Tensor  # what it makes of them, the first that it returns
    passes: tuple[int, ...] | None  # places among what it is given of what it returns behind; None: it gives others
    alone: bool  # whether it returns its tokens and no tuple


class LateMap(LinearBlock):
    """A linear map called as the blocks it stands for: it looks at its tokens alone.

    passes: blocks that return a tuple give behind their tokens what they were given at these places, untouched; None:
    they return their tokens and no tuple.
    """

    passes: tuple[int, ...] | None = None

    def forward(self, *given: Any, **named: Any) -> Any:
        every = (*given, *named.values())
        x = super().forward(every[0])
        return x if self.passes is None else (x, *(every[i] for i in self.passes))


class PlacedBlocks:
    """A list of blocks in a module, which stays where the module's own forward finds it, under the keys it had."""

    def __init__(self, holder: nn.Module, place: str) -> None:
        self.holder, self.place = holder, place

    @property
    def blocks(self) -> nn.ModuleList:
        return cast(nn.ModuleList, self.holder.get_submodule(self.place))

    @blocks.setter
    def blocks(self, blocks: nn.ModuleList) -> None:
        in_sequence = isinstance(self.blocks, nn.Sequential)  # timm's forward calls it
        setattr(self.holder, self.place, nn.Sequential(*blocks) if in_sequence else blocks)


class LateStack(PlacedBlocks):
    """Blocks that `read` runs one after the other, with whatever it hands them beside their tokens.

    They merge, become maps of their tokens, get narrower and are computed in fewer bits as an image encoder's. Their
    tokens are queries, of which none merges with another.
    """

    def __init__(
        self,
        holder: nn.Module,
        place: str,
        units: Callable[[nn.Module], Units],
        dim: int,
        passes: tuple[int, ...] | None = (),
        alone: bool = True,
    ) -> None:
        """units: the heads and hidden units of a block. dim: features of its tokens. passes, alone: what its blocks
        return, see `Call`."""
        super().__init__(holder, place)
        self.units, self.dim, self.passes, self.alone = units, dim, passes, alone

    @classmethod
    def found(
        cls, holder: nn.Module, place: str, units: Callable[[nn.Module], Units], read: Callable[[], object]
    ) -> LateStack:
        """The stack at a place that `read` calls. Raises BadInput where that does not call all of its blocks, or hands
        them or gets from them no tokens."""
        blocks = list(PlacedBlocks(holder, place).blocks)
        with calls(blocks) as seen:
            read()
        if missing := [i for i, one in enumerate(seen) if not one]:
            raise BadInput(f"read(model, tokens) does not call block {missing[0]} of the {len(blocks)} in {place}")
        first = seen[0][0]
        return cls(holder, place, units, first.before.shape[-1], first.passes, first.alone)

    def map_of(self, block: LinearBlock) -> LateMap:
        """A map as the caller of this stack's blocks calls it. Raises BadInput where they return what no map can."""
        if self.passes is None and not self.alone:
            raise BadInput(
                f"blocks of {self.place} return more than their tokens and what they were given, so no linear map can "
                "stand for them: use another operator"
            )
        made = cast(LateMap, LateMap.of(block.weight, block.bias))
        made.passes = None if self.alone else self.passes
        return made

    @contextmanager
    def holding(self, blocks: Sequence[nn.Module]) -> Iterator[None]:
        """Other blocks in the place of its own, for a while."""
        own = self.blocks
        self.blocks = nn.ModuleList(blocks)
        try:
            yield
        finally:
            setattr(self.holder, self.place, own)


def stack_of(model: Any, name: str | None) -> Any:
    """A stack of a model by name, None being its image encoder. Raises BadInput where it has none of that name."""
    if name is None:
        return model.stack
    if not model.stacks:
        raise BadInput(f"stack: {name}: this model has no stack of blocks that is known beside its image encoder")
    return model.stacks[one_of(name, model.stacks, "stack of this model called")]


@contextmanager
def calls(blocks: Sequence[nn.Module]) -> Iterator[list[list[Call]]]:
    """Watch blocks: afterwards, the calls of each, in order. Raises BadInput for one without tokens (B, Q, C)."""
    seen: list[list[Call]] = [[] for _ in blocks]

    def watch(place: int) -> Callable[..., None]:
        def see(block: nn.Module, given: tuple[Any, ...], named: dict[str, Any], said: Any) -> None:
            seen[place].append(call_of(block, (*given, *named.values()), said))

        return see

    watches = [block.register_forward_hook(watch(i), with_kwargs=True) for i, block in enumerate(blocks)]
    try:
        yield seen
    finally:
        for one in watches:
            one.remove()


def call_of(block: nn.Module, given: Sequence[Any], said: Any) -> Call:
    """What a block was given and what it returned."""
    alone = isinstance(said, Tensor)
    parts = said if isinstance(said, tuple | list) else (said,)
    before, after = next(iter(given), None), next(iter(parts), None)
    if not isinstance(before, Tensor) or not isinstance(after, Tensor) or before.ndim != 3:
        raise BadInput(f"{type(block).__name__} blocks do not turn tokens (B, Q, C) into others")
    if before.shape != after.shape:
        raise BadInput(f"{type(block).__name__} blocks make {tuple(after.shape)} of tokens {tuple(before.shape)}")
    places = [next((i for i, x in enumerate(given) if x is part), -1) for part in parts[1:]]
    passes = None if alone or -1 in places else tuple(places)
    return Call(before.detach(), after.detach(), passes, alone)


def joined(seen: Sequence[Call], after: bool) -> Tensor:
    """The tokens (M, C) of all calls of a block, before or after it."""
    return torch.cat([(call.after if after else call.before).flatten(0, -2) for call in seen])
