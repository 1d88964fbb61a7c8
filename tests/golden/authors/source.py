"""Authors' code at a commit, importable, and stand-ins for packages that it imports and does not need."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from torch import Tensor, nn

HERE = Path(__file__).resolve().parents[1]


def fetched(clone: str, commit: str) -> Path:
    """A folder with the Python files of that commit, first on the path of imports."""
    packed = subprocess.run(
        ["git", "-C", clone, "archive", commit, ":(glob)**/*.py"], check=True, capture_output=True
    ).stdout
    folder = Path(tempfile.mkdtemp())
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    sys.path.insert(0, str(folder))
    return folder


class StandIn(ModuleType):
    """A module all of whose names are mocks; `nn.Module` where a class is derived from one."""

    bases: tuple[str, ...] = ("LightningModule", "DictConfig")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return nn.Module if name in self.bases else MagicMock()


def stand_in(*names: str) -> None:
    """Importing these gives stand-ins."""
    for name in names:
        module = sys.modules[name] = StandIn(name)
        module.__path__ = []
        module.__spec__ = ModuleSpec(name, None, is_package=True)
        parent, _, child = name.rpartition(".")
        if parent in sys.modules:
            setattr(sys.modules[parent], child, module)


def package(name: str, folder: Path) -> None:
    """A package whose own `__init__` is not run: its modules are found in `folder`."""
    module = sys.modules[name] = ModuleType(name)
    module.__path__ = [str(folder)]


def keep(name: str, upstream: str, **arrays: Tensor | np.ndarray) -> None:
    """Write tests/golden/NAME.npz."""
    plain = {key: value.detach().numpy() if isinstance(value, Tensor) else value for key, value in arrays.items()}
    whole: dict[str, Any] = {"upstream": np.array(upstream), **plain}
    np.savez_compressed(HERE / f"{name}.npz", **whole)


torch.set_grad_enabled(False)
