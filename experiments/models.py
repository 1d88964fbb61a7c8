"""MODEL as users write it: a shipped name or a file of weights."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from compress.errors import BadInput
from experiments.choices import one_of
from hmr.checkpoints import load
from hmr.model import HMRModel

SHIPPED = ("reference", "reference-small")


@dataclass(frozen=True)
class Resolved:
    """A model in float32 and evaluation mode, and where it came from."""

    model: HMRModel
    name: str
    sha256: str  # of the file of weights


def resolve_model(name: str) -> Resolved:
    """The model that `name` stands for: a shipped one, or the path of a .safetensors file that `fasthmr train` wrote.

    Raises BadInput for a name that is neither, a file that is not such a model, and weights that do not fit.
    """
    if "/" in name or name.endswith(".safetensors"):
        path = Path(name)
        if not path.is_file():
            raise BadInput(f"{path}: there is no such file of weights")
    else:
        path = Path(str(files("hmr.assets").joinpath(f"{one_of(name, SHIPPED, 'model')}.safetensors")))
        if not path.is_file():
            raise BadInput(f"{path}: the weights of '{name}' are missing from this installation; install fasthmr again")
    return Resolved(load(path), name, hashlib.sha256(path.read_bytes()).hexdigest())
