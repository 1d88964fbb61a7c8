"""Pictures without labels: what the original model predicts takes the labels' place.

An error is then the distance in mm between the joints of a compressed model and those of the original, on pictures that
the user has. It measures what compression changes, and not how wrong the original is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hmr.data.dataset import Frames
from hmr.data.sample import Sample
from hmr.evaluation.predict import predict

UNKNOWN = ("joints", "keypoints", "camera", "translation", "part", "canonical", "landmarks")  # to a model's output


def labelled_by(model: Any, frames: Frames) -> Frames:
    """The same frames with the rotations and betas that `model` predicts as their labels, whatever labels they have;
    all are drawn and kept in memory, 0.2 MB a frame. Raises BadInput where the model cannot take these frames."""
    kept, samples, others = frames.keeping(), list[Sample](), dict.fromkeys(UNKNOWN)
    (predictions,) = predict([model], kept)
    for output in predictions.outputs:
        pair = (value.float().cpu().numpy() for value in (output.rotations, output.betas))
        for rotations, betas in zip(*pair, strict=True):
            labels = {"rotations": rotations, "betas": betas, "gender": "neutral", **others}
            samples.append(replace(kept[len(samples)], **labels))
    return replace(frames.with_samples(samples), label_free=True)
