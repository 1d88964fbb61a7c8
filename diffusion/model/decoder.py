"""What takes the place of a model's pose head: features of a video's frames to SMPL rotations, a clip at a time.

Three kinds of one interface. `diffusion` is the paper's: a denoiser of the latent of a motion VAE. `regressor` is the
same transformer without noise, straight to the numbers of a pose or into the same latent. `linear` is the filter and
the ridge regression that both of them correct.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.choices import one_of
from compress.errors import BadInput
from compress.files.weights import digest
from diffusion.model.denoiser import Denoiser, FeatureScale, FrameEmbedding
from diffusion.model.guidance import pulled
from diffusion.model.representation import WIDTH, rotations_of
from diffusion.model.schedule import Objective, denoised, noise
from diffusion.model.sizes import DecoderSizes
from diffusion.model.start import Start
from diffusion.model.transformer import SkipTransformer, at_their_time, positions, silent
from diffusion.model.vae import MotionVAE, load_vae, shipped_vae
from diffusion.model.video_decoder import VideoDecoder
from diffusion.model.weights import load_into, read, save
from diffusion.motion.clips import filled

KIND = "motion-decoder"  # in the header of a file of its weights
ASSETS = files("diffusion").joinpath("assets")
Kind = Literal["linear", "regressor", "diffusion"]
Energy = Callable[[Tensor], Tensor]  # of numbers (B, F, 133), a scalar
Target = Literal["latent", "numbers"]  # what is looked for: the VAE's latent, or the numbers of each frame
TARGETS: dict[Kind, Target] = {"linear": "numbers", "regressor": "numbers", "diffusion": "latent"}


class FeatureRegressor(nn.Module):
    """Normalised features of frames (B, F, W), and which are seen (B, F) -> latent (B, T, D), or numbers of each frame
    (B, F, 133), without any noise."""

    def __init__(self, sizes: DecoderSizes, target: Target) -> None:
        super().__init__()
        self.target = target
        self.frames = FrameEmbedding(sizes)
        self.queries = positions(sizes.tokens, sizes.dim, sizes.frames)
        shape = (sizes.denoiser_layers, sizes.dim, sizes.heads, sizes.hidden, sizes.denoiser_dropout)
        self.transformer = SkipTransformer(*shape, pre_norm=False)
        self.out = silent(nn.Linear(sizes.dim, sizes.dim if target == "latent" else sizes.width))

    def forward(self, normal: Tensor, seen: Tensor) -> Tensor:
        frames = self.frames(normal, seen)
        if self.target == "numbers":
            return self.out(self.transformer(frames))
        tokens = self.queries + at_their_time(frames, len(self.queries))
        return self.out(self.transformer(torch.cat((tokens, frames), 1))[:, : len(self.queries)])


class ClipDecoder(VideoDecoder):
    """Features of a clip to rotations; `encoder` is whose features it knows.

    target: None for the one that this kind usually has. steps: denoising steps of `diffusion`, from noise of `seed`.
    look_ahead: as `VideoDecoder`. Of the VAE it keeps what it decodes with. Raises ValueError for a kind and a target
    that do not go together.
    """

    noise: Tensor  # (T, D) that `diffusion` starts from: each clip's is the same, whatever clips are beside it

    def __init__(
        self,
        sizes: DecoderSizes,
        kind: Kind = "diffusion",
        target: Target | None = None,
        objective: Objective = "hybrid",
        *,
        encoder: str,
        steps: int = 1,
        seed: int = 0,
        look_ahead: int | None = None,
        vae: MotionVAE | None = None,
    ) -> None:
        super().__init__(sizes.frames, sizes.features, look_ahead)
        self.sizes, self.objective, self.kind, self.target = sizes, objective, kind, target or TARGETS[kind]
        if (kind, self.target) == ("diffusion", "numbers"):
            raise ValueError("diffusion is into the latent")
        self.encoder, self.steps = encoder, steps
        self.scale = FeatureScale(sizes.features)
        self.start = Start(sizes, self.target == "latent")
        self.left: Tensor
        self.register_buffer("left", torch.ones(()))  # deviation of what the start leaves
        self.predictor: Denoiser | FeatureRegressor | None = None
        if kind != "linear":
            self.predictor = Denoiser(sizes) if kind == "diffusion" else FeatureRegressor(sizes, self.target)
        self.vae = copy.deepcopy(vae) if vae else MotionVAE(sizes)
        del self.vae.encoder
        if self.target == "numbers":
            del self.vae.decoder  # what is left is how numbers are normalised
        self.seeded(seed)

    def seeded(self, seed: int) -> None:
        """Start from the noise of a seed."""
        self.seed = seed
        if self.kind == "diffusion":
            start = noise((self.sizes.tokens, self.sizes.dim), seed).to(self.place.device)
            self.register_buffer("noise", start, persistent=False)

    def forward(self, features: Tensor, betas: Tensor, seen: Tensor | None = None) -> Tensor:
        """Clips of features (B, F, W) and betas (B, F, 10) -> local rotations (B, F, 24, 3, 3).

        seen: (B, F) bool, which frames have features and betas; the others are found from those around them.
        """
        if seen is not None:
            betas = filled(betas, seen)
        return rotations_of(self.numbers(features, seen), betas, self.body, self.sizes.representation)

    def numbers(self, features: Tensor, seen: Tensor | None = None, energy: Energy | None = None) -> Tensor:
        """Clips of features (B, F, W) -> the numbers of their poses (B, F, 133); seen: as in `forward`.

        energy: how unlikely such numbers are for what else is known of them; `diffusion` heeds it.
        """
        normal, seen = self.normal(features, seen)
        begun = self.begun(normal)

        def told(correction: Tensor) -> Tensor:
            found = begun + self.left * correction
            return found * self.vae.deviation + self.vae.mean if self.target == "numbers" else self.vae.restore(found)

        pull = None if energy is None else lambda guess, spread: pulled(guess, spread, lambda z: energy(told(z)))
        numbers = told(self.correction(normal, seen, pull))
        return calmed(numbers, self.sizes.calm) if self.sizes.calm else numbers

    def normal(self, features: Tensor, seen: Tensor | None) -> tuple[Tensor, Tensor]:
        """Features (B, F, W) at mean 0 and deviation 1, straight lines where they are not seen; and which are seen."""
        normal = self.scale(features)
        if seen is None:
            return normal, torch.ones(normal.shape[:2], dtype=torch.bool, device=normal.device)
        return filled(normal, seen), seen

    def begun(self, normal: Tensor) -> Tensor:
        """What the start says of clips of normalised features (B, F, W), as `wanted` has it."""
        said = self.scale.undone(normal)[..., -WIDTH:]
        return self.start(said, normal, self.vae.mean, self.vae.deviation)

    def correction(self, normal: Tensor, seen: Tensor, pull: Callable[[Tensor, float], Tensor] | None = None) -> Tensor:
        """What the network predicts of clips of normalised features (B, F, W) beyond their linear start; pull: see
        `denoised`."""
        network = self.predictor
        if isinstance(network, Denoiser):
            start = self.noise.expand(normal.shape[0], -1, -1)
            return denoised(lambda z, time: network(z, time, normal, seen), start, self.steps, self.objective, pull)
        return normal.new_zeros(()) if network is None else network(normal, seen)

    def wanted(self, numbers: Tensor, latent: Tensor) -> Tensor:
        """The numbers (B, F, 133), normalised, or the latent (B, T, D): whichever this decoder looks for."""
        return (numbers - self.vae.mean) / self.vae.deviation if self.target == "numbers" else latent

    def refuse_other(self, encoder: str) -> None:
        """Raise BadInput where this decoder was trained on the features of another than `encoder`."""
        if encoder != self.encoder:
            raise BadInput(
                f"the decoder was trained on the features of encoder {self.encoder[:12]}, this one is {encoder[:12]}: "
                "train one for it with `fasthmr train decoder`"
            )


def calmed(numbers: Tensor, deviation: float) -> Tensor:
    """Numbers (B, F, P) smoothed over time by a Gaussian of `deviation` frames, cut at three; ends are held."""
    reach = math.ceil(3 * deviation)
    weights = [math.exp(-0.5 * (i / deviation) ** 2) for i in range(-reach, reach + 1)]
    wide = F.pad(numbers.mT, (reach, reach), mode="replicate").mT  # (B, F + 2 reach, P)
    # A sum, not a convolution, which rounds metres to half a millimetre on a GPU.
    parts = [weight / sum(weights) * wide[:, i : i + numbers.shape[1]] for i, weight in enumerate(weights)]
    return torch.stack(parts).sum(0)


def facts_of(decoder: ClipDecoder) -> dict[str, Any]:
    """What a file of weights holds beside sizes."""
    return {
        "kind": decoder.kind,
        "target": decoder.target,
        "objective": decoder.objective,
        "encoder": decoder.encoder,
    }


def half_of(vae: MotionVAE) -> dict[str, Tensor]:
    """What a decoder into the latent has of a VAE, by its names there."""
    return {f"vae.{name}": value for name, value in vae.state_dict().items() if not name.startswith("encoder.")}


def decodes_with(decoder: ClipDecoder, vae: MotionVAE) -> bool:
    """Whether what a decoder has of its VAE is this one's."""
    theirs, own = half_of(vae), half_of(decoder.vae)
    return all(name in theirs and torch.equal(value.cpu(), theirs[name].cpu()) for name, value in own.items())


def save_decoder(decoder: ClipDecoder, path: Path) -> Path:
    """Write a decoder; one into the latent of the shipped VAE names that and leaves its weights out."""
    same = decoder.target == "latent" and decodes_with(decoder, load_vae(shipped_vae()))
    facts = {**facts_of(decoder), "vae": digest(shipped_vae()) if same else ""}
    return save(path, decoder, KIND, decoder.sizes, facts, without=("vae.",) if same else ())


def load_decoder(path: Path, *, steps: int = 1, seed: int = 0, look_ahead: int | None = None) -> ClipDecoder:
    """The decoder of a file of weights, in evaluation mode; raises BadInput where it is no such file."""
    state, sizes, facts = read(path, KIND)
    named = str(facts.pop("vae", ""))
    if named and named != digest(shipped_vae()):
        raise BadInput(f"{path}: decodes with VAE {named[:12]}, another than this installation has")
    if named:
        state |= half_of(load_vae(shipped_vae()))
    try:
        decoder = ClipDecoder(sizes, **facts, steps=steps, seed=seed, look_ahead=look_ahead)
    except (TypeError, KeyError, ValueError) as error:
        raise BadInput(f"{path}: does not describe its decoder ({error})") from error
    return cast(ClipDecoder, load_into(decoder, state, path))


def shipped_decoders() -> list[str]:
    """Names of the decoders that come with the package, sorted."""
    names = (path.name for path in ASSETS.iterdir())
    return sorted(name.removesuffix(".safetensors") for name in names if name.startswith("decoder"))


def decoder_file(name: str) -> Path:
    """The file of a shipped decoder or, where `name` has a `/` or ends in `.safetensors`, of that path.

    Raises BadInput where there is none.
    """
    if "/" not in name and not name.endswith(".safetensors"):
        return Path(str(ASSETS.joinpath(f"{one_of(name, shipped_decoders(), 'shipped decoder')}.safetensors")))
    if not Path(name).is_file():
        raise BadInput(f"{name}: there is no such file")
    return Path(name)
