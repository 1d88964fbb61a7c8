"""Body files and annotations from strangers, read without running them.

Official SMPL files are Python 2 pickles that hold numpy, scipy and chumpy objects; 3DPW and EMDB keep their annotations
in pickles too. Unpickling means calling whatever the file names, so here every name resolves to one of a few inert
stand-ins defined below; any other name is refused before anything is called. No numpy, scipy or chumpy constructor is
ever reachable from the file.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from compress.errors import BadInput
from hmr.checkpoints.unpickler import MAX_BYTES, GuardedUnpickler, refused_if_broken

_NUMERIC = re.compile(r"[biufc?SUV]\d*")
_NUMPY = {"numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric"}
_PYTHON_2 = {"copy_reg": "copyreg", "__builtin__": "builtins"}


def read_arrays(path: Path, only: Container[str] | None = None) -> dict[str, Any]:
    """Arrays of a .npz or of a pickled dict (`.pkl`), by name; chumpy and scipy sparse values as dense arrays.

    What is no array (strings, lists, unknown chumpy objects) is left out or returned as None. Of a .npz, members that
    are not in `only` are not looked at.
    Raises: BadInput naming the file and the reason: missing, empty, too large, broken, or wanting to run code.
    """
    content = _content(path)
    with refused_if_broken(path):
        return _read_npz(content, path, only) if content[:2] == b"PK" else _read_pickle(content, path)


def read_pickle(path: Path) -> Any:
    """What a pickle holds, as dicts, lists, strings, numbers and arrays; anything else in it is None.

    Raises: BadInput as `read_arrays`.
    """
    content = _content(path)
    with refused_if_broken(path):
        return _nested(_load(io.BytesIO(content), path), path, {})[0]


def _content(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if not path.is_file() or not 0 < size <= MAX_BYTES:
            raise BadInput(f"{path}: not a file of 1 byte to {MAX_BYTES >> 30} GiB")
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error


def _read_pickle(content: bytes, path: Path) -> dict[str, Any]:
    found = _load(io.BytesIO(content), path)
    if not isinstance(found, dict):
        raise BadInput(f"{path}: holds no dict of arrays")
    return {str(key): _plain(value, path) for key, value in found.items() if isinstance(key, str | bytes)}


def _read_npz(content: bytes, path: Path, only: Container[str] | None) -> dict[str, Any]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
        members = [member for member in members if only is None or member.filename[:-4] in only]
        if sum(member.file_size for member in members) > MAX_BYTES:
            raise BadInput(f"{path}: unpacks to more than {MAX_BYTES >> 30} GiB")
        return {member.filename[:-4]: _read_npy(archive.read(member), path) for member in members}


def _read_npy(content: bytes, path: Path) -> Any:
    """One .npy; the pickle inside an array of objects goes through the same stand-ins."""
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    if dtype.hasobject:
        return _plain(_load(stream, path), path)
    if math.prod(shape) * dtype.itemsize > len(content):  # else numpy makes room for it before it looks
        raise BadInput(f"{path}: an array is shorter than declared")
    return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)


class _Stub:
    """An object of a class we know of and do not want: keeps its state and does nothing."""

    def __new__(cls, *_args: object, **_kwargs: object) -> _Stub:
        return super().__new__(cls)

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        pass


class _Dtype:
    """numpy.dtype in the file: a type code, then byte order as second entry of its state."""

    def __init__(self, code: object = "", *_: object) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def resolve(self) -> np.dtype[Any]:
        if not isinstance(self.code, str) or not _NUMERIC.fullmatch(self.code):
            raise ValueError(f"arrays of type {self.code if isinstance(self.code, str) else '?'!r} are not read")
        return np.dtype(self.code).newbyteorder(">" if self.order == ">" else "<")


class _Array:
    """numpy.ndarray in the file: shape, type and bytes arrive as its state and are checked against each other."""

    def __init__(self, *_: object) -> None:
        self.value: Any = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, raw = state
        if isinstance(raw, list):  # an array of objects
            self.value = raw
        else:
            self.value = _from_bytes(raw, dtype, tuple(shape), "F" if fortran else "C")


def _from_bytes(raw: object, dtype: object, shape: object, order: object = "C") -> np.ndarray:
    if not isinstance(dtype, _Dtype):
        raise ValueError("an array without a type")
    content = raw.encode("latin1") if isinstance(raw, str) else raw
    if not isinstance(content, bytes | bytearray):  # a number would be as many zeros
        raise ValueError("an array without bytes")
    layout = "F" if order == "F" else "C"
    return np.frombuffer(content, dtype.resolve()).reshape(shape, order=layout).copy()  # type: ignore[call-overload]  # a stranger's shape: refused if it does not fit


def _codec(text: object, encoding: object = "latin1") -> bytes:
    """What protocol 2 calls to make bytes of text; only that."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError("_codecs.encode used for something else than bytes")
    return text.encode("latin1")


def _reconstructor(kind: object, *_: object) -> object:
    """copyreg._reconstructor, which Python 2 calls to make any object; here only stubs have anything to make."""
    if not (isinstance(kind, type) and issubclass(kind, _Stub)):
        raise ValueError("copyreg._reconstructor called on something else than a class")
    return kind()


def _stand_in(module: str, name: str) -> Callable[..., object] | None:
    """What a global named in the file becomes: a new inert class or a function of this module, or None: refused.

    Functions are wrapped afresh, for a pickle may set attributes on whatever it was handed.
    """
    if module in _NUMPY and name == "_reconstruct":
        return lambda *_: _Array()
    if module in _NUMPY and name == "scalar":
        return lambda dtype, raw: _from_bytes(raw, dtype, ())
    if module in _NUMPY and name == "_frombuffer":
        return lambda raw, dtype, shape, order: _from_bytes(raw, dtype, shape, order)
    if (module, name) == ("numpy", "dtype"):
        return lambda *arguments: _Dtype(*arguments)
    if (module, name) == ("_codecs", "encode"):
        return lambda *arguments: _codec(*arguments)
    if (module, name) == ("builtins", "bytes"):
        return lambda: b""  # how protocol 2 spells no bytes
    if (module, name) == ("copyreg", "_reconstructor"):
        return lambda *arguments: _reconstructor(*arguments)
    known = module.split(".")[0] == "chumpy" or module.startswith("scipy.sparse")
    if known or (module, name) in {("numpy", "ndarray"), ("builtins", "object")}:
        return type(name, (_Stub,), {"__module__": module})
    return None


class _Unpickler(GuardedUnpickler):
    """What a body or an annotation file holds, by the stand-ins above."""

    def __init__(self, stream: io.BytesIO, path: Path) -> None:
        super().__init__(stream, encoding="latin1")
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        module = _PYTHON_2.get(module, module)
        stand_in = _stand_in(module, name)
        if stand_in is None:
            raise BadInput(
                f"{self.path}: wants to run or build {module}.{name}, which no SMPL file or data set needs; not read"
            )
        return stand_in

    def persistent_load(self, _identity: object) -> Any:
        raise BadInput(f"{self.path}: refers to objects outside the file; not read")


def _load(stream: io.BytesIO, path: Path) -> Any:
    return _Unpickler(stream, path).load()


def _plain(value: object, path: Path) -> Any:
    """The array that a stand-in holds, or None."""
    if isinstance(value, np.ndarray | int | float | str):
        return value
    if isinstance(value, _Array):
        return _objects(value.value, path) if isinstance(value.value, list) else _plain(value.value, path)
    if not isinstance(value, _Stub):
        return None
    state = vars(value)
    if "indptr" in state:
        return _dense(state, type(value).__name__)
    if "idxs" in state and "a" in state:  # chumpy.reordering.Select: a view by flat index
        return _selected(_plain(state["a"], path), _plain(state["idxs"], path), state.get("preferred_shape"))
    return _plain(state.get("x", state.get("r")), path)  # chumpy.Ch: x is the value, r its last result


def _objects(values: list[Any], path: Path) -> Any:
    """What matters of an array of objects: strings, or a lone sparse matrix in an npz."""
    if values and all(isinstance(value, str) for value in values):
        return np.array(values)
    return _plain(values[0], path) if len(values) == 1 else None


def _nested(value: object, path: Path, done: dict[int, tuple[Any, int]]) -> tuple[Any, int]:
    """`_plain` of everything in dicts, lists and tuples, and how many values that is, written out.

    `done` holds each container's result by its id: a container that is in the file once is made once, however often
    others refer to it, and one inside itself is None there. Raises ValueError for more values than a file can have:
    whoever makes an array of such lists writes each out as often as others refer to it.
    """
    if isinstance(value, _Array) and isinstance(value.value, list):
        value = value.value
    if not isinstance(value, dict | list | tuple):
        plain = _plain(value, path)
        return plain, plain.size if isinstance(plain, np.ndarray) else 1
    if id(value) not in done:
        done[id(value)] = None, 1
        held = [_nested(one, path, done) for one in (value.values() if isinstance(value, dict) else value)]
        size = 1 + sum(values for _, values in held)
        if size > MAX_BYTES // 8:
            raise ValueError(f"lists in lists, {size} values written out")
        some = [one for one, _ in held]
        done[id(value)] = (dict(zip(map(str, value), some, strict=True)) if isinstance(value, dict) else some), size
    return done[id(value)]


def _selected(base: Any, indices: Any, shape: object) -> Any:
    flat = np.ravel(base)[indices]
    return flat if shape is None else flat.reshape(tuple(shape))  # type: ignore[arg-type]  # as above


def _dense(state: dict[str, Any], kind: str) -> np.ndarray:
    """scipy's csc or csr matrix from its arrays, checked by scipy."""
    shape = tuple(int(length) for length in state.get("_shape") or state["shape"])
    if len(shape) != 2 or math.prod(shape) * 8 > MAX_BYTES:
        raise ValueError("a sparse matrix of an impossible shape")
    made = scipy.sparse.csc_array if kind.startswith("csc") else scipy.sparse.csr_array
    matrix = made(tuple(_array(state[key]) for key in ("data", "indices", "indptr")), shape=shape)
    matrix.check_format(full_check=True)  # before anything follows its indices
    return matrix.toarray()


def _array(value: object) -> np.ndarray:
    array = value.value if isinstance(value, _Array) else value
    if not isinstance(array, np.ndarray) or array.ndim != 1:
        raise ValueError("a sparse matrix of something else than rows of numbers")
    return array
