"""The motion VAE: clips of poses to a few latent tokens and back (FastHMR, Sec. 3.3, Tab. 13)."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from compress.errors import BadInput
from diffusion.model.representation import JOINTS
from diffusion.model.sizes import DecoderSizes
from diffusion.model.transformer import SkipTransformer, at_their_time, positions
from diffusion.model.weights import load_into, read

KIND = "motion-vae"  # in the header of a file of its weights
FLOORS = (0.1, 0.2)  # least deviation of a joint's coordinate in m, and of a cosine or a sine

CERTAIN = 6.0  # by how much the logarithm of a latent's variance starts below 0


class MotionVAE(nn.Module):
    """Clips (B, F, 133), or as wide as their representation is, to latents (B, T, D) and back.

    Buffers: mean and deviation (133,) of the numbers, latent_mean and latent_deviation (D,) of what it says of training
    motion, with which the denoiser's latents have mean 0 and deviation 1.
    """

    mean: Tensor
    deviation: Tensor
    latent_mean: Tensor
    latent_deviation: Tensor

    def __init__(self, sizes: DecoderSizes) -> None:
        super().__init__()
        self.sizes = sizes
        dim, shape = sizes.dim, (sizes.dim, sizes.heads, sizes.hidden, sizes.dropout)
        self.encoder = VAEEncoder(sizes, SkipTransformer(sizes.encoder_layers, *shape))
        self.decoder = VAEDecoder(sizes, SkipTransformer(sizes.decoder_layers, *shape, cross=True))
        self.register_buffer("mean", torch.zeros(sizes.width))
        self.register_buffer("deviation", torch.ones(sizes.width))
        self.register_buffer("latent_mean", torch.zeros(dim))
        self.register_buffer("latent_deviation", torch.ones(dim))

    def normalise(self, mean: Tensor, deviation: Tensor) -> None:
        """Take mean and deviation (133,) of motion; deviations are at least FLOORS: some numbers never change."""
        floors = torch.full_like(self.mean, FLOORS[1])
        if self.sizes.representation == "hybrik":
            floors[: 3 * JOINTS] = FLOORS[0]
        self.mean.copy_(mean)
        self.deviation.copy_(deviation.maximum(floors))

    @torch.no_grad()
    def start_linear(self, numbers: Tensor) -> None:
        """Begin as the linear autoencoder that is best on clips (N, F, 133), where a latent token has its own frames.

        Every layer adds nothing yet, so that what goes in and out are the first D
        principal components of `stride` frames, turned at random so that all channels matter alike. NOTE: from random
        weights the same steps led to 60 mm on families not seen.
        """
        sizes = self.sizes
        if sizes.tokens * sizes.stride != sizes.frames or sizes.dim > sizes.stride * sizes.width:
            return
        patches = ((numbers - self.mean) / self.deviation).unflatten(1, (-1, sizes.stride)).flatten(2).flatten(0, 1)
        axes = torch.linalg.eigh(patches.mT @ patches)[1][:, -sizes.dim :]  # (stride * 133, D), largest last
        turn = torch.linalg.qr(torch.randn(sizes.dim, sizes.dim))[0].to(axes)
        out, same = axes @ turn, torch.eye(sizes.dim).to(axes)
        for linear, weight in ((self.encoder.embed, out.mT), (self.decoder.embed, same), (self.decoder.out, out)):
            linear.weight.copy_(weight)
            linear.bias.zero_()
        self.encoder.out.weight[: sizes.dim].copy_(same)
        self.encoder.out.weight[sizes.dim :].zero_()
        self.encoder.out.bias[: sizes.dim].zero_()

    def encode(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F, 133) -> mean and logarithm of the variance (B, T, D) of the latent."""
        return self.encoder((numbers - self.mean) / self.deviation)

    def decode(self, latent: Tensor) -> Tensor:
        """(B, T, D) -> (B, F, 133)."""
        return self.decoder(latent) * self.deviation + self.mean

    def forward(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, F, 133) -> what is decoded from a latent drawn for it, and that latent's mean and log variance."""
        mean, log_variance = self.encode(numbers)
        latent = mean + torch.randn_like(mean) * (log_variance / 2).exp() if self.training else mean
        return self.decode(latent), mean, log_variance

    def target(self, numbers: Tensor) -> Tensor:
        """(B, F, 133) -> the latent (B, T, D) that a denoiser has to find, at mean 0 and deviation 1."""
        return (self.encode(numbers)[0] - self.latent_mean) / self.latent_deviation

    def restore(self, latent: Tensor) -> Tensor:
        """What a denoiser found (B, T, D) -> (B, F, 133)."""
        return self.decode(latent * self.latent_deviation + self.latent_mean)


class VAEEncoder(nn.Module):
    """Frames and as many queries as there are latent tokens through one transformer; the queries become the latent."""

    def __init__(self, sizes: DecoderSizes, transformer: SkipTransformer) -> None:
        super().__init__()
        self.stride = sizes.stride
        self.embed = nn.Linear(sizes.stride * sizes.width, sizes.dim)
        self.places = positions(sizes.frames // sizes.stride, sizes.dim, sizes.frames)
        self.queries = positions(sizes.tokens, sizes.dim, sizes.frames)
        self.transformer = transformer
        self.out = nn.Linear(sizes.dim, 2 * sizes.dim)
        with torch.no_grad():  # a latent that starts as noise of deviation 1 teaches nothing for a long time
            self.out.bias[sizes.dim :] -= CERTAIN

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        frames = self.embed(x.unflatten(1, (-1, self.stride)).flatten(2)) + self.places  # (B, F / stride, D)
        queries = self.queries + at_their_time(frames, len(self.queries))
        found = self.transformer(torch.cat((queries, frames), 1))[:, : len(self.queries)]  # (B, T, D)
        mean, log_variance = self.out(found).chunk(2, -1)
        return mean, log_variance.clamp(-20, 10)  # its exponential stays finite


class VAEDecoder(nn.Module):
    """One query per `stride` frames reads the latent tokens (B, T, D) and becomes their numbers, normalised."""

    def __init__(self, sizes: DecoderSizes, transformer: SkipTransformer) -> None:
        super().__init__()
        self.embed = nn.Linear(sizes.dim, sizes.dim)
        self.places = positions(sizes.tokens, sizes.dim, sizes.frames)
        self.queries = positions(sizes.frames // sizes.stride, sizes.dim, sizes.frames)
        self.transformer, self.stride = transformer, sizes.stride
        self.out = nn.Linear(sizes.dim, sizes.stride * sizes.width)

    def forward(self, latent: Tensor) -> Tensor:
        memory = self.embed(latent) + self.places
        found = self.transformer(self.queries + at_their_time(memory, len(self.queries)), memory)
        return self.out(found).unflatten(2, (self.stride, -1)).flatten(1, 2)  # (B, F / stride, ...) -> (B, F, 133)


def vae_loss(
    reconstructed: Tensor, numbers: Tensor, mean: Tensor, log_variance: Tensor, deviation: Tensor
) -> dict[str, Tensor]:
    """Mean squared error in deviations (133,) and KL divergence to N(0, 1), per number: scalars of their own weight."""
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    return {"mse": ((reconstructed - numbers) / deviation).square().mean(), "kl": divergence}


def shipped_vae() -> Path:
    """The weights of the reference VAE; raises BadInput where this installation has none."""
    path = Path(str(files("diffusion").joinpath("assets", "vae.safetensors")))
    if not path.is_file():
        raise BadInput("no VAE is shipped with this installation: train one with `fasthmr train vae` and name it")
    return path


def load_vae(path: Path) -> MotionVAE:
    """The VAE of a file of weights, in evaluation mode; raises BadInput where it is no such file."""
    state, sizes, _ = read(path, KIND)
    return cast(MotionVAE, load_into(MotionVAE(sizes), state, path))
