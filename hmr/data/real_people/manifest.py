"""Folders in $FASTHMR_HOME that were made of a wheel: written whole, with hashes of all that is in them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from compress.errors import BadInput
from compress.provenance import package_version
from hmr.home import fasthmr_home

SCHEMA = "fasthmr.real/1"
RUNS = ("ai-edge-litert", "av", "numpy", "pillow", "torch")  # packages that the numbers depend on


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """`manifest.json`: what made the files of a folder, and their hashes."""
    files = {path.name: digest(path) for path in sorted(folder.iterdir())}
    networks = fasthmr_home() / "masks"
    found = {
        "schema": SCHEMA,
        **facts,
        "networks": {path.name: digest(path) for path in sorted(networks.glob("pose_*.tflite"))},
        "versions": {package: package_version(package) for package in RUNS},
        "files": files,
    }
    (folder / "manifest.json").write_text(json.dumps(found, indent=1) + "\n")


def read_manifest(folder: Path, command: str) -> dict[str, Any]:
    """The manifest of an imported folder, whose files are those that were imported. Raises BadInput where there is none
    (with the `command` that makes it), for another version's, and where a file has changed."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise BadInput(f"{folder} is missing: make it by {command}")
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
        files, schema = dict(found["files"]), found["schema"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path}: not a manifest that can be read ({error!r}); import again: {command}") from error
    if schema != SCHEMA:
        raise BadInput(f"{path}: of another version of fasthmr; import again: {command}")
    for name, wanted in files.items():
        if not (folder / name).is_file() or digest(folder / name) != wanted:
            raise BadInput(f"{folder / name}: was damaged or changed since it was imported; import again: {command}")
    return found


def digest(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
