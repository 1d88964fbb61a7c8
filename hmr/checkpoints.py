"""Weights on disk: safetensors whose header says which model they belong to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from compress.atomic import atomic_write
from compress.errors import BadInput
from hmr.model import HMRModel, build


def save(
    model: HMRModel, path: Path, metadata: dict[str, str] | None = None, dtype: torch.dtype = torch.float16
) -> Path:
    """Write the model's state, floats as `dtype`, with architecture and sizes in the header; returns `path`.

    The file appears complete or not at all. Raises ValueError where a value does not fit into `dtype`.
    """
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    unfit = [k for k, v in state.items() if not v.isfinite().all()]
    if unfit:
        raise ValueError(f"not finite as {dtype}: {', '.join(unfit[:5])}")
    header = {"architecture": model.architecture, "sizes": model.sizes.model_dump_json(), **(metadata or {})}
    return atomic_write(path, to_bytes(state, header))


def load(path: Path, architecture: str | None = None, **sizes: Any) -> HMRModel:
    """The model of a file that `save` wrote, in float32 and evaluation mode.

    `architecture` and `sizes` replace what the header says. Raises BadInput for a file that is missing, broken, without
    a header, that holds a value that is not finite, or whose keys or shapes are not exactly the model's.
    """
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a mapping
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{path}: not a readable safetensors file ({error})") from error
    name = architecture or header.get("architecture")
    if name is None:
        raise BadInput(f"{path}: its header names no architecture; name one")
    sizes = {**_sizes(path, header), **sizes}
    try:
        with torch.device("meta"):  # a header that asks for a giant is found out before it takes the memory
            wanted = {k: v.shape for k, v in build(name, sizes).state_dict().items()}
    except BadInput as error:
        raise BadInput(f"{path}: its header describes no model: {error}") from error
    odd = sorted(set(wanted) ^ set(state)) or sorted(k for k in wanted if wanted[k] != state[k].shape)
    if odd:
        raise BadInput(f"{path}: {len(odd)} keys or shapes are not those of {name}, first {odd[0]!r}")
    broken = sorted(k for k, v in state.items() if not v.float().isfinite().all())
    if broken:
        raise BadInput(f"{path}: {broken[0]!r} holds a value that is not finite; get or train the file again")
    model = build(name, sizes)
    model.load_state_dict(state)  # copies into float32 parameters
    return model.eval()


def _sizes(path: Path, header: dict[str, str]) -> dict[str, Any]:
    try:
        found = json.loads(header.get("sizes", "{}"))
    except ValueError as error:
        raise BadInput(f"{path}: 'sizes' in its header is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise BadInput(f"{path}: 'sizes' in its header is not a JSON object")
    return found
