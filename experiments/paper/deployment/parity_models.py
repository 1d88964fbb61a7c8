"""The models of the parity table that need no file: the reference after each policy and after the shipped recipes, and
families of random weights. What recovery learns changes no graph, so that none is done."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import hmr
from compress.context import Context
from compress.pipeline import run_all_steps
from compress.policies.merge_layers import MergeLayers
from compress.policies.merge_tokens import MergeTokens
from compress.policies.precision import Precision
from compress.policies.prune_width import PruneWidth
from compress.policy import Policy
from diffusion.decoded import DecodedModel, encoder_id, features_of
from diffusion.model.decoder import ClipDecoder
from diffusion.model.vae import load_vae, shipped_vae
from hmr.models.model import HMRModel, build

ADAPTERS = Path(__file__).resolve().parents[3] / "tests"
CALIB = 32  # frames of synth:calib that a policy makes its choices on
TOME = MergeTokens(keep=90, per_layer=40)
SPARED = TOME.model_copy(update={"dilate": 1})
LINEAR = MergeLayers(strategy="explicit", operator="linear", windows=((7, 7),))
SMALL = {"dim": 64, "depth": 4, "heads": 4, "mlp_dim": 128, "head_dim": 48, "head_depth": 2, "head_heads": 2,
         "head_dim_head": 16, "head_mlp_dim": 64}  # fmt: skip
SIZES: dict[str, dict[str, Any]] = {
    "hmr2": SMALL,
    "camerahmr": {**SMALL, "fov_width": 0},
    "hamer": SMALL,
    "tokenhmr": {**SMALL, "places": 24, "hidden": 8, "codes": 16, "code_dim": 8, "decoder_dim": 8, "decoder_steps": 2,
                 "mixers": 1},
}  # fmt: skip


def after(*steps: Policy) -> Any:
    """The reference model after some steps."""
    model = hmr.load("reference")
    calib = hmr.frames("synth:calib", CALIB, model=model)
    return run_all_steps(model, steps, Context(model, calib))


def moving(*steps: Policy) -> DecodedModel:
    """The same with a motion decoder that reads it and was not trained: no decoder is shipped, and whether a file gives
    what the model gives does not depend on what weights mean."""
    encoder, vae = after(*steps), load_vae(shipped_vae())
    sizes = vae.sizes.model_copy(update={"features": features_of(encoder)})
    torch.manual_seed(0)
    decoder = ClipDecoder(sizes, "diffusion", encoder=encoder_id(encoder), vae=vae)
    loud(decoder.predictor)
    return DecodedModel(encoder, decoder)


def untrained(architecture: str, sizes: dict[str, Any], *steps: Policy) -> HMRModel:
    """A model of random weights after some steps, whose head says something of the picture."""
    torch.manual_seed(0)
    model = build(architecture, sizes).eval()
    loud(model.head.decpose, 0.1)
    smaller: HMRModel = run_all_steps(model, steps, Context(model))
    return smaller


def adapted(file: str) -> Any:
    """The network of an adapter among the tests, with its tokens merged."""
    model = hmr.load(str(ADAPTERS / file))
    return run_all_steps(model, [TOME], Context(model))


def loud(module: nn.Module | None, deviation: float = 0.02) -> None:
    """Give random weights to the layers of a module, some of which say nothing before training."""
    for layer in module.modules() if module else ():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=deviation)


WHOLE = MergeLayers(strategy="explicit", windows=((24, 28),))  # of HMR2.0's blocks, as in the paper's Tab. 12
MADE: dict[str, Callable[[], Any]] = {
    "reference": partial(hmr.load, "reference"),
    "fasthmr-reference": partial(after, LINEAR, SPARED),
    "fasthmr-reference-video": partial(moving, LINEAR, SPARED),
    "mask-tome": partial(after, TOME),
    "tome": partial(after, TOME.model_copy(update={"protect": "none"})),
    "drop": partial(after, MergeTokens(keep=90, mode="drop")),
    "pruned": partial(after, PruneWidth(mlp_ratio=0.25, head_ratio=0.25)),
    "bfloat16": partial(after, Precision(dtype="bfloat16")),
    "int8": partial(after, Precision(dtype="int8")),
    **{f"{name}, small": partial(untrained, name, sizes, TOME) for name, sizes in SIZES.items()},
    "ViT of timm": partial(adapted, "vit_timm.py"),
    "DINOv3 of transformers": partial(adapted, "vit_dinov3.py"),
    "hmr2": partial(untrained, "hmr2", {}, WHOLE, TOME),
}
