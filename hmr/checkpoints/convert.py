"""`fasthmr inspect` and `fasthmr convert`: what a stranger's checkpoint holds, and the same as a folder of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from compress.artefact import MANIFEST, canonical, refuse_taken
from compress.atomic import atomic_folder, atomic_write
from compress.files.weights import safetensors
from compress.provenance import provenance
from hmr.checkpoints import files as checkpoints
from hmr.checkpoints.source import WEIGHTS
from hmr.resolver import CONVERTED, digest, load

LICENCE = "LICENCE.txt"
TEXTS = ("LICENSE", "LICENCE", "LICENSE.txt", "LICENSE.md", "LICENCE.txt", "LICENCE.md")  # as authors call theirs
MAX_TEXT = 1 << 20  # bytes


def inspection(path: Path, heads: int | None = None, **files: Any) -> dict[str, Any]:
    """What `fasthmr inspect PATH --json` prints; raises BadInput for a file that cannot be read."""
    inspected = checkpoints.inspect(path, heads=heads, **files)
    return {**inspected, "provenance": provenance_of("inspect", path, inspected["architecture"])}


def adapter_inspection(name: str) -> dict[str, Any]:
    """The same of an adapter, whose code is run: nothing of it is missing or left out. Raises BadInput as `load`."""
    model = load(name)
    stacks = {name: {"depth": len(stack.blocks), "dim": stack.dim} for name, stack in model.stacks.items()}
    return {
        "family": None,
        "architecture": model.architecture,
        "sizes": {"depth": len(model.stack.blocks), "dim": model.dim, "crop": list(model.crop_size), **stacks},
        "prefixes": sorted({key.split(".")[0] + "." for key in model.module.state_dict()}),
        "tokens": model.grid[0] * model.grid[1],
        "head_needs": model.head_needs,
        "licence": model.built_from["licence"],
        **{kind: [] for kind in ("unknown_globals", "missing", "unexpected", "ignored_keys")},
        "provenance": provenance("inspect", model, torch.device("cpu")),
    }


def provenance_of(command: str, path: Path, architecture: str | None) -> dict[str, Any]:
    """The provenance of what a command prints about a checkpoint: no body and no data."""
    model = {"name": str(path), "architecture": architecture, "sha256": digest(path)}
    return {**provenance(command, None, torch.device("cpu")), "seed": None, "precision": None, "model": model}


def convert(path: Path, out: Path, heads: int | None = None, **files: Any) -> dict[str, Any]:
    """Write the model of a checkpoint to the folder `out`: safetensors, manifest.json and licence; what was written.

    Whole or not at all. `heads` and `files` as `hmr.checkpoints.files.load`; raises BadInput as that, and where
    `out` has something in it.
    """
    refuse_taken(out)
    inspected = checkpoints.inspect(path, heads=heads, **files)
    model = checkpoints.load(path, heads=heads, **files)
    state = model.state_dict()
    with atomic_folder(out) as folder:
        atomic_write(folder / WEIGHTS, safetensors(state, checkpoints.header(model)))
        manifest = {
            "schema": CONVERTED,
            "architecture": model.architecture,
            "sizes": model.sizes.model_dump(mode="json"),
            "source": {"name": path.name, "sha256": digest(path)},
            "parts": {name: {"name": file.name, "sha256": digest(file)} for name, file in files.items() if file},
            "files": {WEIGHTS: digest(folder / WEIGHTS)},
            "keys": {key: list(value.shape) for key, value in state.items()},
            "licence": model.family.licence,
            "ignored_keys": inspected["ignored_keys"],
            "unknown_globals": inspected["unknown_globals"],
        }
        (folder / MANIFEST).write_bytes(canonical(manifest))
        (folder / LICENCE).write_text(licence(path, model.family.licence))
    return {**manifest, "path": str(out), "provenance": provenance_of("convert", path, model.architecture)}


def licence(path: Path, known: str) -> str:
    """What we know of the licence of a checkpoint's code, then the texts that lie beside the checkpoint."""
    lines = [f"Converted from {path.name}.", f"Licence of the code that the weights were made with: {known}.",
             "The weights, and the data they were trained on, may come with terms of their own."]  # fmt: skip
    for name in TEXTS:
        text = (path if path.is_dir() else path.parent) / name
        if text.is_file() and not text.is_symlink() and text.stat().st_size <= MAX_TEXT:
            lines.append(f"\n{name}, found beside it:\n\n{text.read_text(errors='replace')}")
    return "\n".join(lines) + "\n"
