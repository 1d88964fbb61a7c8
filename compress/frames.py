"""What measures a model: frames that know how wrong it is on them. `compress` itself knows no picture or person."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from compress.tokens import Tokens

ALL = slice(None)


class Judge(Protocol):
    """Frames that choices are made on, in batches, and how wrong a model is on them.

    Every choice is made on the same frames in the same batches, so that two models can be compared.
    """

    @property
    def crops(self) -> Sequence[Tensor]:
        """Batches (B, 3, H, W) as the model takes them, on its device."""

    @property
    def masks(self) -> Sequence[Tensor] | None:
        """The person masks (B, H, W) of each batch, or None where there are none."""

    def errors(self, index: int, tokens: Tokens, model: Any = None) -> Tensor:
        """Error (B,) in mm of each frame of batch `index`, read from its finished tokens by `model`; by the one whose
        judge this is, where none is given."""


class OutputJudge(Judge, Protocol):
    """A judge that also says what errors are distances of, so that a ranking can ask how far they move."""

    def outputs(self, index: int, tokens: Tokens, model: Any = None, rows: slice = ALL) -> Tensor:
        """Numbers (B, K) in mm of some rows of batch `index`, as `errors`, which gradients go through."""


class Pictures(Protocol):
    """Pictures without labels to learn from: an index always means the same one."""

    @property
    def distance(self) -> Callable[[Any, Any], Tensor]:
        """(student's output, teacher's output) -> scalar, 0 where they are equal."""

    def provenance(self) -> dict[str, Any]:
        """Which pictures these are, as JSON values: `name`, `split` and others."""

    def __len__(self) -> int: ...
    def read(self, indices: Sequence[int]) -> tuple[Any, ...]:
        """What the model's forward pass takes: crops (B, 3, H, W), person masks (B, H, W) or None, and tensors (B, ...)
        that its `read` asks for."""


class Scores(Protocol):
    """How wrong and how fast a model was on some frames."""

    def row(self, original: Any) -> dict[str, Any]:
        """The figures as JSON values; `original`, the measurement of the model before its first step on the same
        frames, is what errors rose from. None: this is the original."""


class FrameSet(Protocol):
    """Frames that choices are made on, or that results are reported on."""

    @property
    def has_masks(self) -> bool:
        """Whether each frame comes with a person mask."""

    @property
    def content(self) -> str:
        """sha256 of the frames and their labels."""

    @property
    def cache(self) -> Path | None:
        """The folder where long work on these frames keeps what it has; None: nowhere."""

    def provenance(self, model: Any) -> dict[str, Any]:
        """Which frames these are, and what errors of `model` are measured on, as JSON values: `data`, `body`, ..."""

    def judge(self, model: Any) -> Judge:
        """These frames as what choices are made on."""

    def measure(self, model: Any, name: str, observer: Callable[[str, str, int, int], None]) -> Scores:
        """How wrong and how fast `model` is on these frames; `name` is shown to the observer."""

    def pictures(self, model: Any) -> Pictures:
        """What recovery learns from where choices are made on these frames."""
