"""What `import hmr` offers by name, beside `hmr.resolver.load`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compress.errors import BadInput
from hmr.adapters.adapted import gives_joints
from hmr.data.dataset import Frames
from hmr.data.datasets import open_data, parse
from hmr.evaluation.label_free import labelled_by


def frames(
    data: str,
    frames: int | None = None,
    *,
    model: Any | None = None,
    masks: str | None = None,
    label_free: bool = False,
    mocap: Path | None = None,
    size: tuple[int, int] | None = None,
    keep: bool = True,
) -> Frames:
    """The frames of DATA, `name[:split][@root]`, at most `frames` of them, cut as `model` has to see them.

    masks: what finds the person in data that lies in files (see `hmr.data.masks.segmenter`). label_free: the labels are
    what `model` predicts now; compress it only afterwards. mocap: a folder of more motion for `train`. size: height and
    width of crops, where they are not those that `model`, or without one `reference`, sees. keep: frames that were
    drawn stay in memory, 0.2 MB each.

    Raises BadInput for data that does not exist, that `model` cannot see, or that has no labels unless `label_free`.
    """
    found = open_data(parse(data, label_free, masks), frames, mocap, size, None if model is None else model.encoder)
    if label_free and model is None:
        raise BadInput("label-free frames take their labels from a model: name it, as frames(DATA, model=model, ...)")
    if label_free:
        return labelled_by(model, found)
    if model is not None and gives_joints(model):
        raise BadInput(f"{model.encoder.name} gives joints that no label has: measure its distances, by --label-free")
    return found.keeping() if keep else found
