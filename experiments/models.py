"""MODEL as users write it: a shipped name, a file of weights or the folder of a compressed model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch

from compress.artefact import MANIFEST, read_manifest
from compress.errors import BadInput
from experiments.choices import one_of
from hmr import artefact
from hmr.checkpoints import load
from hmr.model import ARCHITECTURES, HMRModel, build

SHIPPED = ("reference", "reference-small")


@dataclass(frozen=True)
class Resolved:
    """A model in float32 and evaluation mode, and where it came from."""

    model: HMRModel
    name: str
    sha256: str  # of the file of weights, empty where there is none; of a compressed model its id
    compressed: bool = False


def resolve_model(name: str, weightless: bool = False) -> Resolved:
    """The model that `name` stands for: a shipped one, a .safetensors file of `fasthmr train`, a folder of `compress`.

    `weightless` also takes an architecture of which no weights are shipped, as hmr2: on the meta device.

    Raises BadInput for a name that is none of them, a file or folder that is not such a model or was changed, and
    weights that do not fit.
    """
    if name not in ARCHITECTURES and (folder := Path(name)).joinpath(MANIFEST).is_file():
        return Resolved(artefact.load(folder), name, read_manifest(folder).id, compressed=True)
    if "/" in name or name.endswith(".safetensors"):
        path = Path(name)
        if not path.is_file():
            raise BadInput(f"{path}: there is no such file of weights, and no folder of a compressed model")
    else:
        if one_of(name, ARCHITECTURES if weightless else SHIPPED, "model") not in SHIPPED:
            with torch.device("meta"):
                return Resolved(build(name).eval(), name, "")
        path = Path(str(files("hmr.assets").joinpath(f"{name}.safetensors")))
        if not path.is_file():
            raise BadInput(f"{path}: the weights of '{name}' are missing from this installation; install fasthmr again")
    return Resolved(load(path), name, hashlib.sha256(path.read_bytes()).hexdigest())
