"""`fasthmr evaluate`: a model's errors on a data set, beside predictors that look at no picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import roma
import torch
from torch import Tensor

from hmr.data.dataset import Frames
from hmr.data.real_people.dataset import RealFrames
from hmr.data.real_people.sports2d import beside
from hmr.data.sample import known
from hmr.evaluation.errors import Errors, People3D, PosedBodies, all_errors, labelled, paired, predicted, row
from hmr.evaluation.measure import body_for
from hmr.evaluation.multiview import evaluate_real
from hmr.evaluation.predict import predict

POSES = 1000  # training frames that the mean pose is taken over


def evaluate(
    model: Any,
    frames: Frames,
    mean: Tensor | None = None,
    against: Any | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Rows of errors and the model's frames/s on `frames`, as JSON values.

    mean (24, 3, 3): what the trivial predictors give, see `mean_rotations`; without it there are none. frames_per_s is
    of the model alone, after a warm-up: drawing, body and metrics are left out. With a second model, `paired` is by how
    much `model` errs more than `against` on the same frames. Raises BadInput where the true poses are unknown, and
    where a model predicts a value that is not finite.
    """
    if isinstance(frames, RealFrames):
        return evaluate_real(model, frames, beside(frames), mean, against, progress)
    truths: list[People3D] = []
    models = [model] if against is None else [model, against]
    mine, *others = predict(models, frames, lambda seen: truths.append(labelled(seen)), progress)
    body = body_for(frames, model)
    guesses: dict[str, Sequence[People3D]] = {
        "model": [predicted(output) for output in mine.outputs],
        **trivial(truths, mean),
    }
    errors = {name: all_errors(body, each, truths) for name, each in guesses.items()}
    rows = [row(name, each, frames) for name, each in errors.items()]
    result: dict[str, Any] = {"rows": rows, "frames_per_s": len(frames) / mine.seconds}
    for other in others:
        result["paired"] = difference(errors["model"], other, truths, frames, body)
    return result


def difference(mine: Errors, other: Any, truths: Sequence[People3D], frames: Frames, body: Any) -> dict[str, Any]:
    """By how much MPJPE is above that of another model's predictions."""
    theirs = all_errors(body, [predicted(output) for output in other.outputs], truths)
    return {"mpjpe_mm": paired(mine, theirs, frames.recordings)}


def trivial(truths: Sequence[People3D], mean: Tensor | None) -> dict[str, list[People3D]]:
    """Predictors that know the training set's mean pose alone, and that with each frame's true root."""
    if mean is None:
        return {}
    guesses: dict[str, list[People3D]] = {"mean_pose_true_root": [], "mean_pose_mean_root": []}
    for truth in truths:
        assert isinstance(truth, PosedBodies)  # nobody asks for a mean pose beside an adapter's joints
        pose, average = mean.to(truth.rotations).expand_as(truth.rotations), torch.zeros_like(truth.betas)
        true_root = torch.cat((truth.rotations[:, :1], pose[:, 1:]), 1)
        guesses["mean_pose_true_root"].append(PosedBodies(true_root, average))
        guesses["mean_pose_mean_root"].append(PosedBodies(pose, average))
    return guesses


def mean_rotations(frames: Frames) -> Tensor:
    """(24, 3, 3): per joint, the rotation nearest to the mean over up to POSES frames spread over `frames`."""
    indices = np.unique(np.linspace(0, len(frames) - 1, POSES).astype(int)).tolist()
    mean = np.mean([known(frames[i].rotations, "poses") for i in indices], 0, dtype=np.float64)
    return roma.special_procrustes(torch.from_numpy(mean)).float()
