"""Files of weights: safetensors in one way, so that the same content makes the same bytes on every machine."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def safetensors(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """The pieces of a safetensors file: its header, then each tensor where it lies in memory.

    Tensors of wide types come first, so that all are aligned, then names are sorted, of `metadata` too: the library
    writes it in an order that changes from run to run. Raises KeyError for a type that is not in `TYPES`.
    """
    names = sorted(state, key=lambda name: (-state[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for name in names:
        value, start = state[name], end
        end += math.prod(value.shape) * value.element_size()
        header[name] = {"dtype": TYPES[value.dtype], "shape": list(value.shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text = text.ljust(-8 * (-len(text) // 8))
    yield struct.pack("<Q", len(text)) + text
    for name in names:
        flat = state[name].detach().cpu().contiguous().reshape(-1)  # (elements,)
        yield flat.view(torch.uint8).numpy().data


def digest(path: Path) -> str:
    """sha256 of a file, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
