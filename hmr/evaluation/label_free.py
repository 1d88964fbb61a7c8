"""Pictures without labels: what the original model predicts takes the labels' place.

An error is then the distance in mm between the joints of a compressed model and those of the original, on pictures that
the user has. It measures what compression changes, and not how wrong the original is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from hmr.data.dataset import Frames
from hmr.data.sample import Sample
from hmr.evaluation.errors import PosedBodies, predicted
from hmr.evaluation.predict import predict

# of a sample: what of it no model's output says is unknown
LABELS = ("rotations", "betas", "joints", "keypoints", "camera", "translation", "part", "canonical", "landmarks")


def labelled_by(model: Any, frames: Frames) -> Frames:
    """The same frames with what `model` predicts as their labels, rotations and betas or an adapter's joints, whatever
    labels they have; all are drawn and kept in memory, 0.2 MB a frame. Raises BadInput where the model cannot take
    these frames."""
    kept, samples = frames.keeping(), list[Sample]()
    (predictions,) = predict([model], kept)
    for output in predictions.outputs:
        for labels in labels_of(output):
            samples.append(replace(kept[len(samples)], **{**dict.fromkeys(LABELS), **labels}))
    return replace(frames.with_samples(samples), label_free=True)


def labels_of(output: Any) -> Iterator[dict[str, Any]]:
    """The labels of each frame of a batch that a model's output makes, as fields of `Sample`."""
    told = predicted(output)
    if isinstance(told, PosedBodies):
        pair = (value.cpu().numpy() for value in (told.rotations, told.betas))
        yield from ({"rotations": r, "betas": b, "gender": "neutral"} for r, b in zip(*pair, strict=True))
    else:
        yield from ({"joints": joints} for joints in told.from_root.cpu().numpy())
