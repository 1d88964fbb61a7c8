"""The motion VAE's training: clips of mocap, seen by the cameras that the pictures are seen by."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compress.errors import BadInput
from compress.training.loop import train
from compress.training.task import OptimizerStep, TrainConfig, TrainingTask
from diffusion.model.representation import Representation, rotations_of
from diffusion.model.sizes import DecoderSizes
from diffusion.model.vae import KIND, MotionVAE, vae_loss
from diffusion.model.weights import save
from diffusion.motion.camera_clips import CameraClips, Motion
from hmr.body.model import BodyModel
from hmr.evaluation.intervals import Interval, interval
from hmr.evaluation.metrics import mpjpe
from hmr.models.head import sixd_from_rotations
from hmr.motion.clip import MotionClip, mirrored, resampled
from hmr.motion.recordings import Split, load_clips
from hmr.world.synthetic import generator

KL = 1e-4  # weight of the divergence, MLD's
PIECES = 2000  # of motion that training draws clips of
STATISTICS = 512  # clips that means and deviations are taken over
HELD_OUT = {"val": 32, "test": 96}  # pieces of motion that report, of families that training never sees


class VAELoss(nn.Module):
    """The VAE and its loss."""

    def __init__(self, vae: MotionVAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, numbers: Tensor) -> dict[str, Tensor]:
        reconstructed, mean, log_variance = (found.float() for found in self.vae(numbers))
        parts = vae_loss(reconstructed, numbers, mean, log_variance, self.vae.deviation)
        return {"loss": parts["mse"] + KL * parts["kl"], **parts}


class VAETask(TrainingTask):
    """Training of a VAE to reconstruct clips of `motion`, validated on `validation`."""

    noun = "training of a motion VAE"

    def __init__(self, sizes: DecoderSizes, motion: Motion, validation: CameraClips, batch: int, seed: int = 0) -> None:
        self.sizes, self.motion, self.validation, self.size, self.seed = sizes, motion, validation, batch, seed
        torch.manual_seed(seed)
        vae = MotionVAE(sizes)
        numbers = self.some(STATISTICS, "statistics")
        vae.normalise(numbers.mean((0, 1)), numbers.flatten(0, 1).std(0))
        vae.start_linear(numbers)
        self.module = VAELoss(vae).train()

    def identity(self) -> dict[str, Any]:
        pieces = hashlib.sha256(self.motion.travel.cpu().numpy().tobytes()).hexdigest()
        return {"sizes": self.sizes.model_dump(), "motion": pieces, "body": self.motion.body.sha256}

    def batch(self, step: OptimizerStep) -> tuple[Tensor, ...]:
        return (self.some(len(step.share(self.size)), "batch", step.index, step.process),)

    def validate(self, module: nn.Module, step: OptimizerStep) -> dict[str, float]:
        vae: MotionVAE = module.vae  # type: ignore[assignment]  # a Module forgets what its children are
        return {"mpjpe_mm": reconstruction(vae, self.validation, self.motion.body).mean().item()}

    @torch.no_grad()
    def some(self, count: int, *key: int | str) -> Tensor:
        """Numbers (count, F, 133) of clips drawn by a key."""
        rng = generator("vae", self.seed, *key)
        clips = self.motion.draw(rng.integers(len(self.motion), size=count), rng)
        return numbers_in(clips, self.sizes.representation)


def train_vae(
    sizes: DecoderSizes,
    config: TrainConfig,
    body: BodyModel,
    mocap: Path | None = None,
    pieces: int = PIECES,
    clips: Sequence[MotionClip] | None = None,
) -> Path:
    """Train on `clips`, else on the shipped motion of the training families and that of `mocap`; returns the weights.

    It holds averaged weights in half precision with the latent's mean and deviation. Raises as `train`.
    """
    clips = load_clips("train", mocap) if clips is None else [resampled(clip) for clip in clips]
    if not clips:
        raise BadInput("there is no motion of the split train to train on")
    motion = Motion([*clips, *map(mirrored, clips)], sizes.frames, pieces, body, seed=config.seed)
    task = VAETask(sizes, motion, held_out_clips(sizes.frames, "val", body), config.batch, config.seed)
    trained: Any = train(task, config).weights
    vae: MotionVAE = trained.vae.cpu()
    with torch.no_grad():
        latent = vae.encode(task.some(STATISTICS, "statistics"))[0].flatten(0, 1)  # (N * T, D)
    vae.latent_mean.copy_(latent.mean(0))
    vae.latent_deviation.copy_(latent.std(0).clamp_min(1e-3))
    return save(config.out / "vae.safetensors", vae, KIND, sizes, {})


@torch.no_grad()
def held_out_clips(frames: int, split: Split, body: BodyModel) -> CameraClips:
    """The clips that report on a split: of the shipped recordings, so that they are the same on every machine."""
    motion = Motion(load_clips(split), frames, HELD_OUT[split], body, varied=False)
    return motion.draw(np.arange(len(motion)), generator("held", split))


@torch.no_grad()
def reconstruction(vae: MotionVAE, clips: CameraClips, body: BodyModel) -> Tensor:
    """MPJPE (B, F) mm of the bodies that reconstructed numbers stand for, with the true betas, by forward
    kinematics."""
    kind = vae.sizes.representation
    betas = clips.betas[:, None].expand(-1, clips.rotations.shape[1], -1)
    numbers = numbers_in(clips, kind)
    reconstructed = rotations_of(vae(numbers.to(vae.mean.device))[0].float().to(numbers.device), betas, body, kind)
    joints, true = (body.skeleton(r.flatten(0, 1), betas.flatten(0, 1)) for r in (reconstructed, clips.rotations))
    return mpjpe(joints, true).unflatten(0, reconstructed.shape[:2])


def numbers_in(clips: CameraClips, kind: Representation) -> Tensor:
    """The numbers (B, F, ...) of clips in a representation."""
    return clips.numbers if kind == "hybrik" else sixd_from_rotations(clips.rotations).flatten(2)


def gate(vae: MotionVAE, split: Split, body: BodyModel) -> Interval:
    """Reconstruction error in mm with its interval over pieces of motion of families that training never saw."""
    errors = reconstruction(vae, held_out_clips(vae.sizes.frames, split, body), body)
    return interval(errors.mean(1).cpu().numpy(), [str(piece) for piece in range(len(errors))])
