"""MODEL as users write it: a shipped name, a checkpoint, or the folder of a converted or a compressed model."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch

from compress.artefact import MANIFEST, read_manifest
from compress.choices import one_of
from compress.errors import BadInput
from diffusion import policy  # noqa: F401  # artefacts may hold its plans
from hmr import artefact
from hmr.checkpoints.files import INDEX, WEIGHTS, load
from hmr.models.model import ARCHITECTURES, HMRModel, build

SHIPPED = ("reference", "reference-small")
CONVERTED = "fasthmr.convert/1"  # schema of the manifest of `fasthmr convert`
SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".index.json")


@dataclass(frozen=True)
class Resolved:
    """A model in float32 and evaluation mode, and where it came from."""

    model: HMRModel
    name: str
    sha256: str  # of the file of weights, empty where there is none; of a compressed model its id
    compressed: bool = False


def resolve_model(name: str, weightless: bool = False) -> Resolved:
    """The model that `name` stands for: a shipped one, a checkpoint, a folder of `convert` or of `compress`.

    `weightless` also takes an architecture of which no weights are shipped, as hmr2: on the meta device.

    Raises BadInput for a name that is none of them, a file or folder that is not such a model or was changed, and
    weights that do not fit.
    """
    folder = Path(name)
    if name not in ARCHITECTURES and folder.joinpath(MANIFEST).is_file() and not converted(folder):
        return Resolved(artefact.load(folder), name, read_manifest(folder).id, compressed=True)
    if "/" in name or name.endswith(SUFFIXES) or (name not in ARCHITECTURES and folder.is_dir()):
        path = Path(name)
        if not path.is_file() and not any((path / held).is_file() for held in (WEIGHTS, INDEX)):
            raise BadInput(f"{path}: there is no such file of weights, and no folder of a compressed model")
    else:
        if name in ARCHITECTURES and name not in SHIPPED and not weightless:
            raise BadInput(
                f"'{name}' is an architecture whose weights do not ship: name the checkpoint that its authors hand "
                f"out, or a folder of `fasthmr convert`, as ./{name}"
            )
        if one_of(name, ARCHITECTURES if weightless else SHIPPED, "model") not in SHIPPED:
            with torch.device("meta"):
                return Resolved(build(name).eval(), name, "")
        path = Path(str(files("hmr.assets").joinpath(f"{name}.safetensors")))
        if not path.is_file():
            raise BadInput(f"{path}: the weights of '{name}' are missing from this installation; install fasthmr again")
    return Resolved(load(path), name, digest(path))


def converted(folder: Path) -> bool:
    """Whether `fasthmr convert` wrote this folder; raises BadInput where its weights have changed since."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        wanted = manifest["files"][WEIGHTS] if manifest["schema"] == CONVERTED else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return False
    path = folder / WEIGHTS
    if wanted is not None and (not path.is_file() or digest(path) != wanted):
        raise BadInput(f"{path}: its hash is not the one in {MANIFEST}: the file was damaged or changed")
    return wanted is not None


def digest(path: Path) -> str:
    """sha256 of a file, or of the weights or their index in a folder; read piece by piece."""
    if path.is_dir():
        path = path / (INDEX if (path / INDEX).is_file() else WEIGHTS)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
