"""What each unit of a stack's blocks adds to its tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from compress.errors import BadInput
from compress.frames import Judge
from compress.late import stack_of
from compress.layers.units import units_of
from compress.policy import Compressible
from compress.stack import encode, evaluating, transformer_blocks
from compress.tokens import coverage


@torch.no_grad()
def run_late(model: Any, judge: Judge, index: int) -> None:
    """Run all of a model on a batch of the judge, for what its late stacks see."""
    mask = judge.masks[index] if judge.masks is not None else None
    judge.errors(index, model.encode(judge.crops[index], mask), model)


def second_moment(x: Tensor, units: int) -> Tensor:
    """Sum of x_u x_u^T over all rows of x (..., units * d): (units, d, d) float64."""
    parts = x.flatten(0, -2).unflatten(-1, (units, -1))  # (M, units, d)
    return torch.einsum("mud,mue->ude", parts, parts).double()


def energy(weight: Tensor, moment: Tensor) -> Tensor:
    """Mean |W_u x_u|^2 (units,): what each unit adds to the residual stream through its columns W_u of `weight`
    (C, units * d), from the mean `moment` (units, d, d) of x_u x_u^T.

    For a hidden unit, d = 1, it is the square of Wanda's weight norm times activation norm (Sun et al. 2023,
    arXiv:2306.11695, Eq. 1), over all weights of the unit; for a head, the same without its leaving out how the
    activations of one head go together.
    """
    columns = weight.detach().double().unflatten(1, (moment.shape[0], -1))  # (C, units, d)
    return torch.einsum("cud,ude,cue->u", columns, moment, columns)


@torch.no_grad()
def importances(model: Compressible, judge: Judge, name: str | None = None) -> list[tuple[Tensor, ...]]:
    """Of each block of a stack that is no map, the energies of the heads of each attention and of hidden units, over
    all tokens of the judge's crops, on the CPU."""
    stack = stack_of(model, name)
    found = [units_of(stack, block) for block in transformer_blocks(stack).values()]
    units = {layer: n for layers in found for layer, n in zip(layers.readers, layers.widths, strict=True)}
    with evaluating(model), moments(units) as seen:
        for index, crop in enumerate(judge.crops):
            if name is None:
                encode(model.stack, crop, person(model, judge, index), model.schedule)
            else:
                run_late(model, judge, index)
    energies = {layer: energy(layer.weight, seen[layer]).cpu() for layer in units}
    return [tuple(energies[layer] for layer in layers.readers) for layers in found]


@contextmanager
def moments(units: dict[nn.Linear, int]) -> Iterator[dict[nn.Linear, Tensor]]:
    """Watch what goes into layers of so many units: afterwards, the mean `second_moment` of each."""
    sums: dict[nn.Linear, Tensor] = {}
    rows: dict[nn.Linear, int] = {}

    def see(layer: nn.Linear, inputs: tuple[Tensor, ...]) -> None:
        sums[layer] = second_moment(inputs[0], units[layer]) + sums.get(layer, 0)
        rows[layer] = inputs[0].shape[:-1].numel() + rows.get(layer, 0)

    watches = [layer.register_forward_pre_hook(see) for layer in units]
    try:
        yield sums
    finally:
        for watch in watches:
            watch.remove()
    sums.update({layer: total / rows[layer] for layer, total in sums.items()})


def person(model: Compressible, judge: Judge, index: int) -> Tensor | None:
    """How far each patch's share of person lies above the model's threshold (B, N0), where it looks at masks."""
    if model.protect is None:
        return None
    if judge.masks is None:
        raise BadInput("this model's tokens were reduced around the person: prune_width needs frames with masks")
    return coverage(judge.masks[index], model.grid) - model.protect
