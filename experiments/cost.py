"""`fasthmr cost`: parameters, multiply-accumulates, time and memory of a model per frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.errors import BadInput
from compress.macs import Cost, Macs, Part, cost, macs, operators
from compress.policy import Policy
from compress.timing import peak_memory, timed
from diffusion.model.decoder import LatentDiffusionDecoder
from diffusion.model.representation import WIDTH
from diffusion.model.sizes import sizes_of
from diffusion.policy import NAME, DiffusionDecoder, decoder_in
from hmr.evaluation.provenance import provenance
from hmr.load import resolve_model
from hmr.models.families.camerahmr import IMAGE_SIDE
from hmr.models.model import HMRModel
from hmr.models.vit import PATCH

RUNS, WARMUP = 30, 3
PREFIX = "decoder-"  # of a size's name: `fasthmr cost decoder-paper`


def model_cost(name: str, steps: Sequence[Policy] = ()) -> dict[str, Any]:
    """What `fasthmr cost NAME --json` prints, after `steps`; nothing is measured where there are no weights.

    Raises BadInput for a name that is no model and for steps that do not fit it or have to look at data.
    """
    resolved = resolve_model(name, weightless=True)
    shaped(resolved.model, steps)
    device = next(resolved.model.parameters()).device
    if device.type != "meta" and torch.cuda.is_available():
        device = torch.device("cuda")
        resolved.model.to(device)
    measured = {"latency_ms": None, "peak_memory_bytes": None}
    if device.type != "meta":
        measured = measurements(resolved.model, device)
    return {
        **asdict(frame_cost(resolved.model, device)),
        **measured,
        "provenance": provenance("cost", resolved, None, None, device),
    }


def frame_cost(model: HMRModel, device: torch.device) -> Cost:
    """The cost of one frame with one person, the networks beside the backbone included; `model` is on `device`.

    A motion decoder's clip counts by its frames, and a third of them twice: clips of a long video overlap.
    """
    decoder = decoder_in(model)
    if decoder is None:
        return cost(model, *frame(model, device), beside=whole_images(model, device))
    model._modules.pop(NAME)
    try:
        encoder = frame_cost(model, device)
    finally:
        model.add_module(NAME, decoder)
    sizes, clip = decoder.sizes, clip_cost(decoder)
    new = sizes.frames - sizes.frames // 3  # frames that a clip adds
    part = Part(NAME, clip.params, Macs(**{name: -(-count // new) for name, count in asdict(clip.macs).items()}))
    total = Macs(**{name: count + asdict(part.macs)[name] for name, count in asdict(encoder.macs).items()})
    return replace(
        encoder,
        params=encoder.params + clip.params,
        params_thop=encoder.params_thop + clip.params,
        macs=total,
        parts=(*encoder.parts, part),
    )


def clip_cost(decoder: LatentDiffusionDecoder) -> Part:
    """Parameters and MACs of the networks that decode one clip, all denoising steps counted.

    Inverse kinematics has no weights and a few products of 3 x 3 matrices a joint: not counted.
    """
    sizes, device = decoder.sizes, decoder.vae.mean.device
    latent, time, features = (
        torch.zeros(1, *shape, device=device)
        for shape in ((sizes.tokens, sizes.dim), (), (sizes.frames, sizes.features))
    )
    inputs = (latent, time, features) if decoder.kind == "diffusion" else (features,)
    steps = decoder.steps if decoder.kind == "diffusion" else 1
    counted = macs(operators(decoder.predictor, *inputs)[""])
    back = macs(operators(decoder.vae.decoder, latent)[""]) if decoder.kind != "numbers" else Macs(0, 0, 0)
    start = macs(operators(decoder.start, features)[""])
    once = {name: asdict(back)[name] + count for name, count in asdict(start).items()}
    found = {name: steps * count + once[name] for name, count in asdict(counted).items()}
    networks = [decoder.start, decoder.predictor, *([] if decoder.kind == "numbers" else [decoder.vae])]
    return Part(NAME, sum(p.numel() for network in networks for p in network.parameters()), Macs(**found))


def decoder_cost(name: str) -> dict[str, Any]:
    """What `fasthmr cost decoder-SIZE --json` prints: a clip's cost, and a frame's share of it."""
    decoder = LatentDiffusionDecoder(sizes_of(name.removeprefix(PREFIX)), encoder="").eval()
    clip, frames = clip_cost(decoder), decoder.sizes.frames
    halves = (("denoiser", decoder.predictor), ("decoder of the VAE", decoder.vae.decoder))
    return {
        "name": name,
        "frames": frames,
        "params": clip.params,
        "macs_clip": asdict(clip.macs),
        "macs": {name: -(-count // frames) for name, count in asdict(clip.macs).items()},
        "parts": [{"name": part, "params": sum(p.numel() for p in module.parameters())} for part, module in halves],
        "provenance": provenance("cost", None, None, None, torch.device("cpu")),
    }


def shaped(model: HMRModel, steps: Sequence[Policy]) -> None:
    """Give `model`, maybe on the meta device, the structure that `steps` lead to; raises BadInput as their plans."""
    for step in steps:
        if isinstance(step, DiffusionDecoder):
            plan, decoder = step.read(model)
            reads, says = decoder.sizes.features, model.head.decshape.in_features + WIDTH
            if reads != says:
                raise BadInput(f"{step.weights} reads {reads} numbers a frame, and this model says {says}")
            plan.shape(model)
        else:
            step.plan(model).shape(model)


def frame(model: HMRModel, device: torch.device) -> tuple[Tensor, ...]:
    """A crop (1, 3, H, W), a mask (1, H, W) and where it takes one a condition (1, 3); no cost depends on what they
    show."""
    height, width = (n * PATCH for n in model.grid)
    shapes = [(1, 3, height, width), (1, height, width), *([(1, 3)] if model.family.condition else [])]
    return tuple(torch.zeros(shape, device=device) for shape in shapes)


def whole_images(model: HMRModel, device: torch.device) -> dict[str, Tensor]:
    """What CameraHMR's field-of-view network sees once a frame (1, 3, H, W), by the network's name."""
    side = IMAGE_SIDE
    return {"fov_net": torch.zeros(1, 3, side, side, device=device)} if hasattr(model, "fov_net") else {}


def measurements(model: HMRModel, device: torch.device) -> dict[str, Any]:
    """Latency in ms and peak memory in bytes of one frame with one person, after warm-up."""
    crop, *rest = frame(model, device)
    beside = whole_images(model, device)

    def once() -> None:
        for name, image in beside.items():
            model.get_submodule(name)(image)
        model(crop, *rest)

    seconds = timed({"frame": once}, RUNS, device, WARMUP)["frame"]
    median, p95 = (1000 * float(np.percentile(seconds, q)) for q in (50, 95))
    return {
        "latency_ms": {"median": median, "p95": p95, "runs": RUNS, "batch": len(crop)},
        "peak_memory_bytes": peak_memory(once, device),
    }
