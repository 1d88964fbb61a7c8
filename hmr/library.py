"""What `import hmr` offers by name."""

from __future__ import annotations

from pathlib import Path

from compress.errors import BadInput
from hmr.data.dataset import Frames
from hmr.data.datasets import open_data, parse
from hmr.evaluation.label_free import labelled_by
from hmr.models.model import HMRModel


def frames(
    data: str,
    frames: int | None = None,
    *,
    model: HMRModel | None = None,
    masks: str | None = None,
    label_free: bool = False,
    mocap: Path | None = None,
) -> Frames:
    """The frames of DATA, `name[:split][@root]`, at most `frames` of them, cut as `model` has to see them.

    `masks` finds the person in what lies in files (see `hmr.data.masks.segmenter`); `mocap` is a folder of more motion
    for `train`. With `label_free` the labels are what `model` predicts now: compress it only afterwards.
    Raises BadInput for data that does not exist, that `model` cannot see, or that has no labels unless `label_free`.
    """
    found = open_data(parse(data, label_free, masks), frames, mocap, model=model)
    if not label_free:
        return found
    if model is None:
        raise BadInput("label-free frames take their labels from a model: name it, as frames(DATA, model=model, ...)")
    return labelled_by(model, found)
