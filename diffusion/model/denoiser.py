"""The denoiser: noisy latent tokens and the features of a clip's frames go in, v comes out (FastHMR, Tab. 14)."""

from __future__ import annotations

import torch
from diffusers.models.embeddings import TimestepEmbedding
from torch import Tensor, nn

from diffusion.model.sizes import DecoderSizes
from diffusion.model.transformer import SkipTransformer, at_their_time, positions, silent, waves


class FeatureScale(nn.Module):
    """Features (B, F, W) at mean 0 and deviation 1, frame by frame.

    Buffers: mean and deviation (W,) of the features of the encoder that they come from.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    def forward(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.deviation

    def undone(self, normal: Tensor) -> Tensor:
        return normal * self.deviation + self.mean


class FrameEmbedding(nn.Module):
    """Normalised features of frames (B, F, W) as tokens with a place (B, F, D), which know whether they are seen."""

    def __init__(self, sizes: DecoderSizes) -> None:
        super().__init__()
        self.embed = nn.Linear(sizes.features, sizes.dim)
        self.places = positions(sizes.frames, sizes.dim, sizes.frames)
        self.unseen = nn.Parameter(torch.zeros(sizes.dim))

    def forward(self, normal: Tensor, seen: Tensor) -> Tensor:
        return self.embed(normal) + self.places + ~seen[..., None] * self.unseen


class Denoiser(nn.Module):
    """Latent tokens, a token of the timestep and one of each frame through one transformer, norms after the sums."""

    def __init__(self, sizes: DecoderSizes) -> None:
        super().__init__()
        dim = sizes.dim
        self.frames = FrameEmbedding(sizes)
        self.places = positions(sizes.tokens, dim, sizes.frames)
        self.time = TimestepEmbedding(dim, dim)
        shape = (sizes.denoiser_layers, dim, sizes.heads, sizes.hidden, sizes.denoiser_dropout)
        self.transformer = SkipTransformer(*shape, pre_norm=False)
        self.out = silent(nn.Linear(dim, dim))  # normalised: 0 is the mean of all motion

    def forward(self, latent: Tensor, time: Tensor, normal: Tensor, seen: Tensor) -> Tensor:
        """Noisy latents (B, T, D), timesteps (B,), normalised features (B, F, W) and which frames are seen (B, F) -> v,
        or noise (B, T, D)."""
        frames = self.frames(normal, seen)
        count = latent.shape[1]
        tokens = latent + self.places + at_their_time(frames, count)
        when = self.time(waves(time, latent.shape[-1]).to(latent.dtype))[:, None]  # (B, 1, D)
        return self.out(self.transformer(torch.cat((tokens, when, frames), 1))[:, :count])
