"""`torch.compile` takes a compressed model as one graph, which serves every frame after the first."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

import hmr
from compress.context import Context
from compress.pipeline import run_all_steps
from compress.policies.merge_layers import MergeLayers
from compress.policies.merge_tokens import MergeTokens
from compress.policies.precision import Precision
from compress.policies.prune_width import PruneWidth
from compress.policy import Policy
from hmr.models.model import build
from tests.sizes import TINY

FIELDS = ("global_orient", "body_pose", "betas", "camera", "features")
TOME = MergeTokens(keep=90, per_layer=60)
RECIPES: dict[str, tuple[Policy, ...]] = {
    "original": (),
    "mask-tome": (TOME,),
    "unprotected": (TOME.model_copy(update={"partition": "unprotected", "proportional_attention": True}),),
    "drop": (MergeTokens(keep=90, mode="drop", dilate=1),),
    "layers": (MergeLayers(strategy="explicit", windows=((0, 1),)), TOME.model_copy(update={"per_layer": 80})),
    "linear": (MergeLayers(strategy="explicit", operator="linear", windows=((1, 1),)), TOME),
    "pruned": (PruneWidth(mlp_ratio=0.3, head_ratio=0.5), TOME),
    "bfloat16": (TOME, Precision(dtype="bfloat16")),
    "int8": (TOME, Precision(dtype="int8")),
}


def made(steps: tuple[Policy, ...]) -> Any:
    torch.manual_seed(0)
    model = build("hmr2", TINY).eval()
    return run_all_steps(model, steps, Context(model, hmr.frames("synth:calib", 4, model=model)))


def frame(seed: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, 256, 192, generator=rng), torch.rand(2, 256, 192, generator=rng) > 0.2 * seed


FAST = ("mask-tome", "drop")


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in RECIPES]
)
def test_one_graph_serves_every_frame(name):
    model, counter = made(RECIPES[name]), CompileCounter()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    with torch.no_grad():
        for seed in (1, 2, 4):
            mine, theirs = model(*frame(seed)), compiled(*frame(seed))
            for field in FIELDS:
                torch.testing.assert_close(getattr(theirs, field), getattr(mine, field), atol=1e-5, rtol=1e-5)
    assert counter.frame_count == 1
