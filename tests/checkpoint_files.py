"""Small models of every family, and their weights as the authors' files name them."""

from __future__ import annotations

import torch

from hmr.models.model import build

TINY = {"dim": 32, "depth": 2, "heads": 2, "mlp_dim": 48, "head_dim": 24, "head_depth": 2, "head_mlp_dim": 40}
SIZES = {
    "hmr2": TINY,
    "camerahmr": {**TINY, "fov_width": 0},
    "hamer": TINY,
    "tokenhmr": {
        **TINY,
        "places": 30,
        "hidden": 8,
        "mixers": 2,
        "place_mlp": 12,
        "channel_mlp": 16,
        "codes": 20,
        "code_dim": 12,
        "decoder_dim": 16,
        "decoder_steps": 2,
    },
}
TOKENIZER = "smpl_head.decpose.tokenizer."


def made(architecture, **sizes):
    """A small model with weights that no fresh one has."""
    torch.manual_seed(0)
    model = build(architecture, {**SIZES[architecture], **sizes}).eval()
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.add_(0.1 * torch.randn_like(value))
    return model


def upstream(model):
    """Its weights as the authors' main file has them."""
    return {key: value for key, value in model.state_dict().items() if not key.startswith(("fov_net.", TOKENIZER))}


def equal(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def prefixed(prefix, state):
    return {f"{prefix}{key}": value for key, value in state.items()}
