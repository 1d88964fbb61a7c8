"""How a run of blocks becomes one: from their weights (slm, mean, drop), as a linear map of the tokens (linear), or as
its lowest block with a map folded into it (fold)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from compress.errors import BadInput

State = Mapping[str, Tensor]
Operator = Literal["slm", "mean", "drop", "linear", "fold"]
FITTED: tuple[Operator, ...] = ("linear", "fold")  # by least squares on frames
Aim = Literal["run", "original"]  # what those are fitted to: see `compress.policies.merge_layers`


def slm(run: Sequence[State]) -> dict[str, Tensor]:
    """The block in the place of a run i .. i + n: theta_i + sum_k (theta_{i+k} - theta_i), k = 1 .. n (FastHMR Eq. 4,
    from sliding layer merging, arXiv:2502.19159).

    That is the sum of the upper n blocks less n - 1 times the lowest, and computed so. For a pair it is the upper block
    alone: this operator merges two blocks by dropping the lower one. Raises BadInput as `combined`.
    """
    return combined(run, lambda values: total(values[1:]) - (len(values) - 2) * values[0].double())


def mean(run: Sequence[State]) -> dict[str, Tensor]:
    """The block in the place of a run: the mean of all. Raises BadInput as `combined`."""
    return combined(run, lambda values: total(values) / len(values))


def drop(run: Sequence[State]) -> dict[str, Tensor]:
    """The block in the place of a run: the lowest alone. Raises BadInput as `combined`."""
    return combined(run, lambda values: values[0])


OPERATORS: dict[Operator, Callable[[Sequence[State]], dict[str, Tensor]]] = {"slm": slm, "mean": mean, "drop": drop}


def smallest_window(operator: Operator) -> int:
    """Blocks that the operator takes at least: a map may take the place of one, a merge takes two."""
    return 1 if operator == "linear" else 2


def combined(run: Sequence[State], rule: Callable[[list[Tensor]], Tensor]) -> dict[str, Tensor]:
    """rule(values of the blocks, lowest first) of every parameter, in its own type again.

    Integers (indices, counts) are the lowest block's. Raises BadInput where the blocks are not of one shape, or were
    rounded to int8, whose integers mean nothing under another block's scales.
    """
    first = run[0]
    if any(value.dtype == torch.int8 for value in first.values()):
        raise BadInput("blocks in int8 cannot be merged: put merge_layers before precision")
    for state in run[1:]:
        for name in {**first, **state}:
            if name not in first or name not in state:
                raise BadInput(f"blocks of unlike weights cannot be merged: {name} is not in all of them")
            if first[name].shape != state[name].shape:
                raise BadInput(f"blocks of unlike shape ({name}) cannot be merged: put merge_layers before prune_width")
    return {
        name: rule([state[name] for state in run]).to(value.dtype) if value.is_floating_point() else value
        for name, value in first.items()
    }


def total(values: Sequence[Tensor]) -> Tensor:
    """The sum, in float64."""
    return cast(Tensor, sum(value.double() for value in values))


def first_weight(block: nn.Module) -> Tensor:
    """The first floating-point weight of a block: what stands in its place has its type and lies on its device."""
    return next((value for value in block.parameters() if value.is_floating_point()), torch.zeros(()))


def merged_block(blocks: Sequence[nn.Module], operator: Operator) -> nn.Module:
    """A new block in the place of a run of them, lowest first; they stay as they are. By their weights alone, so not by
    those that are FITTED: see `compress.layers.least_squares` and `folded`."""
    block = copy.deepcopy(blocks[0])
    block.load_state_dict(OPERATORS[operator]([other.state_dict() for other in blocks]))
    return block
