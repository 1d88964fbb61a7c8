"""Linear layers of low rank: two narrow ones, which together are the affine map of that rank whose results on frames
are nearest to the layer's own (Eckart and Young 1936, of W L, where L L^T is the covariance of what goes in).
"""

from __future__ import annotations

import torch
from torch import nn

from compress.errors import BadInput
from compress.layers.one_by_one import Spread, Watch
from compress.layers.units import units_of
from compress.stack import Stack

# Of the inputs' mean variance: above the rounding of products in float32, for there to be a factor where channels go
# together. At a quarter of the width on `reference`, joints moved as far with 1e-6.
RIDGE = 1e-4


def reducible(stack: Stack, block: nn.Module, rank: int) -> dict[str, nn.Linear]:
    """The layers of a block's MLP that take fewer multiply-accumulates as two of a rank, by name, in the order in which
    they run. Raises BadInput for a block of a kind that has no known layers, and for a layer that is no `nn.Linear`."""
    units, names = units_of(stack, block), {id(layer): name for name, layer in block.named_modules()}
    layers = (*units.up, units.down)
    if odd := next((layer for layer in layers if type(layer).forward is not nn.Linear.forward), None):
        kind = type(block).__name__
        raise BadInput(f"reduce_rank: a layer in the MLP of {kind} blocks is no nn.Linear but a {type(odd).__name__}")
    thin = [layer for layer in layers if rank * (layer.in_features + layer.out_features) < layer.weight.numel()]
    return {names[id(layer)]: layer for layer in thin}


def pair_like(layer: nn.Linear, rank: int) -> nn.Sequential:
    """Two layers of a rank and any weights, from what a layer takes to what it gives."""
    there = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    first = nn.utils.skip_init(nn.Linear, layer.in_features, rank, bias=False, **there)
    second = nn.utils.skip_init(nn.Linear, rank, layer.out_features, **there)
    return nn.Sequential(first, second).requires_grad_(layer.weight.requires_grad)


@torch.no_grad()
def nearest(layer: nn.Linear, sums: Spread, rank: int) -> nn.Sequential:
    """The two layers of a rank that give most nearly, in squares over all tokens, what a layer gives: B A x + c, where
    B has the main directions of its results, A is B^T W, and c makes their mean the same."""
    mean, weight = sums.x / sums.count, layer.weight.double()
    covariance = sums.xx - torch.outer(sums.x, mean)
    least = 1e-12 * sums.xx.diagonal().mean() + torch.finfo(covariance.dtype).tiny
    covariance.diagonal().add_(torch.maximum(RIDGE * covariance.diagonal().mean(), least))
    factor, _ = torch.linalg.cholesky_ex(covariance)  # unchecked: it is positive definite, or tokens are not finite
    results, _, _ = torch.linalg.svd(weight @ factor, full_matrices=False)
    main = results[:, :rank]  # B
    lost = (weight - main @ (main.T @ weight)) @ mean
    made = pair_like(layer, rank)
    state = {"0.weight": main.T @ weight, "1.weight": main, "1.bias": lost if layer.bias is None else lost + layer.bias}
    made.load_state_dict(state)
    return made


def put(block: nn.Module, layer: nn.Module, by: nn.Module) -> None:
    """Another layer in the place of one, under all names that it has in a block."""
    for name, one in list(block.named_modules(remove_duplicate=False)):
        if one is layer:
            block.set_submodule(name, by)


def reduced(stack: Stack, rank: int, block: nn.Module, watch: Watch) -> None:
    """Make the layers of a block's MLP of a rank, in place, where that takes less: each on what goes into it behind
    those that are of it already."""
    for layer in reducible(stack, block, rank).values():
        put(block, layer, nearest(layer, watch(layer), rank))
