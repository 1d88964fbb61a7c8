"""What runs an exported file. A runtime knows files and arrays; what a model is stands in `hmr.deploy.exported`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from compress.errors import BadInput
from hmr.deploy.interface import Interface

Arrays = Mapping[str, NDArray[Any]]
Run = Callable[[Arrays, Sequence[str]], Mapping[str, NDArray[Any]]]  # inputs by name, names of outputs -> those


class Runtime(Protocol):
    """A network in a file, ready to run on the CPU."""

    interface: Interface
    name: str  # of the runtime, with its version

    def run(self, given: Arrays, wanted: Sequence[str]) -> dict[str, NDArray[Any]]:
        """The outputs `wanted` for inputs by name; as many frames as the interface says."""


def in_groups(run: Run, inputs: Arrays, names: Sequence[str], size: int) -> dict[str, NDArray[Any]]:
    """Outputs (N, ...) for inputs (N, ...), `size` frames at once; the last ones are filled up with copies."""
    count = len(next(iter(inputs.values())))
    places = np.minimum(np.arange(-(-count // size) * size), count - 1)
    parts = [
        run({name: np.ascontiguousarray(value[places[i : i + size]]) for name, value in inputs.items()}, names)
        for i in range(0, len(places), size)
    ]
    return {name: np.concatenate([part[name] for part in parts])[:count] for name in names}


def opened(path: Path, threads: int | None = None) -> Runtime:
    """The runtime of a file, by its suffix; on so many threads, by default as many as torch takes.

    Raises BadInput for a file that is missing, hostile or of another program, and where its runtime is not installed.
    """
    import torch

    if not path.is_file():
        raise BadInput(f"{path}: there is no such file")
    return RUNTIMES[path.suffix](path, threads or torch.get_num_threads())


def _onnx(path: Path, threads: int) -> Runtime:
    from hmr.deploy.onnx_runtime import OnnxRuntime

    return OnnxRuntime(path, threads)


def _openvino(path: Path, threads: int) -> Runtime:
    from hmr.deploy.openvino_runtime import OpenVino

    return OpenVino(path, threads)


RUNTIMES: dict[str, Callable[[Path, int], Runtime]] = {".onnx": _onnx, ".xml": _openvino}
