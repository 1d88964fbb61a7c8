"""Samples in order, drawn when they are asked for, and where they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from hmr.data.sample import Inputs, Sample, batch

Observer = Callable[[str, str, int, int], None]  # what is being done, a word on it, how much of it is done, of how much


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
        """What reports tell of these frames, as JSON values: mask_source, boxes, convention, ..."""

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
        """Whether there is no split to choose on: EMDB has none, nor has a code base's .npz."""
        return self.name == "emdb" or (self.name != "frames" and self.root is not None and self.root.is_file())


@dataclass(frozen=True, eq=False)
class Frames:
    """A `Dataset` of `count` samples that are drawn when they are asked for.

    `draw(i)` is sample i, `recording_of(i)` the name of its recording, without drawing it. `identity` is what the
    pictures depend on beside `spec`, as JSON values. `drawn_before` keeps each sample that was drawn: 0.2 MB.
    """

    draw: Callable[[int], Sample]
    recording_of: Callable[[int], str]
    count: int
    fps: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    spec: DataSpec | None = None
    identity: dict[str, Any] = field(default_factory=dict)
    drawn_before: dict[int, Sample] | None = None

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

    def read(self, indices: Sequence[int]) -> Inputs:
        """What a model takes of some frames: this makes Frames `compress.policies.recover.Crops`."""
        return batch([self[i] for i in indices]).inputs

    def keeping(self) -> Frames:
        """The same frames, each drawn once and then kept in memory: 0.2 MB a frame."""
        return self if self.drawn_before is not None else replace(self, drawn_before={})

    def drawn(self, observer: Observer = lambda what, word, done, total: None) -> Frames:
        """The same frames, all drawn now and kept in memory: 0.2 MB a frame."""
        kept = self.keeping()
        for i in range(self.count):
            kept[i]
            observer(f"drawing {self.spec or 'frames'}", "", i + 1, self.count)
        return kept

    def with_samples(self, samples: Sequence[Sample]) -> Frames:
        """These frames with other `samples` in the place of their own: other masks, other labels."""
        return replace(self, draw=samples.__getitem__, drawn_before=None)


def frames_of(samples: Sequence[Sample], fps: float | None = None, **more: Any) -> Frames:
    """Samples that are there already as Frames; `more` fields as of Frames."""
    return Frames(samples.__getitem__, [sample.recording for sample in samples].__getitem__, len(samples), fps, **more)
