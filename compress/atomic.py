"""Files and folders that are either whole or not there, whoever else writes and whatever ends the process or the disk.

Everything that is written is filled beside its place and renamed. What the system refuses, as a full disk or a
read-only place, is `Unwritable`: one sentence.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from compress.errors import BadInput, Taken, Unwritable

PATIENCE = 60  # seconds that one waits for another writer of the same file


def atomic_write(path: Path, content: bytes | Iterable[bytes | memoryview], new: bool = False) -> Path:
    """Write `content`, whole or in pieces, to `path` so that no reader ever sees half of it; makes missing folders and
    returns `path`.

    A temporary file beside the target is filled, synced and renamed over it; then the folder is synced, because
    on Linux the rename itself can still be lost with the power. Its mode is the umask's. `new`: never over a file with
    something in it, of two processes that write the same one the second raises Taken.

    Raises Unwritable.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")  # mkstemp would leave a file nobody else may read
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                file.writelines([content] if isinstance(content, bytes) else content)
                file.flush()
                os.fsync(file.fileno())
            with alone(path, wait=True) if new else nullcontext():
                if new and path.exists() and path.stat().st_size:
                    raise Taken(f"{path}: another process wrote it meanwhile; name another file")
                temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        synced(path.parent)
    return path


def append_line(path: Path, line: str) -> None:
    """Add a line to a file of lines and wait until it is on the disk: the whole of it, or nothing where that fails.

    What a process that was killed left of a last line stays alone on that line. Raises Unwritable.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 1))
            left = (b"\n" if end and file.read(1) != b"\n" else b"") + line.encode() + b"\n"
            try:
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(end)
                raise


def occupied(path: Path) -> bool:
    """Whether there is a file, or a folder with something in it; raises BadInput where that cannot be seen."""
    try:
        return path.exists() and not (path.is_dir() and not any(path.iterdir()))
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); name another one") from error


def refuse_unwritable(path: Path) -> None:
    """Raise BadInput where no file or folder could be put at `path`, before hours are spent on what goes there."""
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise BadInput(f"{path}: {above} is not a writable folder; name another place")


def record_identity(path: Path, identity: dict[str, Any], noun: str) -> None:
    """Write what identifies the content of a folder, as JSON values, to `path` in it, or compare it with what is there;
    of two processes that begin at once one writes and the other compares.

    Raises BadInput where the folder holds something else, and Unwritable.
    """
    folder = path.parent
    if folder.is_file():
        raise BadInput(f"{folder}: it is there and a file; name a folder")
    if not path.is_file():
        with writing(path):
            folder.mkdir(parents=True, exist_ok=True)
        with alone(path, wait=True):
            if not path.is_file():
                if any(not file.name.startswith(f".{path.name}") for file in folder.iterdir()):
                    raise BadInput(f"{folder}: it is there, not empty, and holds no {noun}; remove it or name another")
                atomic_write(path, json.dumps(identity, indent=1).encode())
                return
    try:
        theirs = json.loads(path.read_bytes())
        unlike = [name for name in {**identity, **theirs} if theirs.get(name) != identity.get(name)]
    except (ValueError, AttributeError, TypeError) as error:
        raise BadInput(f"{path}: not what a {noun} wrote ({error}); remove {folder}") from error
    if unlike:
        raise BadInput(f"{folder}: the {noun} there has another {unlike[0]}; remove the folder to start a new one")


@contextmanager
def atomic_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """An empty folder beside `path` to write files into, which becomes `path` when the block ends well.

    A block that raises leaves nothing. One that is killed leaves `unfinished(path)`, which the next one for the same
    `path` clears away. `replace`: an older folder stays until the new one is whole. Raises Taken where `path` is there
    already, unless it is an empty folder or is to be replaced, and while another process writes it; Unwritable; and
    as `occupied`.
    """
    path = path.absolute()  # "." has no name
    beside = unfinished(path)
    with writing(path), alone(path):
        if not replace and occupied(path):
            raise Taken(f"{path}: already exists and is not empty; name another folder")
        shutil.rmtree(beside, ignore_errors=True)
        try:
            beside.mkdir(parents=True)
            yield beside
            for file in (*beside.rglob("*"), beside):
                synced(file)
            _put(beside, path)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
        synced(path.parent)


def unfinished(path: Path) -> Path:
    """Where `atomic_folder(path)` has its files until they are complete."""
    return path.with_name(f".{path.name}.unfinished")


def _put(new: Path, path: Path) -> None:
    """Rename a folder over `path`, in whose place there may be another one, which goes last."""
    old = path.with_name(f".{path.name}.old")
    if not occupied(path):
        new.replace(path)  # over an empty folder too
        return
    shutil.rmtree(old, ignore_errors=True)
    path.replace(old)
    try:
        new.replace(path)
    except BaseException:
        old.replace(path)
        raise
    shutil.rmtree(old)


@contextmanager
def alone(path: Path, wait: bool = False) -> Iterator[None]:
    """Be the only process that writes to `path`, as far as those that ask go; the system frees a dead one's lock.

    Raises Taken where another one does, after PATIENCE where told to `wait` for it, and Unwritable.
    """
    file = path.with_name(f".{path.name}.lock")
    lock = FileLock(file, timeout=PATIENCE if wait else 0)  # opens with O_EXCL, again where it was removed
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout as error:
            raise Taken(f"{path}: another process writes it now; wait for that one, or name another place") from error
    try:
        yield
    finally:
        with suppress(OSError):  # only POSIX systems remove a file that is open
            file.unlink()
        lock.release()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's errors in writing `path` into a sentence, Unwritable."""
    try:
        yield
    except Unwritable:
        raise
    except OSError as error:
        named = error.filename and not Path(error.filename).name.startswith(f".{path.name}.")  # what is renamed later
        place = error.filename if named else path
        raise Unwritable(f"{place}: cannot be written ({error.strerror or error})") from error


def synced(path: Path) -> None:
    """Wait until a file or a folder is on the disk; only POSIX systems can open a folder."""
    if path.is_dir() and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
