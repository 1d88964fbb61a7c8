"""int8 for ONNX Runtime and OpenVINO: the products of the blocks, as a recipe's `precision` rounds them, but with
ranges of activations that were seen beforehand and stay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.errors import BadInput
from hmr.deploy.formats import quiet
from hmr.deploy.onnx_file import onnx

GROUP = 4  # frames that ranges are taken of at once


def quantised(
    source: Path, path: Path, seen: Mapping[str, NDArray[Any]], blocks: str, batch: int | None = None
) -> Path:
    """Write to `path` the ONNX file `source` with the products of nodes under `blocks` in int8: a scale for each column
    of a weight, and one for each activation from its range on `seen`, inputs (N, ...) by name.

    batch: how many frames the file takes at once; None: any number. Outputs of products stay in float32. Raises
    BadInput where there is no frame or no such product, and where ONNX Runtime cannot.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    products = products_under(source, blocks)
    if not products or not len(seen["crops"]):
        raise BadInput(f"int8: there are {len(products)} products in blocks and {len(seen['crops'])} frames for ranges")
    asked: dict[str, Any] = {
        "quant_format": QuantFormat.QDQ,
        "op_types_to_quantize": ["MatMul"],
        "nodes_to_quantize": products,
        "per_channel": True,
        "activation_type": QuantType.QUInt8,  # with int8 weights, what VNNI multiplies
        "weight_type": QuantType.QInt8,
        "use_external_data_format": source.with_name(f"{source.name}.data").is_file(),
        "extra_options": {"OpTypesToExcludeOutputQuantization": ["MatMul"], "WeightSymmetric": True},
    }
    try:
        with quiet():
            quantize_static(str(source), str(path), CalibrationFrames(seen, batch or GROUP), **asked)
    except Exception as error:  # its own classes, which have none in common
        raise BadInput(f"ONNX Runtime does not quantise it ({str(error).splitlines()[0]})") from error
    return path


def products_under(source: Path, blocks: str) -> list[str]:
    """Names of the nodes under `blocks` that multiply by weights."""
    graph = onnx().load(source, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    found = (node for node in graph.node if node.op_type == "MatMul" and node.input[1] in weights)
    return [node.name for node in found if node.name.startswith(f"{blocks}.")]


class CalibrationFrames:
    """An onnxruntime `CalibrationDataReader`: inputs, some frames at a time."""

    def __init__(self, seen: Mapping[str, NDArray[Any]], size: int) -> None:
        self.groups = groups(seen, size)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self.groups, None)

    def __len__(self) -> int:
        raise TypeError  # it is read once, from the first frame to the last


def groups(seen: Mapping[str, NDArray[Any]], size: int) -> Iterator[dict[str, NDArray[Any]]]:
    """All of `size` frames; the last ones are filled up with copies."""
    count = len(seen["crops"])
    for i in range(0, count, size):
        places = np.minimum(np.arange(i, i + size), count - 1)
        yield {name: np.ascontiguousarray(value[places]) for name, value in seen.items()}
