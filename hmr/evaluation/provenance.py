"""What stands beside every number, so that it can be traced."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from compress.policies.precision import Int8Linear
from hmr.body.model import BodyModel
from hmr.data.dataset import Frames
from hmr.data.datasets import SEED
from hmr.data.sample import known
from hmr.load import Resolved
from hmr.models.model import HMRModel

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("fasthmr", "torch", "numpy", "smplx", "roma", "numba")


def provenance(
    command: str,
    model: Resolved | None,
    body: BodyModel | None,
    data: Frames | None,
    device: torch.device,
) -> dict[str, Any]:
    """Where a figure of `fasthmr <command>` comes from: schema, code, machine, body, model and data, None where it has
    none of these."""
    return {
        "schema": f"fasthmr.{command}/1",
        "commit": commit(),
        "seed": SEED,
        "device": device.type,
        "threads": torch.get_num_threads(),
        "precision": precision_of(model.model) if model else "float32",
        "versions": versions(),
        "body": body and body.identity,
        "model": model
        and {"name": model.name, "architecture": model.model.architecture, "sha256": model.sha256 or None},
        "data": data and dataset(data),
    }


def precision_of(model: HMRModel) -> str:
    """What the blocks compute with: positions and head stay in float32 whatever is done to them."""
    blocks = model.stack.blocks
    if any(isinstance(module, Int8Linear) for module in blocks.modules()):
        return "int8"
    return str(next(iter((*blocks.parameters(), *model.parameters()))).dtype).removeprefix("torch.")


def dataset(data: Frames) -> dict[str, Any]:
    """Which frames a figure comes from."""
    spec = known(data.spec, "name")
    return {
        "name": spec.name,
        "split": spec.split,
        "frames": len(data),
        "clips": len(set(data.recordings)),
        "fps": data.fps,
        "mask_source": spec.mask_source,
        **({"path": str(spec.root), "masks": spec.masks} if spec.root else {}),
        **data.notes,
    }


def counted(data: dict[str, Any]) -> str:
    """How many frames of a `dataset` a figure comes from and who found the person in them, for people."""
    lost = f"; {data['left_out']} left out, in which nobody was found" if data.get("left_out") else ""
    joints = f"; joints and pelvis: {data['convention']}" if "convention" in data else ""
    return f"{data['frames']} frames of {data['clips']} recordings{lost}; masks: {data['mask_source']}{joints}"


def versions() -> dict[str, str]:
    """Version of Python and of each package that a figure depends on."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def commit(root: Path = ROOT) -> str:
    """Commit of the checkout `root`; the package's version where that is none, as in an installation."""
    git = ["git", "-C", str(root), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        answer = subprocess.run(git, capture_output=True, text=True, check=True).stdout.split("\n")
    except (OSError, subprocess.CalledProcessError):
        return _version("fasthmr")
    # another project's repository may hold the environment that this package is installed in
    return answer[1] if Path(answer[0]) == root else _version("fasthmr")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
