"""Samples in order, drawn when they are asked for, and where they come from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from compress.context import Observer, silent
from compress.errors import BadInput
from compress.frames import Judge, Pictures
from hmr.data.sample import Sample
from hmr.home import fasthmr_home

if TYPE_CHECKING:
    from hmr.evaluation.measure import Measurement


class Dataset(Protocol):
    """Samples by index; frames of a video stand in its order."""

    @property
    def fps(self) -> float | None:
        """Frames per second; None where frames do not follow each other."""

    @property
    def recordings(self) -> list[str]:
        """The recording that each frame comes from: frames of one resemble each other."""

    @property
    def notes(self) -> dict[str, Any]:
        """What reports state about these frames, as JSON values: mask_source, boxes, convention, ..."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Sample: ...


@dataclass(frozen=True)
class DataSpec:
    """A data set's name, its split and, for data that lies in files, their folder."""

    name: str
    split: str = "test"
    root: Path | None = None
    masks: str | None = None  # of what lies in files: what finds the person, see `hmr.data.masks.segmenter`

    def __str__(self) -> str:
        return f"{self.name}:{self.split}"

    @property
    def mask_source(self) -> str:
        """Where the person masks come from."""
        return "renderer" if self.name.startswith("synth") else (self.masks or "none")

    @property
    def test_only(self) -> bool:
        """Whether there is no split to choose on: EMDB and people by several cameras have none, nor has a code base's
        .npz."""
        return self.name in ("emdb", "real", "real-avatar") or (
            self.name != "frames" and self.root is not None and self.root.is_file()
        )


@dataclass(frozen=True, eq=False)
class Frames:
    """A `Dataset` of `count` samples that are drawn when they are asked for.

    `fps` is None where frames do not follow each other, or do so at a rate that varies: then `times` has each frame's
    own, in seconds.

    `draw(i)` is sample i, `recording_of(i)` the name of its recording, without drawing it. `identity` is what the
    pictures depend on beside `spec`, as JSON values. `drawn_before` keeps each sample that was drawn: 0.2 MB.
    """

    draw: Callable[[int], Sample]
    recording_of: Callable[[int], str]
    count: int
    fps: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    spec: DataSpec = DataSpec("samples")
    identity: dict[str, Any] = field(default_factory=dict)
    drawn_before: dict[int, Sample] | None = None
    label_free: bool = False  # labels are what a model predicted
    times: tuple[float, ...] | None = None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(index)
        if self.drawn_before is None:
            return self.draw(index)
        if index not in self.drawn_before:
            self.drawn_before[index] = self.draw(index)
        return self.drawn_before[index]

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(self.count))

    @cached_property
    def recordings(self) -> list[str]:
        return [self.recording_of(i) for i in range(self.count)]

    @property
    def follow(self) -> bool:
        """Whether each frame follows the one before it, so that movement can be measured."""
        return self.fps is not None or self.times is not None

    # ---- as `compress.frames.FrameSet`; evaluation stands on data, so it is imported when it is asked for

    @property
    def has_masks(self) -> bool:
        """Whether each frame comes with a person mask."""
        return self.notes.get("mask_source", self.spec.mask_source) != "none"

    @cached_property
    def content(self) -> str:
        """sha256 of the pictures and their labels; draws all of them."""
        digest = hashlib.sha256()
        for sample in self:
            for array in (sample.image, sample.rotations, sample.betas, sample.joints):
                digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    @property
    def cache(self) -> Path:
        """Where long work on these frames keeps what it has."""
        return fasthmr_home()

    def described(self) -> dict[str, Any]:
        """Which frames these are, as JSON values."""
        spec = self.spec
        return {
            "name": spec.name,
            "split": spec.split,
            "frames": self.count,
            "clips": len(set(self.recordings)),
            "fps": self.fps,
            "mask_source": spec.mask_source,
            **({"path": str(spec.root), "masks": spec.masks} if spec.root else {}),
            **self.notes,
        }

    def provenance(self, model: Any) -> dict[str, Any]:
        """Which frames these are and on what body errors of `model` are measured, as JSON values."""
        from hmr.evaluation.measure import body_for

        return {"body": body_for(self, model).identity, "data": self.described(), "label_free": self.label_free}

    def judge(self, model: Any) -> Judge:
        """These frames as what choices are made on."""
        from hmr.evaluation.judge import JointJudge
        from hmr.evaluation.measure import body_for

        return JointJudge(model, self, body_for(self, model))

    def measure(self, model: Any, name: str = "model", observer: Observer = silent) -> Measurement:
        """How wrong and how fast `model` is on these frames."""
        from hmr.evaluation.measure import measure

        return measure(model, self, name, observer)

    def pictures(self, model: Any) -> Pictures:
        """What a compressed `model` recovers on: a user's own pictures, else rendered training pictures, of which 4,096
        are drawn as they are needed."""
        from hmr.evaluation.measure import recovery_pictures

        return recovery_pictures(self, model)

    def keeping(self) -> Frames:
        """The same frames, each drawn once and then kept in memory: 0.2 MB a frame."""
        return self if self.drawn_before is not None else replace(self, drawn_before={})

    def drawn(self, observer: Observer = silent) -> Frames:
        """The same frames, all drawn now and kept in memory: 0.2 MB a frame."""
        kept = self.keeping()
        for i in range(self.count):
            kept[i]
            observer(f"drawing {self.spec}", "", i + 1, self.count)
        return kept

    def with_samples(self, samples: Sequence[Sample]) -> Frames:
        """These frames with other `samples` in the place of their own: other masks, other labels."""
        return replace(self, draw=samples.__getitem__, drawn_before=None)


def frames_of(samples: Sequence[Sample], fps: float | None = None, **more: Any) -> Frames:
    """Samples that are there already as Frames; `more` fields as of Frames."""
    return Frames(samples.__getitem__, [sample.recording for sample in samples].__getitem__, len(samples), fps, **more)


def refuse_choosing_split(spec: DataSpec) -> None:
    """Raise BadInput for a split that choices are made on: results are reported on others."""
    if spec.split in ("train", "calib"):
        raise BadInput(f"{spec}: choices are made on this split; report on {spec.name}:test or :val")


def refuse_test_only(spec: DataSpec) -> None:
    """Raise BadInput for data that has no split to make choices on."""
    if spec.test_only:
        place = f"@{spec.root}" if spec.root else ""
        raise BadInput(
            f"{spec.name}{place} is a test set alone, and compressing makes choices on calib too: compress on "
            "synth or on the folder of 3dpw, then evaluate what comes out here"
        )
