"""Files that are either whole or not there: a crash in the middle of a write leaves what was there before."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def atomic_write(path: Path, content: bytes) -> Path:
    """Write `content` to `path` so that no reader ever sees half of it; makes missing folders and returns `path`.

    A temporary file beside the target is filled, synced and renamed over it; then the folder is synced, because
    on Linux the rename itself can still be lost with the power.

    Raises: OSError where the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")  # mkstemp would leave a file nobody else may read
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)
    return path


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
