"""Pictures without labels: what the original model says of them takes the labels' place.

An error is then the distance in mm between the joints of a compressed model and those of the original, on pictures that
the user has. It says what compression changes; how wrong the original is, it cannot say.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from diffusion.policy import decoder_in
from hmr.data.dataset import Frames
from hmr.data.sample import Sample
from hmr.evaluation import evaluate
from hmr.models.model import HMRModel

UNKNOWN = ("joints", "keypoints", "camera", "translation", "part", "canonical", "landmarks")  # to a model's output


def labelled_by(model: HMRModel, frames: Frames) -> Frames:
    """The same frames with the rotations and betas that `model` predicts as their labels, whatever labels they have;
    all are drawn and kept in memory, 0.2 MB a frame. Raises BadInput where the model cannot take these frames."""
    device, found = next(model.parameters()).device, list[Sample]()
    others = dict.fromkeys(UNKNOWN)
    with torch.inference_mode():
        for predicted in evaluate.predictions(model, decoder_in(model), frames, device):
            said = predicted.said
            for rotations, betas in zip(said.rotations.cpu().numpy(), said.betas.cpu().numpy(), strict=True):
                labels = {"rotations": rotations, "betas": betas, "gender": "neutral", **others}
                found.append(replace(frames[len(found)], **labels))
    return frames.with_samples(found)
