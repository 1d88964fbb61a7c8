"""A stack of transformer blocks, and the only loop over blocks in the project."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from typing import Annotated, Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from compress.tokens import Partition, Tokens, match, nearness

STEPS = 1 << 14  # of a patch's cover that are told apart: more than a patch has pixels


class HasBlocks(Protocol):
    """A stack, wherever in a model."""

    blocks: nn.ModuleList


class Stack(HasBlocks, Protocol):
    """All that a backbone must offer to be compressed. Updates are residual: the caller adds them up.

    Among `blocks` may be linear maps that took the place of some (`LinearBlock`): `through` runs those by itself, and
    no stack has to know of them.
    """

    def embed(self, crop: Tensor) -> Tokens:
        """Crop (B, 3, H, W) -> tokens as the first block takes them."""

    def attend(self, block: nn.Module, tokens: Tokens, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Update (B, N, C) by a block's attention, and its keys (B, H, N, d) as they are: most blocks merge nothing,
        and the mean over heads costs a pass over memory.

        bias (B, N) is added to the attention logits of every query.
        """

    def feed(self, block: nn.Module, x: Tensor) -> Tensor:
        """Update (B, N, C) of tokens x (B, N, C) by a block's MLP."""

    def finish(self, tokens: Tokens) -> Tokens:
        """The tokens after the last norm."""


class Heads(NamedTuple):
    """The layers of an attention: heads are read by `out`."""

    attention: Any  # the module that counts its heads
    counts: tuple[str, ...]  # its ints that do, at least one
    project: tuple[nn.Linear, ...]  # to q, k and v: fused layers, or one each
    out: nn.Linear
    per_head: tuple[nn.Module, ...] = ()  # what else has a number for each feature of the heads: norms, loose biases
    totals: tuple[str, ...] = ()  # ints of `attention` that count the features of all heads

    @property
    def number(self) -> int:
        found: int = getattr(self.attention, self.counts[0])
        return found


class Units(NamedTuple):
    """The layers of a block that have units: heads, and hidden units, which `down` reads."""

    heads: tuple[Heads, ...]  # of each attention
    up: tuple[nn.Linear, ...]  # one, or gate and value; one of twice as many units is both
    down: nn.Linear
    per_hidden: tuple[nn.Module, ...] = ()  # what else has a number for each hidden unit

    @property
    def widths(self) -> tuple[int, ...]:
        """Heads of each attention, and hidden units."""
        return *(one.number for one in self.heads), self.down.in_features

    @property
    def readers(self) -> tuple[nn.Linear, ...]:
        """The layers that read those units."""
        return *(one.out for one in self.heads), self.down


class LinearBlock(nn.Module):
    """Tokens x (..., C) -> x + W x + c, in the type of the tokens; as it is made, it changes nothing.

    It has no attention, hence no keys, and tokens do not see each other: nothing can be merged in it.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim, dim))  # W
        self.bias = nn.Parameter(torch.zeros(dim))  # c

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor) -> LinearBlock:
        """A block of these weights, (C, C) and (C,), of their type and on their device; copied."""
        block = cls(len(bias)).to(weight)
        block.load_state_dict({"weight": weight, "bias": bias})
        return block

    def forward(self, x: Tensor) -> Tensor:
        return x + F.linear(x.to(self.weight.dtype), self.weight, self.bias)


def transformer_blocks(stack: HasBlocks) -> dict[int, nn.Module]:
    """The blocks of a stack that are no linear maps, by their place among all of `stack.blocks`."""
    return {i: block for i, block in enumerate(stack.blocks) if not isinstance(block, LinearBlock)}


@dataclass(frozen=True)
class Schedule:
    """How many tokens go where: `drop` before the first block, merges[i] in block i, between attention and MLP.

    `dilate` is the number of rings of tokens around the person that are spared with it.
    """

    merges: tuple[int, ...] = ()
    drop: int = 0
    partition: Partition = "parity"
    proportional_attention: bool = False
    # 0 stays out of JSON and of `repr`: ids of artefacts and of encoders are hashes of those.
    dilate: Annotated[int, Field(ge=0, exclude_if=lambda rings: rings == 0)] = 0

    def __repr__(self) -> str:
        shown = {name: value for name, value in vars(self).items() if name != "dilate" or value}
        return f"Schedule({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def counts(self, tokens: int, depth: int) -> list[int]:
        """Tokens after each of `depth` blocks, of `tokens` patches."""
        merges = (*self.merges, *[0] * depth)[:depth]
        return [tokens - self.drop - merged for merged in accumulate(merges)]


PLAIN = Schedule()  # every token goes through every block


def encode(
    stack: Stack, crop: Tensor, protected: Tensor | None = None, schedule: Schedule | Sequence[int] = ()
) -> Tokens:
    """Run a crop (B, 3, H, W) through every block, merging tokens on the way (FastHMR Sec. 3.2, Fig. 3).

    protected: share (0..1) or bool (B, N0) of person in each patch; more than 0 protects it, and drops take the lowest
    first. A schedule that dilates protects the rings around them too, and drops take those after the rest, the outer
    rings first. schedule: a `Schedule`, or the number of merges of each block. None: exactly the plain network.
    """
    schedule = schedule if isinstance(schedule, Schedule) else Schedule(tuple(schedule))
    return stack.finish(through(stack, stack.blocks, entering(stack, crop, protected, schedule), schedule))


def entering(stack: Stack, crop: Tensor, protected: Tensor | None, schedule: Schedule) -> Tokens:
    """The tokens as the first block takes them; arguments as `encode`."""
    tokens = stack.embed(crop)
    if protected is not None:
        person = protected > 0
        tokens = tokens.protecting(nearness(person, tokens.grid, schedule.dilate) > 0 if schedule.dilate else person)
    if schedule.drop:
        tokens = tokens.kept(most_covered(tokens, protected, schedule.drop, schedule.dilate))
    return tokens


def through(stack: Stack, blocks: Iterable[nn.Module], tokens: Tokens, schedule: Schedule = PLAIN) -> Tokens:
    """`tokens` after `blocks` of `stack`, the first of which is the schedule's block 0, and before the last norm.

    So whatever runs a few blocks (a search that starts in the middle, a look at each layer) runs them as `encode` does.
    Raises as `after_each`.
    """
    return deque(chain((tokens,), after_each(stack, blocks, tokens, schedule)), maxlen=1).pop()


def after_each(
    stack: Stack, blocks: Iterable[nn.Module], tokens: Tokens, schedule: Schedule = PLAIN
) -> Iterator[Tokens]:
    """The tokens after each of `blocks`, as `through`.

    A linear map takes every token, prefix tokens too; raises ValueError where it is to merge some, as it has no keys.
    """
    for i, block in enumerate(blocks):
        r = schedule.merges[i] if i < len(schedule.merges) else 0
        if isinstance(block, LinearBlock):
            if r:
                raise ValueError(f"{r} tokens cannot merge in block {i}: it is a linear map and has no keys")
            tokens = replace(tokens, x=block(tokens.x))
            yield tokens
            continue
        merged = tokens.x.shape[1] < tokens.prefix + tokens.source.shape[1]
        bias = tokens.size.log() if schedule.proportional_attention and merged and not tokens.dropped else None
        update, keys = stack.attend(block, tokens, bias)
        tokens = replace(tokens, x=tokens.x + update)
        if r:
            tokens = merge(tokens, keys, r, schedule.partition)
        tokens = replace(tokens, x=tokens.x + stack.feed(block, tokens.x))
        yield tokens


def merge(tokens: Tokens, keys: Tensor, r: int, partition: Partition) -> Tokens:
    """The tokens with r pairs fewer, matched by the mean over heads of keys (B, H, N, d).

    Their sum, that is: a cosine asks for no scale.
    """
    found = match(summed(keys), tokens.protected, r, prefix=tokens.prefix, partition=partition)
    return tokens.reduced(found.assign, tokens.x.shape[1] - r)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """A model in evaluation mode, and every module of it in its own mode again afterwards."""
    modules: list[nn.Module] = list(model.modules())
    modes = [module.training for module in modules]
    try:
        model.eval()
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def summed(keys: Tensor) -> Tensor:
    """Sum (B, N, d) in float32 over the heads of keys (B, H, N, d). On a CPU head by head, which is faster there than a
    strided reduction; elsewhere that is one kernel in the place of one for each head."""
    if keys.device.type != "cpu":
        return keys.sum(1, dtype=torch.float32)
    first, *others = keys.unbind(1)
    total = first.to(torch.float32, copy=True)
    for key in others:
        total += key
    return total


def most_covered(tokens: Tokens, cover: Tensor | None, drop: int, dilate: int = 0) -> Tensor:
    """Indices (B, N - drop), in order, of the tokens left when the `drop` patches of lowest cover (B, N0) go.

    With `dilate`, those in a ring around the patches of cover above 0 go after the rest, outer rings first. Among
    equals the later patches go first. Raises ValueError without a cover, or where nothing would be left.
    """
    patches = tokens.source.shape[1]
    if cover is None or not 0 <= drop < patches:
        raise ValueError(f"dropping {drop} of {patches} patches needs their person coverage and must leave some")
    key = (cover.float() * STEPS).round().long()  # (B, N0)
    if dilate:
        key = key + nearness(cover > 0, tokens.grid, dilate) * (STEPS + 1)
    # no two keys are equal, and 32 bits hold them: exporters know no stable sort, and runtimes no 64 bits
    key = key * patches + torch.arange(patches - 1, -1, -1, device=key.device)
    ranked = key.argsort(dim=1, descending=True)
    index = tokens.prefix + ranked[:, : patches - drop].sort(1).values
    prefix = torch.arange(tokens.prefix, device=index.device).expand(index.shape[0], -1)
    return torch.cat((prefix, index), 1)
