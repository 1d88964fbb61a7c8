"""What SAM 3D Body costs at its full size, part by part, before a recipe and after each of its steps:
`python -m experiments.paper.equal_macs.sam_3d_body --out FILE`.

Shapes alone: the network lies on the meta device, so no weights are needed, and nothing is said of errors.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from compress.atomic import atomic_write
from compress.cost.macs import stack_costs
from compress.policies.merge_layers import MergeLayers
from compress.policies.merge_tokens import MergeTokens
from compress.policies.prune_width import PruneWidth
from compress.policy import Policy
from compress.provenance import provenance
from experiments.cli.main import ended
from hmr.models.cost import frame
from hmr.models.own_model import OwnModel
from hmr.published.parts.dinov3 import DINOv3
from hmr.published.parts.encoder import Encoder
from hmr.published.parts.places import WholePicture
from hmr.published.parts.sam_3d_body_decoder import PromptSizes
from hmr.published.sam_3d_body import SAM3DBody, SAM3DBodyNetwork

SIDE = 512
STEPS: dict[str, Policy] = {
    "four_maps": MergeLayers(strategy="explicit", operator="linear", windows=((7, 7), (15, 15), (23, 23), (31, 31))),
    "half_tokens": MergeTokens(keep=512, per_layer=64, protect="none"),
    "half_decoder": PruneWidth(mlp_ratio=0.5, head_ratio=0.5, stack="decoder"),
}


def rig(shape: Tensor, parameters: Tensor, face: Tensor) -> tuple[Tensor, Tensor]:
    """MHR's sizes: vertices and bones."""
    return parameters.new_zeros(len(shape), 18439, 3), parameters.new_zeros(len(shape), 127, 8)


def full_size() -> OwnModel:
    """DINOv3-H+ with the body decoder, of shapes alone."""
    with torch.device("meta"):
        network = SAM3DBodyNetwork(Encoder(DINOv3()), rig, WholePicture(SIDE, SIDE), PromptSizes()).eval()
    places: dict[str, Any] = {"blocks": SAM3DBody.blocks, "head_needs": "grid", "stacks": SAM3DBody.stacks}
    return OwnModel(network, lambda own, tokens: own.read(tokens.to_grid()), (SIDE, SIDE), **places).eval()


def main(out: Annotated[Path | None, typer.Option(help="The .json file to write.")] = None) -> None:
    """Count them."""
    model, columns = full_size(), {}
    columns["original"] = stack_costs(model, *frame(model))
    for name, step in STEPS.items():
        model = step.outline(model).shape(model)
        columns[name] = stack_costs(model, *frame(model))
    parts = zip(*columns.values(), strict=True)
    rows = [
        {"name": part[0].name, **{name: of.macs.true / 1e9 for name, of in zip(columns, part, strict=True)}}
        for part in parts
    ]
    rows.append({"name": "all", **{name: sum(part.macs.true for part in of) / 1e9 for name, of in columns.items()}})
    if out is not None:
        source = provenance("sam-3d-body", None, torch.device("meta"))
        steps = {name: step.model_dump(mode="json") for name, step in STEPS.items()}
        atomic_write(out, json.dumps({"rows": rows, "steps": steps, "provenance": source}, indent=1).encode())
    for row in rows:
        typer.echo(f"{row['name']:10}" + "".join(f"{name} {row[name]:8.1f}   " for name in columns))


if __name__ == "__main__":
    ended(lambda: typer.run(main))
