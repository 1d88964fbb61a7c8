"""A network of a user's own as MODEL: one small class in one file, which is the user's code and is run as such.

class Mine(hmr.Adapter):
    size, blocks, licence = (256, 192), "backbone.blocks", "MIT"

    def load(self): ...                   # the network, with its weights
    def read(self, model, tokens): ...    # what it does with the finished tokens
    def joints(self, outputs): ...        # (B, J, 3) in metres
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.errors import BadInput
from compress.tokens import Tokens
from hmr.data.crop import IMAGE_MEAN, IMAGE_STD, cut
from hmr.media.boxes import Corners

CLASS = re.compile(r"[^\W\d][\w.]*:[^\W\d]\w*")  # package:Class


class Adapter:
    """What fasthmr has to know of a network. Attributes and methods that are not given are as they stand here."""

    size: ClassVar[tuple[int, int]]  # (height, width) of crops in pixels
    blocks: ClassVar[str] = "blocks"  # the dotted name of the image encoder's list of blocks
    stacks: ClassVar[Mapping[str, str]] = {}  # other lists of blocks, which `read` calls, by what recipes call them
    head_needs: ClassVar[Literal["tokens", "grid"]] = "tokens"  # "grid": `read` asks for `tokens.to_grid()`
    licence: ClassVar[str] = "unknown"  # of the weights
    mean: ClassVar[tuple[float, float, float]] = IMAGE_MEAN  # of the normalisation, RGB in 0..1
    std: ClassVar[tuple[float, float, float]] = IMAGE_STD
    known: ClassVar[Mapping[str, Any]] = {}  # embed=, patch= and norm= of `hmr.models.own_model.stack_from`

    def load(self) -> nn.Module:
        """The network with its weights."""
        raise NotImplementedError

    def crops(self, frame: NDArray[np.uint8], box: Corners) -> NDArray[np.uint8]:
        """A picture (H, W, 3) and a box (left, top, right, bottom) in its pixels -> what the network sees of it, of
        `size`, not yet normalised. Masks go the same way."""
        left, top, right, bottom = box
        side = max(bottom - top, (right - left) * self.size[0] / self.size[1])
        return cut(frame, ((left + right) / 2, (top + bottom) / 2), side, self.size)

    def forward(self, model: Any, crops: Tensor, masks: Tensor | None) -> Any:
        """The network's outputs, as its own code gives them, for normalised crops (B, 3, H, W) and person masks
        (B, H, W): what `fasthmr adapter check` holds `read` against."""
        return model(crops)

    def read(self, model: Any, tokens: Tokens) -> Any:
        """The same outputs from the tokens after the last block and norm: what of `forward` comes after those."""
        raise NotImplementedError

    def joints(self, outputs: Any) -> Tensor:
        """Joints (B, J, 3) in metres of outputs; the others are measured from the first one."""
        raise NotImplementedError


@dataclass(frozen=True)
class Named:
    """An adapter, and how it was named."""

    adapter: Adapter
    name: str  # FILE.py or package:Class
    sha256: str  # of the file


def is_adapter(name: str) -> bool:
    """Whether MODEL names an adapter."""
    return name.endswith(".py") or CLASS.fullmatch(name) is not None


def named(name: str, sha256: str | None = None, called: str | None = None) -> Named:
    """The adapter of FILE.py or package:Class, whose code is run. Raises BadInput where there is none, its file is not
    the one of that hash, which then is not run, or cannot be imported, and where its class is not `called` so."""
    path, _, wanted = (name, "", "") if name.endswith(".py") else name.partition(":")
    source = Path(path) if name.endswith(".py") else source_of(path)
    if not source.is_file():
        raise BadInput(f"{name}: there is no such file of an adapter")
    content = source.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if sha256 not in (None, digest):
        raise BadInput(f"{name} is another adapter than this model was compressed with: its hash is not {sha256}")
    if called is not None and wanted not in ("", called):
        raise BadInput(f"{name} is another adapter than this model was compressed with, which is {called}")
    try:
        module = imported(source, content, digest) if name.endswith(".py") else importlib.import_module(path)
    except Exception as error:  # whatever a stranger's code raises
        raise BadInput(f"{source}: cannot be imported: {type(error).__name__}: {error}") from error
    return Named(adapter_in(module, name, wanted), name, digest)


def source_of(package: str) -> Path:
    """The file of an installed module; raises BadInput where there is none."""
    try:
        spec = importlib.util.find_spec(package)
    except ImportError:
        spec = None
    if spec is None or spec.origin is None:
        raise BadInput(f"{package}: no such package is installed here: name an adapter as FILE.py or package:Class")
    return Path(spec.origin)


def imported(path: Path, content: bytes, digest: str) -> ModuleType:
    """The content of a file, and no other, as a module, which may import what lies beside the file. Raises whatever its
    code raises."""
    name = f"fasthmr_adapter_{digest[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    if (folder := str(path.resolve().parent)) not in sys.path:
        sys.path.append(folder)
    module = sys.modules[name] = ModuleType(name)
    module.__file__ = str(path)
    try:
        exec(compile(content, path, "exec"), vars(module))
    except BaseException:
        del sys.modules[name]
        raise
    return module


def adapter_in(module: ModuleType, name: str, wanted: str = "") -> Adapter:
    """The adapter of a module: the class of that name, or the only one that is written there. Raises BadInput."""
    every = [one for one in vars(module).values() if inspect.isclass(one) and issubclass(one, Adapter)]
    found = [one for one in every if one.__name__ == wanted or (not wanted and one.__module__ == module.__name__)]
    if len(found) != 1:
        names = ", ".join(one.__name__ for one in found) or "none"
        raise BadInput(f"{name}: one class that is a hmr.Adapter is looked for there, and there are {names}")
    own, needed = found[0], ("size", "load", "read", "joints")
    if lacking := [one for one in needed if getattr(own, one, None) is getattr(Adapter, one, None)]:
        raise BadInput(f"{name}: {own.__name__} has no {', '.join(lacking)}")
    return own()
