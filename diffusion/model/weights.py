"""Files of weights: safetensors whose header has their kind, their size, and what they belong to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from compress.atomic import atomic_write
from compress.errors import BadInput
from compress.files.weights import safetensors
from diffusion.model.sizes import DecoderSizes


def save(
    path: Path, module: nn.Module, kind: str, sizes: DecoderSizes, facts: dict[str, Any], without: tuple[str, ...] = ()
) -> Path:
    """Write a module in half precision, whole or not at all, without values whose names begin with one of `without`.

    Returns `path`. Raises BadInput where a value does not fit.
    """
    values = {name: value for name, value in module.state_dict().items() if not name.startswith(without)}
    state = {name: value.detach().cpu().half().contiguous() for name, value in values.items()}
    unfit = [name for name, value in state.items() if not value.isfinite().all()]
    if unfit:
        raise BadInput(f"{path}: {unfit[0]} is not finite in half precision: train again with a lower lr")
    metadata = {"kind": kind, "sizes": sizes.model_dump_json(), "facts": json.dumps(facts, sort_keys=True)}
    return atomic_write(path, safetensors(state, metadata))


def read(path: Path, kind: str) -> tuple[dict[str, Tensor], DecoderSizes, dict[str, Any]]:
    """The state in float32, the sizes and the facts that `save` wrote; raises BadInput for any other file."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118  # no mapping
        if metadata.get("kind") != kind:
            raise BadInput(f"{path}: holds {metadata.get('kind', 'no')} weights, expected {kind}")
        return state, DecoderSizes.model_validate_json(metadata["sizes"]), {**json.loads(metadata["facts"])}
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, ValidationError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{path}: not a file of {kind} weights ({error})") from error


def load_into(module: nn.Module, state: dict[str, Tensor], path: Path) -> nn.Module:
    """`module` with `state`, in evaluation mode; raises BadInput where they do not fit or a value is not finite."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise BadInput(f"{path}: its weights do not fit their sizes ({str(error).splitlines()[-1].strip()})") from error
    odd = [name for name, value in state.items() if not value.isfinite().all()]
    if odd:
        raise BadInput(f"{path}: {odd[0]} holds a value that is not finite")
    return module.eval()
