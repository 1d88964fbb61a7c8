"""A deeper model from a shallower one: every block becomes two half steps, and training goes on from there."""

from __future__ import annotations

import re

from torch import Tensor

from compress.errors import BadInput

BLOCK = re.compile(r"backbone\.blocks\.(\d+)\.(.+)")
OUTPUTS = ("attn.proj.weight", "attn.proj.bias", "mlp.fc2.weight", "mlp.fc2.bias")  # what a block adds is linear here


def grown(weights: dict[str, Tensor], depth: int, wanted: int) -> dict[str, Tensor]:
    """The state_dict of a model of `depth` blocks -> that of one of `wanted` blocks that answers almost the same.

    Each block is there wanted / depth times in a row and adds as much less, so that a run of copies walks the way of
    the one in shorter steps (Chang et al. 2018, Multi-level Residual Networks from Dynamical Systems View, Sec. 4).
    NOTE: copies that add nothing at first (Chen et al. 2016, Net2Net, Sec. 2.3) answer the same as the shallow model,
    where these cost 1 to 2 mm at once; and they stay idle. After two hours their outputs were a sixth as large as the
    others', and a search merged 16 blocks into 6 for 0.7 mm (docs/training.md).

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
        scale = 1 / times if match[2] in OUTPUTS else 1
        for copy in range(times):
            out[f"backbone.blocks.{int(match[1]) * times + copy}.{match[2]}"] = value * scale
    return out
