"""Training of what decodes features: the denoiser, and regressors as simpler baselines."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import roma
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.context import fingerprint
from compress.errors import BadInput
from compress.training.loop import Progress, train
from compress.training.task import OptimizerStep, TrainConfig, TrainingTask
from diffusion.model.decoder import ClipDecoder, Kind, Target, decodes_with, facts_of, save_decoder
from diffusion.model.denoiser import Denoiser
from diffusion.model.representation import WIDTH, numbers_of
from diffusion.model.schedule import Objective, denoising_loss, scheduler
from diffusion.model.sizes import DecoderSizes
from diffusion.model.start import REACH, SMOOTH, SURE
from diffusion.model.vae import MotionVAE
from diffusion.motion.camera_clips import at, warp
from diffusion.motion.clips import FPS
from diffusion.motion.features import VideoFeatures
from hmr.body.files import load_body
from hmr.body.model import BodyModel
from hmr.evaluation.metrics import accel, mpjpe
from hmr.world.synthetic import generator

ERRORS = ("mpjpe_mm", "accel_mm_per_frame2")
HIDDEN = 0.5  # share of clips of which stretches are hidden
GAPS_S = (0.3, 1.5)  # s, a tracker's gaps
LOOK = 25  # steps after which each the loss on what is held out is looked at; the weights with the least are kept
LOOKS = 4  # clips of each of those videos that it is measured on
PATIENCE = 400  # steps without less of it that end a training
STARTS = 1000  # videos that the start of a decoder is fitted to


class DecoderLoss(nn.Module):
    """A decoder and the loss of what reads features in it; the VAE is frozen.

    acceleration: weight of the squared error of second differences in time, of a regressor.
    """

    def __init__(self, decoder: ClipDecoder, acceleration: float = 0.0) -> None:
        super().__init__()
        self.decoder, self.acceleration = decoder, acceleration
        decoder.vae.requires_grad_(False)
        self.steps = scheduler(decoder.objective)

    def forward(self, features: Tensor, seen: Tensor, numbers: Tensor, latent: Tensor) -> dict[str, Tensor]:
        """Features (B, F, W), which frames are seen (B, F), the true numbers (B, F, 133) and the latent (B, T, D) that
        the VAE has for them."""
        decoder, network = self.decoder, self.decoder.predictor
        normal, seen = decoder.normal(features, seen)
        with torch.no_grad():
            wanted = (decoder.wanted(numbers, latent) - decoder.begun(normal)) / decoder.left
        if isinstance(network, Denoiser):
            objective = decoder.objective
            return {
                "loss": denoising_loss(lambda z, time: network(z, time, normal, seen), wanted, objective, self.steps)
            }
        wrong = decoder.correction(normal, seen).float() - wanted
        loss = wrong.square().mean()
        if self.acceleration:
            loss = loss + self.acceleration * wrong.diff(n=2, dim=1).square().mean()
        return {"loss": loss}


class DecoderTask(TrainingTask):
    """Training of a decoder on features of `videos`, validated on those of `validation`."""

    noun = "training of a decoder"

    def __init__(
        self,
        decoder: ClipDecoder,
        vae: MotionVAE,
        videos: Sequence[VideoFeatures],
        validation: Sequence[VideoFeatures],
        batch: int,
        seed: int = 0,
        acceleration: float = 0.0,
    ) -> None:
        if not videos:
            raise BadInput("there are no videos to train a decoder on")
        self.vae, self.videos, self.validation, self.size, self.seed = vae.eval(), videos, validation, batch, seed
        self.decoder = decoder
        self.acceleration = acceleration
        self.module: nn.Module = DecoderLoss(decoder, acceleration)
        self.body = load_body()  # of the data, which stay where they are; the decoder's goes where it is trained
        scale = decoder.scale
        mean, deviation = statistics(videos)
        scale.mean.copy_(mean)
        scale.deviation.copy_(deviation.clamp_min(1e-3))
        self.shrink = self.begin(generator("decoder", seed, "start"))
        self.module.train()
        self.choose_every, self.patience = (LOOK, PATIENCE) if validation else (None, None)

    @torch.no_grad()
    def begin(self, rng: np.random.Generator) -> float:
        """Fit the start of the decoder to clips of at most STARTS videos; how far what features add was shrunk."""
        decoder, vae = self.decoder, self.vae
        some = [self.clip(self.videos[i], rng, hides=False) for i in rng.permutation(len(self.videos))[:STARTS]]
        features, seen, rotations, betas = (torch.cat(part) for part in zip(*some, strict=True))
        _, _, numbers, latent = self.targets(features, seen, rotations, betas)
        normal = decoder.normal(features, seen)[0]
        said = decoder.scale.undone(normal)[..., -WIDTH:]
        decoder.start.fit(said, numbers_of(rotations, betas, self.body), numbers)
        decoder.left.zero_()  # the error is the start's alone
        known = decoder.start.numbers(said, normal, vae.mean, vae.deviation)
        if decoder.target == "latent":
            decoder.start.fit_latent(known, vae.target(known * vae.deviation + vae.mean))
        wrong = (numbers - vae.mean) / vae.deviation - known
        shrink = decoder.start.fit_features(normal, wrong, lambda: self.measure(decoder)[ERRORS[0]] or 0.0)
        left = decoder.wanted(numbers, latent) - decoder.begun(normal)
        decoder.left.copy_(left.square().mean().sqrt().clamp_min(1e-3))
        return shrink

    def identity(self) -> dict[str, Any]:
        digest, prior = hashlib.sha256(), hashlib.sha256()
        for video in self.videos:
            digest.update(video.features.cpu().numpy().tobytes() + video.rotations.cpu().numpy().tobytes())
        for value in self.vae.state_dict().values():
            prior.update(value.cpu().numpy().tobytes())
        facts = {**facts_of(self.decoder), "sizes": self.decoder.sizes.model_dump(), "vae": prior.hexdigest()}
        network = self.decoder.predictor
        facts["weights"] = "" if network is None else fingerprint(network)
        hidden = [HIDDEN, *GAPS_S]
        facts["acceleration"] = self.acceleration
        start = [REACH, SMOOTH, str(self.shrink), SURE]
        look = [LOOK, LOOKS, PATIENCE] if self.validation else None
        return {**facts, "features": digest.hexdigest(), "start": start, "hidden": hidden, "look": look}

    @torch.no_grad()
    def batch(self, step: OptimizerStep) -> tuple[Tensor, ...]:
        """Clips of features with the numbers and the latent of their true poses."""
        return self.examples(self.clips(step))

    def examples(self, clips: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What the module takes of clips as `clips` gives them."""
        return self.targets(*clips)

    @torch.no_grad()
    def targets(self, features: Tensor, seen: Tensor, rotations: Tensor, betas: Tensor) -> tuple[Tensor, ...]:
        """Clips as `clips` gives them -> features, what is seen, the numbers of true poses, and the latent of those."""
        body = self.decoder.body  # where the decoder is trained, and there the clips go
        place = body.v_template.device
        features, seen, rotations, betas = (each.to(place) for each in (features, seen, rotations, betas))
        numbers = numbers_of(rotations, betas, body, self.vae.sizes.representation)
        return features, seen, numbers, self.vae.to(numbers.device).target(numbers)

    def clips(self, step: OptimizerStep) -> tuple[Tensor, ...]:
        """Features (B, F, W), which frames are seen (B, F), rotations (B, F, 24, 3, 3) and betas (B, F, 10); warped and
        reversed alike."""
        rng = generator("decoder", self.seed, step.index, step.process)
        chosen = rng.integers(len(self.videos), size=len(step.share(self.size)))
        parts = [self.clip(self.videos[i], rng) for i in chosen]
        return tuple(torch.cat(values) for values in zip(*parts, strict=True))

    def clip(self, video: VideoFeatures, rng: np.random.Generator, hides: bool = True) -> tuple[Tensor, ...]:
        """Features (1, F, W), which frames are seen (1, F), rotations (1, F, 24, 3, 3) and betas (1, F, 10) of some of
        a video, at 30 frames/s whatever the video's rate. hides: whether a stretch of it may be."""
        frames, rate = self.vae.sizes.frames, video.fps / FPS
        long = int((len(video) - 1) / rate) + 1  # whole frames at 30 frames/s
        times = warp(rng, 1, frames, max(long, frames))  # a short video stands still at its ends, unseen
        inside = torch.from_numpy(times <= long - 1)
        places = torch.from_numpy((times.clip(0, long - 1) * rate).astype(np.float32))
        quaternions = at(roma.rotmat_to_unitquat(video.rotations)[None], places)
        rotations = roma.unitquat_to_rotmat(nn.functional.normalize(quaternions, dim=-1))
        seen = (inside & torch.from_numpy(unhidden(rng, frames))) if hides else inside
        return at(video.features[None], places), seen, rotations, at(video.betas[None], places)

    def validate(self, module: nn.Module, step: OptimizerStep) -> dict[str, Any]:
        errors = self.measure(module.decoder)  # type: ignore[arg-type]  # Module forgets its children
        return {**errors, "loss": self.held_out(module)} if self.validation else errors

    def held_out(self, module: nn.Module) -> float:
        """The loss on clips of the videos held out, of which the same stretches are hidden, with the same noise, every
        time. A denoiser's is over all timesteps, so it does not forget to sample where one step errs least."""
        rng, mode = generator("decoder", self.seed, "held out"), module.training
        parts = [self.clip(video, rng) for _ in range(LOOKS) for video in self.validation]
        batch = self.examples(tuple(torch.cat(values) for values in zip(*parts, strict=True)))
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            loss = module.eval()(*batch)["loss"].item()
        module.train(mode)
        return float(loss)

    @torch.no_grad()
    def measure(self, decoder: ClipDecoder) -> dict[str, float | None]:
        """Errors of a decoder on the videos held out, means over them, None of none; acceleration has those of three
        frames or more."""
        place, mode = decoder.vae.mean.device, decoder.training
        decoder.eval()
        each = [
            errors(decoder.video(v.features.to(place), v.predicted_betas.to(place), v.fps).cpu(), v, self.body)
            for v in self.validation
        ]
        decoder.train(mode)
        parts_of = list(zip(*each, strict=True)) or [()] * len(ERRORS)
        means = ([part.mean().item() for part in parts if len(part)] for parts in parts_of)
        return {name: float(np.mean(found)) if found else None for name, found in zip(ERRORS, means, strict=True)}


def statistics(videos: Sequence[VideoFeatures]) -> tuple[Tensor, Tensor]:
    """Mean and deviation (W,) of the features of all frames, a video after the other."""
    count = sum(map(len, videos))
    mean = torch.stack([video.features.double().sum(0) for video in videos]).sum(0) / count
    squares = torch.stack([(video.features.double() - mean).square().sum(0) for video in videos]).sum(0)
    return mean.float(), (squares / count).sqrt().float()


def unhidden(rng: np.random.Generator, frames: int) -> NDArray[np.bool_]:
    """Which of a clip's frames (frames,) at 30 frames/s are seen, where a stretch of GAPS_S is hidden of some clips."""
    seen = np.ones(frames, bool)
    length = min(round(rng.uniform(*GAPS_S) * FPS), frames - 1)  # something is seen of every clip
    first = rng.integers(frames - length + 1)
    if rng.random() < HIDDEN:
        seen[first : first + length] = False
    return seen


def errors(rotations: Tensor, video: VideoFeatures, body: BodyModel) -> tuple[Tensor, Tensor]:
    """MPJPE (N,) mm and acceleration error (N - 2,) of rotations (N, 24, 3, 3) predicted of a video, posed with the
    encoder's betas."""
    joints = body.skeleton(rotations, video.predicted_betas)
    true = body.skeleton(video.rotations, video.betas)
    return mpjpe(joints, true), accel(joints, true)


@dataclass(frozen=True)
class TrainedDecoder:
    """The file of a trained decoder, and figures of its training as JSON values: videos; errors on those of `val`,
    before and after; steps and seconds, and the step whose weights were kept."""

    path: Path
    measured: dict[str, Any]


def train_decoder(
    vae: MotionVAE,
    videos: Sequence[VideoFeatures],
    validation: Sequence[VideoFeatures],
    encoder: str,
    config: TrainConfig,
    kind: Kind = "diffusion",
    target: Target | None = None,
    objective: Objective = "hybrid",
    init: ClipDecoder | None = None,
    acceleration: float = 0.0,
    observe: Callable[[Progress], None] = lambda progress: None,
) -> TrainedDecoder:
    """Train a decoder on an encoder's features; its file of weights knows the encoder.

    init: the decoder whose network it starts from, maybe another encoder's; all that has a closed form is made anew for
    these features. A linear decoder is nothing else, so it is trained no further, whatever the budget. acceleration:
    see `DecoderLoss`. Raises as `compress.training.loop.train`, and BadInput for videos without frames and an `init` of
    another kind.
    """
    sizes = sizes_for(vae, videos)
    torch.manual_seed(config.seed)
    decoder = ClipDecoder(sizes, kind, target, objective, encoder=encoder, vae=vae)
    if init is not None:
        start_from(decoder, init)
    task = DecoderTask(decoder, copy.deepcopy(vae), videos, validation, config.batch, config.seed, acceleration)
    before = task.measure(decoder)
    measured: dict[str, Any] = {"videos": len(videos), "val": {"after": before}}
    if kind != "linear":
        run = train(task, config, observe)
        trained: Any = run.weights
        decoder = trained.decoder
        measured["val"] = {"before": before, "after": task.measure(decoder)}
        measured |= {"steps": run.progress.step, "seconds": run.progress.seconds}
        if task.choose_every:
            measured["chosen"] = run.progress.chosen
    return TrainedDecoder(save_decoder(decoder.eval(), config.out / "decoder.safetensors"), measured)


def start_from(decoder: ClipDecoder, init: ClipDecoder) -> None:
    """Give a decoder the network of another one. Raises BadInput where that is none of this kind and these sizes."""
    theirs, ours = (
        {"kind": one.kind, "target": one.target, "objective": one.objective, **one.sizes.model_dump()}
        for one in (init, decoder)
    )
    for fact, value in ours.items():
        if theirs[fact] != value:
            raise BadInput(f"init: its {fact} is {theirs[fact]} and not {value}: name another decoder, or none")
    if not decodes_with(init, decoder.vae):
        raise BadInput("init: it decodes with another VAE: name a decoder of this one, or none")
    if decoder.predictor is None or init.predictor is None:
        raise BadInput("init: a linear decoder starts from nothing: leave init out")
    decoder.predictor.load_state_dict(init.predictor.state_dict())


def sizes_for(vae: MotionVAE, videos: Sequence[VideoFeatures]) -> DecoderSizes:
    """Those of the VAE, for features as wide as the videos'. The filter of the start smooths, and nothing else does."""
    return vae.sizes.model_copy(update={"calm": 0.0, **({"features": videos[0].features.shape[1]} if videos else {})})
