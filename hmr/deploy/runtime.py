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


class Runtime(Protocol):
    """A network in a file, ready to run on the CPU."""

    interface: Interface
    name: str  # of the runtime, with its version

    def run(self, given: Arrays, wanted: Sequence[str]) -> dict[str, NDArray[Any]]:
        """The outputs `wanted` for inputs by name; as many frames as the interface says."""


def padded(runtime: Runtime, given: Arrays, wanted: Sequence[str]) -> dict[str, NDArray[Any]]:
    """`runtime.run` for any number of frames: a file of a fixed batch gets them in groups, the last filled up with
    copies of its last frame."""
    count, size = len(given["crops"]), runtime.interface.batch
    if size is None or count == size:
        return runtime.run(given, wanted)
    places = np.minimum(np.arange(-(-count // size) * size), count - 1)
    parts = [
        runtime.run({name: value[places[i : i + size]] for name, value in given.items()}, wanted)
        for i in range(0, len(places), size)
    ]
    return {name: np.concatenate([part[name] for part in parts])[:count] for name in wanted}


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
