"""A deeper model from a shallower one: after each block come copies that add nothing yet, and training goes on."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from compress.errors import BadInput

BLOCK = re.compile(r"backbone\.blocks\.(\d+)\.(.+)")
# where these are zero, a block adds nothing
OUTPUTS = ("attn.proj.weight", "attn.proj.bias", "mlp.fc2.weight", "mlp.fc2.bias")


def grown(weights: dict[str, Tensor], depth: int, wanted: int) -> dict[str, Tensor]:
    """The state_dict of a model of `depth` blocks -> that of one of `wanted` blocks that answers the same.

    Each block is there wanted / depth times in a row, and all but the first have outputs of zero: the way of
    Net2DeeperNet (Chen et al. 2016, Net2Net, Sec. 2.3) for blocks with a residual. What the copies look at they have
    from their block, so their outputs learn from the first step.
    NOTE: the shipped `reference` once grew by copies that share the step of their block (Chang et al. 2018); that
    costs 1 to 2 mm at once, which three quarters of an hour did not win back (docs/training.md).

    Raises BadInput where `wanted` is no multiple of `depth`.
    """
    if not depth or wanted % depth:
        raise BadInput(f"weights of {depth} blocks cannot grow to {wanted}: choose a multiple of {depth}")
    times = wanted // depth
    out = {}
    for key, value in weights.items():
        match = BLOCK.fullmatch(key)
        if match is None:
            out[key] = value
            continue
        for copy in range(times):
            new = torch.zeros_like(value) if copy and match[2] in OUTPUTS else value.clone()
            out[f"backbone.blocks.{int(match[1]) * times + copy}.{match[2]}"] = new
    return out
