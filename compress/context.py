"""Everything beside the model that planning and applying a step may use: every policy is handed the same `Context`."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from compress.errors import BadInput
from compress.frames import FrameSet, Judge, Pictures
from compress.policy import Plan

Observer = Callable[[str, str, int, int], None]  # (what is being done, a detail, how much of it is done, of how much)
Made = TypeVar("Made")
RECENT = 16  # of what was computed for plans


def silent(stage: str, detail: str, done: int, total: int) -> None:
    """An observer that shows nothing."""


@dataclass
class Context:
    """What policies share while one recipe is worked through, or many on the same model and frames.

    original: the model before its first step. calib: the frames that choices are made on. observer: called with
    progress. seed: of everything that is drawn at random. shared: whether other processes work on the same model and
    frames, so that a search leaves trials to them.
    """

    original: Any
    calib: FrameSet | None = None
    observer: Observer = silent
    seed: int = 0
    shared: bool = False
    plans: list[Plan] = field(default_factory=list)  # of the steps that were applied already
    weights: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)  # by sha256, what plans name
    measured: dict[str, Any] = field(default_factory=dict)  # while a plan is applied
    memory: dict[Hashable, Any] = field(default_factory=dict)  # see `remembered`
    places: set[tuple[str, Path]] = field(default_factory=set)  # where work that takes long keeps what it has

    @property
    def judge(self) -> Judge:
        """Errors of the original model and of trials on `calib`; raises BadInput where there are no such frames."""
        return self._shared("judge")

    @property
    def pictures(self) -> Pictures:
        """Pictures to learn from without labels; raises BadInput where there are none."""
        return self._shared("pictures")

    def _shared(self, name: str) -> Any:
        """What `calib` makes for the original, once for all recipes."""
        if name not in self.memory:
            if self.calib is None:
                raise BadInput("this step needs frames to make its choice on: give it calibration frames")
            if (make := getattr(self.calib, name, None)) is None:
                raise BadInput(f"this step asks for {name}(model), which {type(self.calib).__name__} does not have")
            self.memory[name] = make(self.original)
        return self.memory[name]

    def fresh(self) -> Context:
        """The same for another recipe: nothing is planned yet, and what was computed is shared."""
        return replace(self, plans=[], measured={})

    def remembered(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What `make` gives, computed once for all recipes whose plans so far are the same; of what belongs to plans,
        the latest RECENT are kept, so that a search of hundreds of recipes does not fill the memory."""
        whole = (key, tuple(repr(plan.decided()) for plan in self.plans))
        found = self.memory.pop(whole) if whole in self.memory else make()
        self.memory[whole] = found  # at the end, where the latest are
        planned = [known for known in self.memory if isinstance(known, tuple) and known[1]]
        for old in planned[:-RECENT]:
            del self.memory[old]
        return found

    @contextmanager
    def place(self, kind: str, *key: object) -> Iterator[Path]:
        """Where work of `kind` that takes long keeps what it has, so that it goes on after a crash: a path for this
        model, these frames, this torch and device, and `key`; a temporary one where the frames have no cache."""
        if self.calib is None or self.calib.cache is None:
            with TemporaryDirectory() as folder:
                yield Path(folder) / kind
            return
        device = next(self.original.parameters()).device.type
        body = self.calib.provenance(self.original)["body"]
        facts = (self.original.base.sha256, self.calib.content, body, torch.__version__, device, *key)
        path = self.calib.cache / kind / hashlib.sha256(repr(facts).encode()).hexdigest()[:32]
        self.places.add((kind, path))
        yield path

    def forget(self, *kinds: str) -> None:
        """Remove what work of some kinds kept, where its results are safe: nothing is to go on from there."""
        for kind, path in self.places:
            if kind in kinds:
                shutil.rmtree(path, ignore_errors=True)
                for file in path.parent.glob(f"{path.name}.*"):
                    file.unlink()


def fingerprint(model: nn.Module, *facts: object) -> str:
    """sha256 of a model's weights and of other facts about it."""
    digest = hashlib.sha256(" ".join(map(str, facts)).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
