"""Tiny sizes and made-up data that the tests of `diffusion` share."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from diffusion.model.representation import WIDTH, encode
from diffusion.model.sizes import DecoderSizes
from diffusion.motion.features import VideoFeatures
from hmr.body.files import load_body
from hmr.models.model import build
from hmr.motion.recordings import shipped_clips

TINY = DecoderSizes(
    frames=12,
    stride=3,
    tokens=4,
    dim=16,
    encoder_layers=1,
    decoder_layers=1,
    denoiser_layers=1,
    heads=2,
    hidden=16,
    dropout=0.1,
    features=6 + WIDTH,
)


clips, body = cache(shipped_clips), cache(load_body)  # which the library reads anew each time


def video(frames: int = 20, seed: int = 0) -> VideoFeatures:
    """Features that say something of a shipped clip's pose, and the pose of its first frame."""
    generator = torch.Generator().manual_seed(seed)
    clip = clips()[seed % 15]
    rotations = torch.from_numpy(clip.rotations[:frames])
    mix = torch.randn(9, TINY.features - WIDTH, generator=generator)
    betas = torch.randn(1, 10, generator=generator).expand(frames, 10).contiguous()
    still = encode(rotations[:1].expand_as(rotations), betas, body())
    features = torch.cat((rotations[:, 1].flatten(1) @ mix, still), 1)
    return VideoFeatures(features, betas, rotations, rotations, betas)


def small_model() -> Any:
    torch.manual_seed(0)
    sizes = {"dim": 32, "depth": 2, "heads": 2, "mlp_dim": 48, "head_dim": 6, "head_depth": 1, "head_heads": 2}
    return build("hmr2", {**sizes, "head_dim_head": 8, "head_mlp_dim": 24}).eval()
