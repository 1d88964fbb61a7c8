"""`make gpu-check`: on a CUDA machine, in minutes, whether what holds on a CPU holds there. Prints one JSON object.

It runs `reference` plain and merged; CUDA itself raises where a hot path waits for the device.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch

import hmr
from compress.policies.merge_tokens import MergeTokens
from diffusion.model.decoder import ClipDecoder
from diffusion.model.representation import decode, encode
from diffusion.model.sizes import DecoderSizes
from diffusion.model.vae import MotionVAE
from diffusion.training.decoder import DecoderLoss
from experiments.side_by_side import side_by_side
from hmr.body.files import load_body
from hmr.data.sample import batch
from hmr.evaluation.judge import JointJudge
from tests.planning import applied, planned

DEVICE = torch.device("cuda")
FAR_MM = 1.0  # TF32 is off by default, so rounding is float32's; a tie may merge another pair


def reference(keep: int | None = None) -> Any:
    model = hmr.load("reference")
    if keep is not None:
        step = MergeTokens(keep=keep, per_layer=40)
        applied(planned(step, model), model)
        model.name = f"reference, {keep} tokens"
    return model


def unwaiting(call: Callable[[], Any]) -> Any:
    """`call` again, once it has put its constants there, while CUDA raises where anything waits."""
    call()
    torch.cuda.set_sync_debug_mode("error")
    try:
        return call()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@torch.no_grad()
def joints_apart(keep: int | None, frames: Any) -> float:
    """Worst distance in mm of a joint on CUDA from the one on the CPU."""
    seen, there = batch(frames), batch(frames, DEVICE)
    model = reference(keep)
    cpu = model.joints(model(*seen.inputs))
    model = reference(keep).to(DEVICE)
    _ = model.body
    cuda = unwaiting(lambda: model.joints(model(*there.inputs)))
    return 1000 * (cuda.cpu() - cpu).norm(dim=-1).max().item()


@torch.no_grad()
def judged(frames: Any) -> float:
    """Mean error in mm of the judge of a layer search, which waits for nothing but the mean."""
    model = reference().to(DEVICE)
    judge = JointJudge(model, frames, load_body())
    tokens = model.encode(judge.crops[0])
    return unwaiting(lambda: judge.errors(0, tokens)).mean().item()


def poses_come_back() -> float:
    """Largest difference of rotations that became numbers and rotations again."""
    body, betas = load_body().to(DEVICE), torch.zeros(8, 10, device=DEVICE)
    turns = torch.eye(3, device=DEVICE).expand(8, 24, 3, 3)
    back = decode(encode(turns, betas, body), betas, body)
    return (back - turns).abs().max().item()


def decoder_step() -> float:
    """The loss of a step of decoder training, forward and backward without waiting."""
    sizes = DecoderSizes(features=140)
    loss = DecoderLoss(ClipDecoder(sizes, encoder="", vae=MotionVAE(sizes))).to(DEVICE)
    shapes = ((sizes.frames, 140), (sizes.frames, sizes.width), (sizes.tokens, sizes.dim))
    features, numbers, latent = (torch.randn(4, *shape, device=DEVICE) for shape in shapes)
    seen = torch.rand(4, sizes.frames, device=DEVICE) < 0.7

    def step() -> Any:
        found = loss(features, seen, numbers, latent)["loss"]
        found.backward()
        return found

    return unwaiting(step).item()


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("gpu-check: there is no CUDA device here")
    frames = list(hmr.frames("synth:test", 16))
    apart = {str(keep): joints_apart(keep, frames) for keep in (None, 90)}
    turned = poses_come_back()
    checks = {"joints_apart_mm": apart, "rotations_apart": turned, "judge_mm": judged(frames), "loss": decoder_step()}
    timed = side_by_side([reference(), reference(90)], [1, 8, 64], 9, False, DEVICE)
    print(json.dumps({"device": torch.cuda.get_device_name(), **checks, **timed}))  # noqa: T201
    if max(apart.values()) > FAR_MM or turned > 1e-4:
        sys.exit(f"gpu-check: CUDA gives something else: {checks}")


if __name__ == "__main__":
    main()
