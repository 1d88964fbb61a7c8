"""The denoiser: noisy latent tokens and the features of a clip's frames go in, v comes out (FastHMR, Tab. 14)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import TimestepEmbedding
from torch import Tensor, nn

from diffusion.model.sizes import DecoderSizes
from diffusion.model.transformer import SkipTransformer, at_their_time, positions, silent, waves

SHRINKS = (300.0, 30.0, 3.0, 0.3)  # of the ridge regression, for features of deviation 1; the best on `val`
SURE = 0.01  # of the one on true poses, which knows nearly all that it is asked
REACH = 2  # tokens before and after that it reads: this is what calms the motion


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


class FrameEmbedding(nn.Module):
    """Normalised features of frames (B, F, W) as tokens with a place (B, F, D), which know whether they are seen."""

    def __init__(self, sizes: DecoderSizes) -> None:
        super().__init__()
        self.embed = nn.Linear(sizes.features, sizes.dim)
        self.places = positions(sizes.frames, sizes.dim, sizes.frames)
        self.unseen = nn.Parameter(torch.zeros(sizes.dim))

    def forward(self, normal: Tensor, seen: Tensor) -> Tensor:
        return self.embed(normal) + self.places + ~seen[..., None] * self.unseen


class Start(nn.Module):
    """What is to be found, as far as it is linear in the features of a token's `span` frames and of its neighbours'; a
    network finds what that leaves. Says 0 before `fit`, and where tokens have no frames of their own (`span` 0).

    It shrinks towards what the head's own pose means. The linear map is not trained further; buffer `left` () is the
    deviation of what it leaves.
    NOTE: without it, the network learns first what the pose head knows already: 2,400 steps led to 123 mm behind a head
    at 70 mm. Without its neighbours a start has twice the acceleration error.
    """

    left: Tensor

    def __init__(self, span: int, width: int, out: int) -> None:
        super().__init__()
        self.span = span
        self.linear = silent(nn.Linear((2 * REACH + 1) * span * width, out)).requires_grad_(False) if span else None
        self.register_buffer("left", torch.ones(()))

    def forward(self, normal: Tensor) -> Tensor:
        """Normalised features (B, F, W) -> (B, F / span, D)."""
        if self.linear is None:
            return torch.zeros_like(self.left)
        return self.linear(self.around(normal))

    def around(self, normal: Tensor) -> Tensor:
        """Features (B, F, W) -> those of each token and its neighbours (B, F / span, (2 REACH + 1) span W)."""
        own = normal.unflatten(1, (-1, self.span)).flatten(2)  # (B, F / span, span * W)
        wide = F.pad(own.mT, (REACH, REACH), mode="replicate").mT
        return torch.cat([wide[:, i : i + own.shape[1]] for i in range(2 * REACH + 1)], 2)

    @torch.no_grad()
    def fit(self, normal: Tensor, true: Tensor, wanted: Tensor, error: Callable[[], float]) -> float:
        """Ridge regression of `wanted` (B, F / span, D) on normalised features (B, F, W), the last P of which are the
        pose that the head predicts, and `true` (B, F, P) is the true one. Returns how far it shrinks: of SHRINKS the
        one at which `error` of this start is least, of equals the largest.

        NOTE: an encoder knows the motion that it was trained on too well, so folds of that choose too small ones.
        """
        chosen = SHRINKS[0]
        self.left.zero_()  # `error` is the start's alone
        if self.linear is not None:
            known = F.pad(true, (normal.shape[2] - true.shape[2], 0))  # and nothing else is
            x, sure, y = (part.flatten(0, 1).double() for part in (self.around(normal), self.around(known), wanted))
            self.linear.bias.copy_(y.mean(0))
            y -= y.mean(0)
            weight = ridge(sure, y, (SURE,))[0]
            starts = [weight + more for more in ridge(x, y - x @ weight, SHRINKS)]
            errors = []
            for start in starts:
                self.linear.weight.copy_(start.mT)
                errors.append(error())
            best = errors.index(min(errors))
            chosen = SHRINKS[best]
            self.linear.weight.copy_(starts[best].mT)
        self.left.copy_((wanted - self(normal)).square().mean().sqrt().clamp_min(1e-3))
        return chosen


def ridge(x: Tensor, y: Tensor, shrinks: Sequence[float]) -> list[Tensor]:
    """W (P, Q) for which x (N, P) W is nearest to y (N, Q), with each of `shrinks` times |W|^2 per row added."""
    gram, wanted, one = x.mT @ x, x.mT @ y, torch.eye(x.shape[1]).to(x)
    return [torch.linalg.solve(gram + shrink * len(x) * one, wanted) for shrink in shrinks]


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
