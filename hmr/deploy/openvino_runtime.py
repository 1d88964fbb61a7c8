"""OpenVINO, held to the precision of its file where it would choose bfloat16 by itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.errors import BadInput
from hmr.deploy.interface import KEY, interface_of
from hmr.deploy.runtime import Arrays

NOTHING = "0" * 64  # stands where a file's hash goes, while that is taken


def openvino() -> Any:
    """The package; raises BadInput where it is not installed."""
    try:
        import openvino
    except ImportError as error:
        raise BadInput("OpenVINO files need openvino: pip install 'fasthmr[openvino]'") from error
    return openvino


class OpenVino:
    """A file .xml, with its weights beside it as .bin, by OpenVINO on the CPU.

    Raises BadInput for a file that `fasthmr export` did not write or that was changed since.
    """

    def __init__(self, path: Path, threads: int) -> None:
        ov = openvino()
        self.name = f"openvino {ov.__version__.split('-')[0]}"
        try:
            model = ov.Core().read_model(str(path))
            text = model.get_rt_info(KEY).astype(str) if model.has_rt_info(KEY) else None
        except RuntimeError as error:
            raise BadInput(f"{path}: OpenVINO does not read it ({str(error).splitlines()[-1]})") from error
        self.interface = interface_of(text, path)
        if digest(path, self.interface.hashes.get("graph", "")) != self.interface.hashes.get("graph"):
            raise BadInput(f"{path}: its hash is not the one it was exported with: the file was damaged or changed")
        settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1,
                    "INFERENCE_PRECISION_HINT": "f32"}  # fmt: skip
        self.request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()

    def run(self, given: Arrays, wanted: Sequence[str]) -> dict[str, NDArray[Any]]:
        self.request.infer({name: np.ascontiguousarray(value) for name, value in given.items()})
        return {name: self.request.get_tensor(name).data.copy() for name in wanted}


def digest(path: Path, written: str) -> str:
    """sha256 over a file .xml, in which `written` is the hash that stands there itself, and the weights beside it."""
    with path.with_suffix(".bin").open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").digest()
    return hashlib.sha256(path.read_bytes().replace(written.encode(), NOTHING.encode()) + weights).hexdigest()
