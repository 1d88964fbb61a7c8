"""A model whose pose head is replaced by a motion decoder: an encoder and a decoder, called on a clip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from compress.artefact import Base
from compress.context import fingerprint
from compress.cost.macs import Cost, Macs, Part, macs, operators
from compress.errors import BadInput
from compress.late import LateStack
from compress.stack import Schedule, Stack
from diffusion.model.decoder import ClipDecoder
from diffusion.model.denoiser import Denoiser
from diffusion.model.representation import WIDTH
from diffusion.motion.clips import FPS
from diffusion.motion.features import read_off
from hmr.evaluation.predict import joined
from hmr.models.head import JOINTS, HMROutput
from hmr.models.model import HMRModel

BATCH = 32  # frames that the encoder takes at once: memory does not grow with the clip


class DecodedModel(nn.Module):
    """An encoder, and a decoder in the place of its pose head; shape and camera are the encoder's. They are an
    `HMRModel` and a `ClipDecoder`, or exported files of those.

    Called on the frames of one clip in their order. Policies see the encoder's stack.
    """

    takes_clips = True
    decoded_by = "motion_decoder"  # the policy that an exported file names for whoever loads it

    def __init__(self, encoder: Any, decoder: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder.to(next(encoder.parameters()).device).eval()

    @property
    def stack(self) -> Stack:
        return self.encoder.stack

    @property
    def stacks(self) -> dict[str, LateStack]:
        return self.encoder.stacks

    @property
    def schedule(self) -> Schedule:
        return self.encoder.schedule

    @property
    def protect(self) -> float | None:
        return self.encoder.protect

    @property
    def base(self) -> Base:
        return self.encoder.base

    @property
    def compressed(self) -> bool:
        return self.encoder.compressed

    def forward(
        self, crops: Tensor, masks: Tensor | None = None, condition: Tensor | None = None, *, fps: float = FPS
    ) -> HMROutput:
        """One clip's crops (N, 3, H, W) in their order, at `fps` frames/s; the rest as `HMRModel.forward`."""
        parts = [
            self.encoder(*(None if value is None else value[i : i + BATCH] for value in (crops, masks, condition)))
            for i in range(0, len(crops), BATCH)
        ]
        return self.decoded(joined(parts), fps)

    def decoded(self, output: HMROutput, fps: float | None) -> HMROutput:
        """The encoder's output on the N frames of one clip, with the decoder's rotations.

        Raises BadInput where the frames are single pictures (fps None).
        """
        if fps is None:
            raise BadInput("this model decodes motion, and these frames are single pictures: name a video data set")
        rotations = self.decoder.video(self.reading(output), output.betas.float(), fps)  # (N, 24, 3, 3)
        return replace(output, global_orient=rotations[:, :1], body_pose=rotations[:, 1:])

    def reading(self, output: HMROutput) -> Tensor:
        """What the decoder reads (N, W) of the encoder's output on N frames."""
        return read_off(output, self.decoder.body)

    def joints(self, output: HMROutput) -> Tensor:
        """As `HMRModel.joints`."""
        return self.encoder.joints(output)

    def vertices(self, output: HMROutput) -> Tensor:
        """As `HMRModel.vertices`."""
        return self.encoder.vertices(output)

    def cost(self) -> Cost:
        """The encoder's cost of a frame, and the decoder's of a clip shared out among the frames that it adds: a third
        of each clip of a long video overlaps the one before, and with a limited look-ahead each frame has its clip."""
        encoder, clip, sizes = self.encoder.cost(), clip_cost(self.decoder), self.decoder.sizes
        added = sizes.frames - sizes.frames // 3 if self.decoder.look_ahead is None else 1
        part = Part("decoder", clip.params, Macs(**{name: -(-n // added) for name, n in asdict(clip.macs).items()}))
        total = Macs(**{name: n + getattr(part.macs, name) for name, n in asdict(encoder.macs).items()})
        return replace(
            encoder,
            params=encoder.params + clip.params,
            params_thop=encoder.params_thop + clip.params,
            macs=total,
            parts=(*encoder.parts, part),
        )

    def calls(self) -> dict[str, tuple[int, Callable[[], object]]]:
        """As `HMRModel.calls`; the decoder takes a clip at once."""
        frames, device = self.decoder.frames, next(self.parameters()).device
        features = torch.zeros(frames, self.decoder.width, device=device)
        decode = partial(self.decoder.video, features, torch.zeros(frames, 10, device=device), FPS)
        return {**self.encoder.calls(), "decoder": (frames, decode)}


def encoder_id(encoder: HMRModel) -> str:
    """The identity of an encoder: sha256 of weights, token schedule and mask threshold."""
    return fingerprint(encoder, encoder.schedule, encoder.protect)


def clip_cost(decoder: ClipDecoder) -> Part:
    """Parameters and MACs of the networks that decode one clip, all denoising steps counted.

    Inverse kinematics has no weights and a few products of 3 x 3 matrices a joint: not counted.
    """
    sizes, device = decoder.sizes, decoder.vae.mean.device
    latent, time, normal = (
        torch.zeros(1, *shape, device=device)
        for shape in ((sizes.tokens, sizes.dim), (), (sizes.frames, sizes.features))
    )
    network, steps = decoder.predictor, decoder.steps if decoder.kind == "diffusion" else 1
    said, one = torch.zeros(1, sizes.frames, WIDTH, device=device), torch.ones(sizes.width, device=device)
    passes: list[tuple[int, nn.Module, tuple[Tensor, ...]]] = [(1, decoder.start, (said, normal, one, one))]
    if network is not None:
        seen = torch.ones(1, sizes.frames, dtype=torch.bool, device=device)
        first = (latent, time) if isinstance(network, Denoiser) else ()
        passes.append((steps, network, (*first, normal, seen)))
    if decoder.target == "latent":
        passes.append((1, decoder.vae.decoder, (latent,)))
    counts = [(times, asdict(macs(operators(module, *given)[""]))) for times, module, given in passes]
    total = {name: sum(times * count[name] for times, count in counts) for name in counts[0][1]}
    return Part("decoder", sum(p.numel() for _, module, _ in passes for p in module.parameters()), Macs(**total))


def refuse_other_bodies(model: Any) -> None:
    """Raise BadInput where a model's pose is not that of SMPL's 24 joints."""
    joints = model.head.joints
    if joints != JOINTS:
        raise BadInput(f"the motion decoder needs SMPL bodies of {JOINTS} joints, and this model has {joints}: a hand?")


def features_of(model: Any) -> int:
    """How many numbers a decoder reads of each frame of a model."""
    return model.head.decshape.in_features + WIDTH
