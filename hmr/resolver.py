"""MODEL as users write it: a shipped name, a checkpoint, the folder of a converted or a compressed model, an exported
file, or an adapter."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress import artefact
from compress.artefact import MANIFEST, read_manifest
from compress.choices import one_of
from compress.errors import BadInput
from compress.files import weights
from hmr.adapters.adapted import AdaptedModel
from hmr.adapters.adapter import is_adapter, named
from hmr.checkpoints import files as checkpoints
from hmr.checkpoints.source import INDEX, WEIGHTS
from hmr.deploy.exported import load_exported
from hmr.deploy.runtime import RUNTIMES
from hmr.models.model import ARCHITECTURES, build
from hmr.models.own_model import OwnModel

SHIPPED = ("reference", "reference-small")
CONVERTED = "fasthmr.convert/1"  # schema of the manifest of `fasthmr convert`
SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".index.json")


def load(
    model: str | Path | nn.Module, *, weightless: bool = False, adapter: str | Path | None = None, **facts: Any
) -> Any:
    """A model in evaluation mode, in float32 unless it was compressed to less.

    model: a shipped name, a checkpoint, a folder of `fasthmr convert` or of `fasthmr compress`, a file of `fasthmr
    export` (.onnx, .xml), an adapter (FILE.py or package:Class), whose code is run, or a module of your own, which
    becomes an `OwnModel`. adapter: the one that an artefact was made with; others do not look at it. facts: what the
    file does not have, as heads=, cam_model=, tokenizer=; for a module the arguments of `OwnModel`. weightless: also
    take an architecture whose weights do not ship, as hmr2, on the meta device.

    Raises BadInput for a name that is none of them, a file or folder that is not such a model or was changed, and
    weights that do not fit.
    """
    if isinstance(model, nn.Module):
        return OwnModel(model, **facts)
    name, folder = str(model), Path(model)
    if name not in ARCHITECTURES and is_artefact(folder):
        return of_artefact(folder, name, None if adapter is None else str(adapter))
    if folder.suffix in RUNTIMES:
        return load_exported(folder)
    if is_adapter(name):
        return AdaptedModel(named(name))
    path = path_of(name, weightless)
    if path is None:
        with torch.device("meta"):
            return build(name).eval()
    found = checkpoints.load(path, **facts)
    found.name, found.sha256 = name, digest(path)
    return found


def load_original(model: str) -> Any:
    """As `load`, of what can be compressed. Raises BadInput for a compressed model before anything of it is loaded."""
    if model not in ARCHITECTURES and is_artefact(Path(model)):
        raise BadInput(f"{model} was compressed already: merges start from the original, so name that")
    return load(model)


def is_artefact(folder: Path) -> bool:
    """Whether a folder is a compressed model, or what is left of one."""
    marks = [mark for mark in (MANIFEST, "plan.json") if (folder / mark).is_file()]
    return "plan.json" in marks or (bool(marks) and not converted(folder))


def of_artefact(folder: Path, name: str, adapter: str | None) -> Any:
    """The model of a compressed model's folder; it cannot be compressed again. Raises BadInput where it was made with
    an adapter and that is not given, or is not the same."""
    base = read_manifest(folder).origin.base
    if "adapter" not in base.sizes:
        found: Any = artefact.load(folder, build)
    elif adapter is None:
        raise BadInput(
            f"{folder}: a folder has no code in it: give its adapter again, --adapter {base.sizes['adapter']}"
        )
    else:
        found = artefact.load(folder, AdaptedModel(named(adapter, base.sizes["sha256"], base.architecture)))
    found.encoder.name, found.encoder.sha256, found.encoder.compressed = name, read_manifest(folder).id, True
    return found


def path_of(name: str, weightless: bool) -> Path | None:
    """The file or folder of weights of MODEL; None for an architecture without weights. Raises BadInput as `load`."""
    path = Path(name)
    if "/" in name or name.endswith(SUFFIXES) or (name not in ARCHITECTURES and path.is_dir()):
        if not path.is_file() and not any((path / held).is_file() for held in (WEIGHTS, INDEX)):
            raise BadInput(f"{path}: there is no such file of weights, and no folder of a compressed model")
        return path
    if name in ARCHITECTURES and name not in SHIPPED and not weightless:
        raise BadInput(
            f"'{name}' is an architecture whose weights are not included: name the checkpoint from its authors, or "
            f"a folder of `fasthmr convert`, as ./{name}"
        )
    if one_of(name, ARCHITECTURES if weightless else SHIPPED, "model") not in SHIPPED:
        return None
    path = Path(str(files("hmr.assets").joinpath(f"{name}.safetensors")))
    if not path.is_file():
        raise BadInput(f"{path}: the weights of '{name}' are missing from this installation; install fasthmr again")
    return path


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
    """sha256 of a file, or of the weights or their index in a folder."""
    if path.is_dir():
        path = path / (INDEX if (path / INDEX).is_file() else WEIGHTS)
    return weights.digest(path)
