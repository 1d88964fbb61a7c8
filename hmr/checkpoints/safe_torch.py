"""Files of `torch.save` from strangers, read without running them.

Of plain tensors in plain containers, what torch's own `weights_only` reader says counts. Whatever holds more (a
Lightning checkpoint with its configuration) is read by a restricted unpickler: tensors are rebuilt from the mapped
file, and every other global that the pickle names becomes an inert stub, whatever it is called with, and is reported.
There is no third way.

The restricted one goes over every file before torch's sees it, because that never ends on some: it takes the hash of
any key, be it a tuple of tuples that doubles sixty times, and fills a tensor that claims a million million places.
"""

from __future__ import annotations

import io
import pickle
import stat
import struct
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import torch
from torch import Tensor

from compress.errors import BadInput
from hmr.checkpoints.safe_pickle import GuardedUnpickler, hashed

ZIP = b"PK\x03\x04"  # how files of torch.save begin
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # those from before torch 1.6
MAX_PICKLE = 32 << 20  # bytes; that of a Lightning file with its optimiser is a thousandth of it
MAX_RECORDS = 200_000
MAX_GLOBALS = 1000
_BROKEN = (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError, RuntimeError,
           UnicodeError, OverflowError, MemoryError, RecursionError, struct.error, OSError, zipfile.BadZipFile,
           NotImplementedError, AssertionError, ImportError)  # fmt: skip
_DTYPES = {
    f"{name}Storage": dtype
    for name, dtype in (
        ("Float", torch.float32), ("Double", torch.float64), ("Half", torch.float16), ("BFloat16", torch.bfloat16),
        ("Long", torch.int64), ("Int", torch.int32), ("Short", torch.int16), ("Char", torch.int8),
        ("Byte", torch.uint8), ("Bool", torch.bool), ("Untyped", torch.uint8),
        ("ComplexFloat", torch.complex64), ("ComplexDouble", torch.complex128),
    )
}  # fmt: skip


_DTYPE_NAMES = {str(dtype).removeprefix("torch."): dtype for dtype in _DTYPES.values()}


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
        # torch maps whatever a storage claims, were it the bytes of another: this reader holds them against the records
        found = _restricted(path, checked_records(path))
        if found.stubbed:
            return found
        try:
            return Read(_weights_only(path, mapped=True))
        except _BROKEN:
            return found
    if start != LEGACY:
        raise BadInput(f"{path}: not a file of torch.save")
    if named := _rehearsed(path):
        raise BadInput(f"{path}: of before version 1.6 of torch, with more than tensors: {named}, which was not run")
    try:
        return Read(_weights_only(path, mapped=False))
    except _BROKEN as refusal:
        raise BadInput(f"{path}: a broken file of before version 1.6 of torch") from refusal


def _weights_only(path: Path, mapped: bool) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of old formats; nothing the user could do about it
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


# ---- the archive


@dataclass(frozen=True)
class Record:
    """Where a record's bytes lie in the file."""

    offset: int
    size: int


def checked_records(path: Path) -> dict[str, Record]:
    """The records of a torch archive, by name below its one folder; BadInput for what torch.save never writes."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            file.seek(-22, io.SEEK_END)
            if file.read(4) != b"PK\x05\x06":  # readers disagree about what follows the table of contents
                raise BadInput(f"{path}: bytes after the end of the archive; not read")
            members = archive.infolist()
            _refuse_odd(path, members, size)
            return {
                str(PurePosixPath(*PurePosixPath(m.filename).parts[1:])): _place(path, file, m, size) for m in members
            }
    except (zipfile.BadZipFile, OSError, struct.error, ValueError, NotImplementedError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{path}: a broken or truncated archive ({error})") from error


def _refuse_odd(path: Path, members: list[zipfile.ZipInfo], size: int) -> None:
    names = [member.filename for member in members]
    common, times = Counter(names).most_common(1)[0] if names else ("", 0)
    if times > 1:
        raise BadInput(f"{path}: {times} records are called {_short(common)}; not read")
    for member in members:
        if reason := _odd(member):
            raise BadInput(f"{path}: record {_short(member.filename)} {reason}; not read")
    if len(names) > MAX_RECORDS or sum(member.file_size for member in members) > size:
        raise BadInput(f"{path}: a zip bomb: its records claim more bytes than the file has")
    for before, after in pairwise(sorted(members, key=lambda member: member.header_offset)):
        if before.header_offset + before.file_size > after.header_offset:
            raise BadInput(
                f"{path}: a zip bomb: records {_short(before.filename)} and {_short(after.filename)} overlap"
            )
    roots = {PurePosixPath(name).parts[0] for name in names}
    inner = {PurePosixPath(name).parts[1] for name in names if len(PurePosixPath(name).parts) > 1}
    if inner & {"code", "constants.pkl"}:
        raise BadInput(f"{path}: a TorchScript archive, which holds code; save the model's state_dict with torch.save")
    if len(roots) != 1 or f"{next(iter(roots))}/data.pkl" not in names:
        raise BadInput(f"{path}: a zip file without one data.pkl, so not one of torch.save")


def _odd(member: zipfile.ZipInfo) -> str:
    """What is wrong with a record, or nothing."""
    name, parts = member.filename, PurePosixPath(member.filename).parts
    if name.startswith("/") or "\\" in name or ".." in parts or ":" in name or len(parts) < 2:
        return "has a name that leads out of the archive"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "is a symbolic link"
    if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
        return f"is compressed, {member.compress_size} bytes to {member.file_size}: torch.save compresses nothing"
    return "is encrypted" if member.flag_bits & 1 else ""


def _place(path: Path, file: Any, member: zipfile.ZipInfo, size: int) -> Record:
    file.seek(member.header_offset)
    header = file.read(30)
    name, extra = struct.unpack("<26x2H", header)
    offset = member.header_offset + 30 + name + extra
    if not header.startswith(ZIP) or offset + member.file_size > size:
        raise BadInput(f"{path}: record {_short(member.filename)} lies beyond the end of the file: truncated")
    return Record(offset, member.file_size)


# ---- the restricted unpickler


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


def _restricted(path: Path, records: dict[str, Record]) -> Read:
    place = records["data.pkl"]
    if place.size > MAX_PICKLE:
        raise BadInput(f"{path}: its data.pkl has {place.size} bytes, more than {MAX_PICKLE >> 20} MiB; not read")
    stubbed: dict[str, type[Stub]] = {}
    with _refusing(path, stubbed), path.open("rb") as file:
        file.seek(place.offset)
        stream = io.BytesIO(file.read(place.size))
        order = records.get("byteorder", Record(0, 6)).size
        if order != len("little"):
            raise ValueError("written on a big-endian machine")
        return Read(_Unpickler(stream, path, records, stubbed).load(), tuple(stubbed))


def _rehearsed(path: Path) -> str:
    """The globals in the pickles at the start of a file from before torch 1.6 (its mark, its version, the machine, the
    content, and the names of its storages, which follow) that are none of tensors. Raises BadInput for a broken one."""
    stubbed: dict[str, type[Stub]] = {}
    with _refusing(path, stubbed), path.open("rb") as file:
        stream = io.BytesIO(file.read(MAX_PICKLE))
        for _ in range(5):
            _Unpickler(stream, path, None, stubbed).load()
    return _listed(stubbed)


@contextmanager
def _refusing(path: Path, stubbed: dict[str, type[Stub]]) -> Iterator[None]:
    """BadInput with the globals seen so far for whatever a broken file does to its reader."""
    try:
        yield
    except BadInput:
        raise
    except _BROKEN as error:
        named = f"; it names {_listed(stubbed)}, which was not run" if stubbed else ""
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise BadInput(f"{path}: broken, truncated or no checkpoint ({reason}){named}") from error


def _listed(names: dict[str, type[Stub]]) -> str:
    return ", ".join(list(names)[:5])


KEYS = (*GuardedUnpickler.kinds, Stub, torch.dtype)


class _Unpickler(GuardedUnpickler):
    """Tensors of the mapped file, and stubs."""

    dispatch: ClassVar[dict[int, Any]] = dict(GuardedUnpickler.dispatch)
    kinds: ClassVar[tuple[type, ...]] = KEYS

    def __init__(
        self, stream: io.BytesIO, path: Path, records: dict[str, Record] | None, stubbed: dict[str, type[Stub]]
    ) -> None:
        """Without `records` (of a file from before torch 1.6) tensors are stubs too."""
        super().__init__(stream, encoding="utf-8", errors="surrogateescape")
        self.path, self.records, self.stubbed = path, records, stubbed
        self.mapped: Any = None  # torch's storage of all the file's bytes

    def find_class(self, module: str, name: str) -> Any:
        known = _known(module, name)
        if known is not None:
            return known
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
            raise BadInput(f"{self.path}: a tensor's storage {_short(str(key))} is not in the file")
        if count * dtype.itemsize > record.size:
            raise BadInput(f"{self.path}: storage {_short(str(key))} is shorter than declared: truncated")
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


def _known(module: str, name: str) -> Any:
    """What a global that tensors and plain containers need becomes; None for all others."""
    if module in ("torch", "torch.storage") and name in _DTYPES:
        return _DTYPES[name]
    if (module, name) == ("torch.storage", "UntypedStorage"):
        return torch.uint8
    if module == "torch" and name in _DTYPE_NAMES:
        return _DTYPE_NAMES[name]
    return {
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
    }.get((module, name))


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


def _short(name: str) -> str:
    return repr(name if len(name) <= 100 else f"{name[:100]}…")


# ---- configurations


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
