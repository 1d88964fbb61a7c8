"""Files that are either whole or not there: a crash in the middle of a write leaves what was there before."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compress.errors import BadInput


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
    synced(path.parent)
    return path


def occupied(path: Path) -> bool:
    """Whether there is a file, or a folder with something in it; raises BadInput where that cannot be seen."""
    try:
        return path.exists() and not (path.is_dir() and not any(path.iterdir()))
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); name another one") from error


def record_identity(path: Path, identity: dict[str, Any], noun: str) -> None:
    """Write what identifies the content of a folder, as JSON values, to `path` in it, or compare it with what is there.

    Raises BadInput where the folder holds something else, or cannot be written.
    """
    folder = path.parent
    if not occupied(folder):
        try:
            atomic_write(path, json.dumps(identity, indent=1).encode())
        except OSError as error:
            raise BadInput(f"{folder}: cannot be written ({error.strerror})") from error
        return
    if not path.is_file():
        raise BadInput(f"{folder}: it is there, not empty, and holds no {noun}; remove it or name another one")
    try:
        theirs = json.loads(path.read_bytes())
        unlike = [name for name in {**identity, **theirs} if theirs.get(name) != identity.get(name)]
    except (ValueError, AttributeError, TypeError) as error:
        raise BadInput(f"{path}: not what a {noun} wrote ({error}); remove {folder}") from error
    if unlike:
        raise BadInput(f"{folder}: the {noun} there has another {unlike[0]}; remove the folder to start a new one")


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside `path` to write files into, which becomes `path` when the block ends well.

    A block that raises leaves nothing. One that is killed leaves `.NAME.unfinished`, which the next one for the same
    `path` clears away. Raises FileExistsError where `path` is there already, unless it is an empty folder, and as
    `occupied`.
    """
    if occupied(path):
        raise FileExistsError(path)
    path = path.absolute()  # "." has no name
    unfinished = path.with_name(f".{path.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        for file in unfinished.iterdir():
            synced(file)
        synced(unfinished)
        unfinished.replace(path)  # over an empty folder too, never over a full one
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    synced(path.parent)


def synced(path: Path) -> None:
    """Wait until a file or a folder is on the disk; only POSIX systems can open a folder."""
    if path.is_dir() and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
