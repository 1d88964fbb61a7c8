"""Pictures without labels: what the original model says of them takes the labels' place.

An error is then the distance in mm between the joints of a compressed model and those of the original, on pictures that
the user has. It says what compression changes; how wrong the original is, it cannot say.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from diffusion.policy import decoder_in
from hmr.data.datasets import Frames
from hmr.evaluation import evaluate
from hmr.world.view import Sample


def labelled(model: Any, data: Frames, device: torch.device) -> list[Sample]:
    """Every frame of `data` with the rotations and betas that `model` says, whatever labels it has."""
    found: list[Sample] = []
    with torch.inference_mode():
        for predicted in evaluate.predictions(model, decoder_in(model), data, device):
            said = predicted.said
            for rotations, betas in zip(said.rotations.cpu(), said.betas.cpu(), strict=True):
                words = {"rotations": rotations.numpy(), "betas": betas.numpy(), "gender": "neutral", "landmarks": None}
                found.append(replace(data[len(found)], **words))
    return found
