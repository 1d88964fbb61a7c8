"""The denoiser: noisy latent tokens and the features of a clip's frames go in, v comes out (FastHMR, Tab. 14)."""

from __future__ import annotations

import torch
from diffusers.models.embeddings import TimestepEmbedding
from torch import Tensor, nn

from diffusion.sizes import Sizes
from diffusion.transformer import SkipTransformer, at_their_time, positions, silent, waves


class Frames(nn.Module):
    """Features of frames (B, F, W), normalised, as tokens with a place (B, F, D).

    Buffers: mean and deviation (W,) of the features of the encoder that they come from.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.embed = nn.Linear(sizes.features, sizes.dim)
        self.places = positions(sizes.frames, sizes.dim, sizes.frames)
        self.register_buffer("mean", torch.zeros(sizes.features))
        self.register_buffer("deviation", torch.ones(sizes.features))

    def forward(self, features: Tensor) -> Tensor:
        return self.embed((features - self.mean) / self.deviation) + self.places


class Denoiser(nn.Module):
    """Latent tokens, a token of the timestep and one of each frame through one transformer, norms after the sums."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        dim = sizes.dim
        self.frames = Frames(sizes)
        self.places = positions(sizes.tokens, dim, sizes.frames)
        self.time = TimestepEmbedding(dim, dim)
        shape = (sizes.denoiser_layers, dim, sizes.heads, sizes.hidden, sizes.denoiser_dropout)
        self.transformer = SkipTransformer(*shape, pre_norm=False)
        self.out = silent(nn.Linear(dim, dim))  # normalised: 0 is the mean of all motion

    def forward(self, latent: Tensor, time: Tensor, features: Tensor) -> Tensor:
        """Noisy latents (B, T, D), timesteps (B,) and features (B, F, W) -> v, or noise (B, T, D)."""
        frames = self.frames(features)
        count = latent.shape[1]
        tokens = latent + self.places + at_their_time(frames, count)
        when = self.time(waves(time, latent.shape[-1]).to(latent.dtype))[:, None]  # (B, 1, D)
        return self.out(self.transformer(torch.cat((tokens, when, frames), 1))[:, :count])
