"""MODEL as users write it: a shipped name or a file of weights."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from safetensors import SafetensorError, safe_open

from compress.errors import BadInput
from experiments.choices import one_of
from hmr.model import HMRModel, build

SHIPPED = ("reference", "reference-small")


@dataclass(frozen=True)
class Resolved:
    """A model in float32 and evaluation mode, and where it came from."""

    model: HMRModel
    name: str
    architecture: str
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
            raise BadInput(f"the weights of '{name}' are missing from this installation ({path}): install fasthmr again")
    return load_weights(path, name)


def load_weights(path: Path, name: str) -> Resolved:
    """The model in a .safetensors file whose header names its architecture and sizes; raises BadInput as above."""
    try:
        with safe_open(path, framework="pt") as stored:
            header = stored.metadata() or {}
            weights = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path}: not a readable safetensors file ({error})") from error
    if "architecture" not in header:
        raise BadInput(f"{path}: the header names no architecture, so this is no model that `fasthmr train` wrote")
    try:
        sizes = json.loads(header.get("sizes", "{}"))
        model = build(header["architecture"], sizes)
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, json.JSONDecodeError) as error:
        raise BadInput(f"{path}: does not hold a {header['architecture']} model ({_first_line(error)})") from error
    broken = [key for key, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise BadInput(f"{path}: '{broken[0]}' holds a value that is not finite")
    return Resolved(model.float().eval(), name, header["architecture"], hashlib.sha256(path.read_bytes()).hexdigest())


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
