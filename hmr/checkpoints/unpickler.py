"""The unpickler under both readers of strangers' pickles: it makes room and hashes for nothing that a file only claims.

Python's own unpickler, not the C one, which makes room for as large a memo as the file asks for: gigabytes. What a
global becomes, and so whether anything in the file could run, is up to each reader's `find_class`.
"""

from __future__ import annotations

import pickle
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from compress.errors import BadInput

MAX_BYTES = 1 << 30  # an SMPL file with 300 betas is a quarter of this
MAX_KEY = 60  # bits of a number that is a key
BROKEN = (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError, RuntimeError, OSError,
          OverflowError, MemoryError, ImportError, AssertionError, struct.error, tokenize.TokenError,
          zipfile.BadZipFile, zlib.error)  # fmt: skip


@contextmanager
def refused_if_broken(path: Path, named: Callable[[], str] = str) -> Iterator[None]:
    """BadInput for whatever a broken file does to its reader, with `named` at the end."""
    try:
        yield
    except BadInput:
        raise
    except BROKEN as error:
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise BadInput(f"{path}: broken or truncated ({reason}){named()}") from error


def hashed(key: Any, kinds: tuple[type, ...]) -> Any:
    """A key whose hash is quickly made, and is nobody else's: those of large integers go round every 61 bits, and a
    tuple of tuples can double sixty times. Raises ValueError for others."""
    if isinstance(key, int) and key.bit_length() > MAX_KEY:
        raise ValueError(f"a number of more than {MAX_KEY} bits as a key")
    if key is not None and not isinstance(key, kinds):
        raise ValueError(f"a {type(key).__name__} as a key")
    return key


class GuardedUnpickler(pickle._Unpickler):
    """Whatever hashes a key, and whatever makes room for what the file only claims, is overridden here: keys are
    `hashed` as `kinds`, and entries go into dicts alone, where SETITEM would write to a tensor too."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)
    kinds: ClassVar[tuple[type, ...]] = (int, str, bytes, float)
    # the base class has these, and the standard library's types leave them out
    stack: list[Any]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]
    pop_mark: Callable[[], list[Any]]

    def entries(self, values: list[Any]) -> dict[Any, Any]:
        """Keys and values, in turn, as a dict."""
        return {hashed(key, self.kinds): value for key, value in zip(values[::2], values[1::2], strict=True)}

    def put(self, values: list[Any]) -> None:
        """Keys and values, in turn, into the dict on the stack."""
        if not isinstance(self.stack[-1], dict):
            raise ValueError(f"entries for a {type(self.stack[-1]).__name__}")
        self.stack[-1].update(self.entries(values))

    def push(self, make: Callable[[list[Any]], Any]) -> None:
        """What `make` makes of everything above the mark."""
        values = self.pop_mark()  # first: it changes what `append` is
        self.append(make(values))

    def items(self, values: list[Any]) -> frozenset[Any]:
        return frozenset(hashed(value, self.kinds) for value in values)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.put([key, value])

    def load_additems(self) -> None:
        items = self.items(self.pop_mark())
        if isinstance(self.stack[-1], set):
            self.stack[-1].update(items)

    def load_bytearray8(self) -> None:
        """BYTEARRAY8 makes as many zeros as the file claims, and reads into them."""
        (size,) = struct.unpack("<Q", self.read(8))
        content = self.read(min(size, MAX_BYTES))
        if len(content) != size:
            raise EOFError("fewer bytes than declared")
        self.append(bytearray(content))

    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = lambda self: self.put(self.pop_mark())
    dispatch[pickle.DICT[0]] = lambda self: self.push(self.entries)
    dispatch[pickle.FROZENSET[0]] = lambda self: self.push(self.items)
    dispatch[pickle.ADDITEMS[0]] = load_additems
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
