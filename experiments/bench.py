"""`make bench`: the time that merging saves beside the multiply-accumulates it saves, at HMR2.0's or another size.

Weights are random: time does not depend on them. All cases share them.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from compress.atomic import atomic_write
from compress.choices import one_of
from compress.context import Context
from compress.policies.merge_layers import MergeLayers
from compress.policies.merge_tokens import MergeTokens
from compress.policy import Policy
from compress.provenance import provenance
from experiments.cli.main import ended
from experiments.side_by_side import side_by_side
from hmr.models.device import best_device
from hmr.models.model import HMRModel, build
from hmr.models.vit import Attention

WINDOWS = {"hmr2": (24, 28), "reference": (9, 10)}  # an eighth of the layers goes, as in the paper's Tab. 12


class UpstreamAttention(Attention):
    """Attention as 4D-Humans has it: two products around a softmax, nothing fused."""

    def __init__(self, tuned: Attention) -> None:
        with torch.device("meta"):
            super().__init__(tuned.proj.in_features, tuned.heads)
        self.qkv, self.proj = tuned.qkv, tuned.proj

    def forward(self, x: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # (B, N, 3, H, d)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, H, N, d)
        weights = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(-1)  # (B, H, N, N)
        return self.proj((weights @ v).transpose(1, 2).flatten(2)), k


def sharing(model: HMRModel, name: str) -> HMRModel:
    """A model of the same weights, which it shares, whose structure may change."""
    found = copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
    found.name = name
    return found


def cases(model: HMRModel, steps: dict[str, Policy]) -> list[HMRModel]:
    """`model` as it is, which is the baseline, with upstream's attention, and after each of `steps`, on top of each
    other. Which blocks are left makes no difference to time, so none is merged."""
    tuned, upstream = sharing(model, "tuned"), sharing(model, "upstream")
    for block in upstream.backbone.blocks:
        block.attn = UpstreamAttention(block.attn)  # type: ignore[arg-type]  # nn.Module hides what it has
    found = [tuned, upstream]
    merged = tuned
    for name, step in steps.items():
        merged = sharing(merged, name)
        found.append(step.plan(merged, Context(merged)).shape(merged))
    return found


def steps_of(architecture: str) -> dict[str, Policy]:
    """What the paper does to HMR2.0, step by step."""
    return {
        "eclm": MergeLayers(strategy="explicit", windows=(WINDOWS[architecture],)),
        "eclm+mask_tome": MergeTokens(keep=90, per_layer=40),
    }


def main(
    out: Annotated[Path, typer.Option(help="The JSON file to write, over an older one.")] = Path("bench.json"),
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, each of which runs every case once.")] = 7,
    batch: Annotated[int, typer.Option(min=1, help="Frames at a time.")] = 8,
    architecture: Annotated[str, typer.Option(help="hmr2 or reference.")] = "hmr2",
) -> None:
    """Time a model with random weights: tuned, with upstream's attention, and merged."""
    device = best_device()
    steps = steps_of(one_of(architecture, WINDOWS, "architecture with windows to merge"))
    model = build(architecture).eval()
    source = provenance("bench", model, device)
    result = {**side_by_side(cases(model, steps), [batch], rounds, False, device), "rounds": rounds}
    atomic_write(out, (json.dumps({**result, "provenance": source}, indent=1, allow_nan=False) + "\n").encode())


if __name__ == "__main__":
    ended(lambda: typer.run(main))
