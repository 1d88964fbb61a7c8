"""Locks between processes of one machine, as files in $FASTHMR_HOME; the kernel frees those of a process that dies."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compress.errors import BadInput
from hmr.home import fasthmr_home


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until no other process holds `path`, and hold it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def machine(alone: bool) -> Iterator[None]:
    """Search beside others on this machine or, to measure time, `alone`; raises BadInput where that cannot be."""
    path = fasthmr_home() / "searches" / "machine.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadInput(
                "another search runs on this machine and latency cannot be measured beside it: wait for that one, or "
                "search for macs"
            ) from error
        yield
