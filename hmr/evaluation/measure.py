"""What `compress` is handed with frames: how wrong and how fast a model is on them (`compress.frames`)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from compress.context import Observer
from hmr.adapters.adapted import gives_joints
from hmr.body.conventions import CONVENTIONS, ConventionBody
from hmr.data.dataset import DataSpec, Frames
from hmr.data.datasets import open_data
from hmr.data.sample import batch
from hmr.evaluation.errors import KEYS, Errors, People3D, all_errors, labelled, paired, predicted, row
from hmr.evaluation.predict import merged_shares, predict
from hmr.training.distance import distance, joint_distance

MERGED = "person_merged"
RECOVERY_FRAMES = 4096  # rendered pictures that recovery learns from: each is drawn when a step first asks for it


@dataclass(frozen=True)
class Measurement:
    """A `compress.frames.Scores`: a model's errors on frames, its speed, and the share of persons merged.

    person_merged (N,): see `hmr.evaluation.predict.person_merged`; None where no token is reduced or no mask is known.
    """

    name: str
    frames: Frames
    errors: Errors
    frames_per_s: float
    person_merged: Tensor | None

    def to_bytes(self) -> bytes:
        """All of it but its frames."""
        merged = {} if self.person_merged is None else {MERGED: self.person_merged}
        return save({**vars(self.errors), **merged}, {"name": self.name, "frames_per_s": repr(self.frames_per_s)})

    @classmethod
    def of_bytes(cls, content: bytes, frames: Frames) -> Measurement:
        """What `to_bytes` gave, of the same frames."""
        length = int.from_bytes(content[:8], "little")
        told, found = json.loads(content[8 : 8 + length])["__metadata__"], load(content)
        merged = found.pop(MERGED, None)
        return cls(told["name"], frames, Errors(**found), float(told["frames_per_s"]), merged)

    def row(self, original: Measurement | None = None) -> dict[str, Any]:
        """The figures as JSON values; `mpjpe_rise_mm` is over `original`, paired on the same frames."""
        found = row(self.name, self.errors, self.frames)
        return {
            "frames_per_s": self.frames_per_s,
            **{key: found[key] for key in (*KEYS, "frames_mean", "per_joint_mm", "per_clip")},
            "mpjpe_rise_mm": original and paired(self.errors, original.errors, self.frames.recordings),
            **merged_shares(self.person_merged),
        }


def measure(model: Any, frames: Frames, name: str, observer: Observer) -> Measurement:
    """The errors of `model` on every frame, and its frames/s. Raises BadInput where the true poses are unknown."""
    truths: list[People3D] = []
    (found,) = predict(
        [model],
        frames,
        lambda seen: truths.append(labelled(seen)),
        lambda done: observer(f"measuring {name}", "", done, len(frames)),
    )
    errors = all_errors(body_for(frames, model), [predicted(output) for output in found.outputs], truths)
    return Measurement(name, frames, errors, len(frames) / found.seconds, found.person_merged)


def body_for(frames: Frames, model: Any) -> Any:
    """What errors of `model` on these frames are measured on: SMPL by the data's convention, or the model's own body,
    where there is none or any body's skeleton will do: a `BodyModel`, or what stands for one where an adapter's joints
    are measured.
    Raises BadInput where files of SMPL or MANO are missing."""
    convention = frames.notes.get("convention")
    if convention is None or CONVENTIONS[convention].regressor == "skeleton":
        return model.encoder.body
    return ConventionBody(CONVENTIONS[convention]).to(next(model.parameters()).device)


@dataclass(frozen=True)
class RecoveryPictures:
    """A `compress.frames.Pictures`: frames without a look at their poses, and a distance of outputs on a body."""

    frames: Frames
    distance: Callable[[Any, Any], Tensor]

    def __len__(self) -> int:
        return len(self.frames)

    def read(self, indices: Any) -> tuple[Any, ...]:
        """Crops (B, 3, H, W), masks (B, H, W) and conditions (B, 3) of some frames."""
        return batch([self.frames[i] for i in indices]).inputs

    def provenance(self) -> dict[str, Any]:
        """Which pictures these are, as JSON values."""
        return self.frames.described()


def recovery_pictures(frames: Frames, model: Any) -> RecoveryPictures:
    """Pictures that a compressed `model` recovers on where choices are made on `frames`: these, where they are a user's
    own, else rendered training pictures."""
    own = frames.spec.name == "frames"
    seen = frames if own else open_data(DataSpec("synth", "train"), RECOVERY_FRAMES, size=model.encoder.crop_size)
    apart = joint_distance if gives_joints(model) else partial(distance, body_for(frames, model))
    return RecoveryPictures(seen.keeping(), apart)
