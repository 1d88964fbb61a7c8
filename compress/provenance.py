"""What stands beside every number, so that it can be traced to code, machine and weights."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from compress.policies.precision import Int8Linear

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("fasthmr", "torch", "numpy", "roma", "numba")
SEED = 0  # of everything that a reported figure depends on


def provenance(command: str, model: Any | None, device: torch.device, **more: Any) -> dict[str, Any]:
    """Where a figure of `fasthmr <command>` comes from: schema, code, machine and model, and what else is named."""
    return {
        "schema": f"fasthmr.{command}/1",
        "commit": commit(),
        "seed": SEED,
        "device": device.type,
        "threads": torch.get_num_threads(),
        "precision": "float32" if model is None else precision_of(model),
        "versions": versions(),
        "body": None,
        "model": model
        and {
            "name": model.encoder.name,
            "architecture": model.encoder.architecture,
            "sha256": model.encoder.sha256 or None,
        },
        "data": None,
        **more,
    }


def precision_of(model: Any) -> str:
    """What the blocks compute with: positions and head stay in float32 whatever is done to them."""
    if said := getattr(model.encoder, "precision", None):  # of an exported file, which has no blocks to look at
        return str(said)
    blocks = model.encoder.stack.blocks
    if any(isinstance(module, Int8Linear) for module in blocks.modules()):
        return "int8"
    return str(next(iter((*blocks.parameters(), *model.encoder.parameters()))).dtype).removeprefix("torch.")


def versions() -> dict[str, str]:
    """Version of Python and of each package that a figure depends on."""
    return {"python": platform.python_version(), **{name: package_version(name) for name in PACKAGES}}


def commit(root: Path = ROOT) -> str:
    """Commit of the checkout `root`; the package's version where that is none, as in an installation."""
    git = ["git", "-C", str(root), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        answer = subprocess.run(git, capture_output=True, text=True, check=True).stdout.split("\n")
    except (OSError, subprocess.CalledProcessError):
        return package_version("fasthmr")
    # another project's repository may hold the environment that this package is installed in
    return answer[1] if Path(answer[0]) == root else package_version("fasthmr")


def package_version(name: str) -> str:
    """The version of an installed package, or that it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
