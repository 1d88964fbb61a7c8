"""Files of `torch.save` from strangers, read without running them.

A restricted unpickler reads them: tensors are rebuilt on the mapped file, and every global that is none of tensors and
plain containers becomes an inert stub, whatever it is called with, and is reported. torch's own `weights_only` reader
would not do: it ends at the first global it does not know, takes the hash of any key, be it a tuple of tuples that
doubles sixty times, and maps whatever a storage claims. It reads files from before torch 1.6, after a rehearsal.
"""

from __future__ import annotations

import io
import pickle
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from compress.errors import BadInput
from hmr.checkpoints.archive import ZIP, StorageRecord, checked_records, short
from hmr.checkpoints.unpickler import BROKEN, GuardedUnpickler, hashed, refused_if_broken

LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how files from before torch 1.6 begin
MAX_PICKLE = 32 << 20  # bytes; that of a Lightning file with its optimiser is a thousandth of it
MAX_GLOBALS = 1000


@dataclass(frozen=True)
class Read:
    """What a file holds: containers, scalars, tensors, and stubs for the rest; and the globals that those stand for."""

    content: Any
    stubbed: tuple[str, ...] = ()


def read_torch(path: Path) -> Read:
    """The content of a file of `torch.save`, its tensors mapped, on the CPU.

    Raises BadInput, naming the file and what is wrong with it: another format, broken, truncated, a TorchScript
    archive, a zip bomb, or tensors that reach beyond the file.
    """
    with path.open("rb") as file:
        start = file.read(len(LEGACY))
    if start.startswith(ZIP):
        return _restricted(path, checked_records(path))
    if start != LEGACY:
        raise BadInput(f"{path}: not a file of torch.save")
    if named := _rehearsed(path):
        raise BadInput(f"{path}: of before version 1.6 of torch, with more than tensors: {named}, which was not run")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats; nothing the user could do about it
            return Read(torch.load(path, map_location="cpu", weights_only=True))
    except BROKEN as refusal:
        raise BadInput(f"{path}: a broken file of before version 1.6 of torch") from refusal


class Stub(dict[Any, Any]):
    """Stands for any object that is no tensor: takes whatever a pickle does to it, keeps its entries and state."""

    name = "?"
    state: Any = None

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    __hash__ = object.__hash__  # type: ignore[assignment]  # a pickle may use it as a key

    def __eq__(self, other: object) -> bool:
        return self is other

    def __call__(self, *_: object, **__: object) -> Stub:
        return Stub()

    def append(self, _value: object) -> None:
        """What is done to a list."""

    extend = add = append


def _restricted(path: Path, records: dict[str, StorageRecord]) -> Read:
    place = records["data.pkl"]
    if place.size > MAX_PICKLE:
        raise BadInput(f"{path}: its data.pkl has {place.size} bytes, more than {MAX_PICKLE >> 20} MiB; not read")
    stubbed: dict[str, type[Stub]] = {}
    with refused_if_broken(path, partial(_listed, stubbed)), path.open("rb") as file:
        file.seek(place.offset)
        stream = io.BytesIO(file.read(place.size))
        if records.get("byteorder", StorageRecord(0, 6)).size != len("little"):
            raise ValueError("written on a big-endian machine")
        return Read(_Unpickler(stream, path, records, stubbed).load(), tuple(stubbed))


def _rehearsed(path: Path) -> str:
    """The globals in the pickles at the start of a file from before torch 1.6 (its mark, its version, the machine, the
    content, and the names of its storages, which follow) that are none of tensors. Raises BadInput for a broken one."""
    stubbed: dict[str, type[Stub]] = {}
    with refused_if_broken(path, partial(_listed, stubbed)), path.open("rb") as file:
        stream = io.BytesIO(file.read(MAX_PICKLE))
        for _ in range(5):
            _Unpickler(stream, path, None, stubbed).load()
    return ", ".join(list(stubbed)[:5])


def _listed(stubbed: dict[str, type[Stub]]) -> str:
    """The globals seen so far, for the end of a message."""
    return f"; it names {', '.join(list(stubbed)[:5])}, which was not run" if stubbed else ""


KEYS = (*GuardedUnpickler.kinds, Stub, torch.dtype)


class _Unpickler(GuardedUnpickler):
    """Tensors of the mapped file, and stubs."""

    dispatch: ClassVar[dict[int, Any]] = dict(GuardedUnpickler.dispatch)
    kinds: ClassVar[tuple[type, ...]] = KEYS

    def __init__(
        self, stream: io.BytesIO, path: Path, records: dict[str, StorageRecord] | None, stubbed: dict[str, type[Stub]]
    ) -> None:
        """Without `records` (of a file from before torch 1.6) tensors are stubs too."""
        super().__init__(stream, encoding="utf-8", errors="surrogateescape")
        self.path, self.records, self.stubbed = path, records, stubbed
        self.mapped: Any = None  # torch's storage of all the file's bytes

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in GLOBALS:
            return GLOBALS[module, name]
        full = f"{module}.{name}"[:200]
        if full not in self.stubbed:
            if len(self.stubbed) == MAX_GLOBALS:
                raise BadInput(f"{self.path}: names more than {MAX_GLOBALS} globals, the last {full}; not read")
            self.stubbed[full] = type("Stub", (Stub,), {"name": full})
        return self.stubbed[full]

    def get_extension(self, code: int) -> None:
        raise BadInput(f"{self.path}: asks for pickle extension {code}; not read")

    def load_build(self) -> None:
        """BUILD sets attributes or calls `__setstate__`; here only stubs keep what they are given."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], Stub):
            self.stack[-1].state = state

    dispatch[pickle.BUILD[0]] = load_build

    def persistent_load(self, identity: Any) -> Any:
        if self.records is None:
            return Stub()
        kind, dtype, key, _device, count = identity
        if not isinstance(key, str) or not isinstance(count, int):
            raise ValueError("a storage without a name")
        record = self.records.get(f"data/{key}")
        if kind != "storage" or not isinstance(dtype, torch.dtype) or record is None or count < 0:
            raise BadInput(f"{self.path}: a tensor's storage {short(str(key))} is not in the file")
        if count * dtype.itemsize > record.size:
            raise BadInput(f"{self.path}: storage {short(str(key))} is shorter than declared: truncated")
        if self.mapped is None:
            self.mapped = torch.UntypedStorage.from_file(str(self.path), False, self.path.stat().st_size)
        return _Storage(self.mapped[record.offset : record.offset + count * dtype.itemsize], dtype)


@dataclass(frozen=True)
class _Storage:
    bytes: Any  # torch.UntypedStorage
    dtype: torch.dtype


def _rebuilt(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Tensor | Stub:
    """torch._utils._rebuild_tensor_v2 that never grows a storage; a stub for one of a stub."""
    numbers = (offset, *size, *stride)
    if not all(isinstance(n, int) and n >= 0 for n in numbers) or len(size) != len(stride):
        raise ValueError("an impossible tensor")
    if isinstance(storage, Stub):
        return storage
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor without a storage")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and (last + 1) * storage.dtype.itemsize > storage.bytes.nbytes():
        raise ValueError(f"a tensor of shape {tuple(size)} that reaches beyond its storage")
    return torch.empty(0, dtype=storage.dtype).set_(storage.bytes, offset, tuple(size), tuple(stride))


def _parameter(data: object, *_: object) -> object:
    return data


def _typed(function: object, _type: object, arguments: Any, _state: object) -> object:
    return function(*arguments) if function in (_rebuilt, _parameter) else None


def _tuple(values: Any = ()) -> tuple[Any, ...]:
    return tuple(values)


def _dict(pairs: Any = ()) -> dict[Any, Any]:
    """A dict of keys that are `hashed`."""
    entries = list(pairs.items() if isinstance(pairs, dict) else pairs)
    return {hashed(key, KEYS): value for key, value in entries}


def _set(values: Any = ()) -> set[Any]:
    """A set of values that are `hashed`."""
    return {hashed(value, KEYS) for value in values}


_STORAGES = {  # torch.FloatStorage -> the type of its numbers
    **{"Float": torch.float32, "Double": torch.float64, "Half": torch.float16, "BFloat16": torch.bfloat16},
    **{"Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8},
    **{"Bool": torch.bool, "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128, "Untyped": torch.uint8},
}
GLOBALS: dict[tuple[str, str], Any] = {  # all that tensors and plain containers need
    **{(module, f"{k}Storage"): dtype for module in ("torch", "torch.storage") for k, dtype in _STORAGES.items()},
    **{("torch", str(dtype).removeprefix("torch.")): dtype for dtype in _STORAGES.values()},
    ("torch._utils", "_rebuild_tensor_v2"): _rebuilt,
    ("torch._utils", "_rebuild_tensor"): _rebuilt,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _typed,
    ("torch", "Size"): _tuple,
    ("collections", "OrderedDict"): _dict,
    ("builtins", "dict"): _dict,
    ("builtins", "set"): _set,
    ("__builtin__", "set"): _set,
}


def entry(value: Any, *keys: str) -> Any:
    """What a yacs or omegaconf configuration among stubs, or a dict, holds under nested keys; None where nothing is.

    Only this one path is followed: a pickle can nest references so that walking all of them never ends.
    """
    for key in (*keys, None):
        state = value.state if isinstance(value, Stub) else None
        if isinstance(state, dict):  # omegaconf keeps entries in `_content` of its containers, `_val` of its leaves
            value = state.get("_content", state.get("_val", value))
        if key is not None:
            value = value.get(key) if isinstance(value, dict) else None
    return value
