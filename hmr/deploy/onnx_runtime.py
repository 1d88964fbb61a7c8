"""ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from compress.errors import BadInput
from hmr.deploy.onnx_file import read_onnx
from hmr.deploy.runtime import Arrays


class OnnxRuntime:
    """An ONNX file by ONNX Runtime on the CPU. Raises BadInput as `read_onnx`, and where the runtime refuses it."""

    def __init__(self, path: Path, threads: int) -> None:
        model, self.interface = read_onnx(path)
        try:
            import onnxruntime
        except ImportError as error:
            raise BadInput("ONNX files need onnx and onnxruntime: pip install 'fasthmr[onnx]'") from error
        self.name = f"onnxruntime {onnxruntime.__version__}"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        external = any(tensor.external_data for tensor in model.graph.initializer)
        # what was looked at, not what lies there now; weights beside a file are found from its path alone
        source: Any = str(path) if external else model.SerializeToString()
        try:
            self.session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its own classes, which have none in common
            raise BadInput(f"{path}: ONNX Runtime does not run it ({str(error).splitlines()[0]})") from error

    def run(self, given: Arrays, wanted: Sequence[str]) -> dict[str, NDArray[Any]]:
        return dict(zip(wanted, self.session.run(list(wanted), dict(given)), strict=True))
