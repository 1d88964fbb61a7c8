"""What a run has seen so far, in parts beside its results, so that one that was stopped goes on."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from compress.atomic import atomic_write, record_identity
from compress.errors import BadInput
from hmr.video.frames import STREAM
from hmr.video.tracks import Arrays

JOURNAL, RESULT, PARTS = "journal.json", "run.json", "parts"
ENDS = 2**20  # bytes at both ends of a file by which it is recognised


class RunFolder:
    """The folder of a run: `journal.json` says of what, `parts` holds what was seen, `run.json` is written last."""

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        """Raises BadInput where the folder holds something else, or a run of other inputs."""
        self.path = path
        record_identity(path / JOURNAL, identity, "run")

    @property
    def result(self) -> dict[str, Any] | None:
        """What the run gave; None while it is not finished. Raises BadInput where that cannot be read."""
        path = self.path / RESULT
        if not path.is_file():
            return None
        try:
            found: dict[str, Any] = json.loads(path.read_bytes())
        except ValueError as error:
            raise BadInput(f"{path}: not what a run wrote ({error}); remove {self.path}") from error
        return found

    def parts(self) -> list[tuple[Arrays, Arrays, Any]]:
        """Records, moments and state of each part in order; raises BadInput for one that is damaged."""
        return [self._read(path) for path in sorted((self.path / PARTS).glob("*.npz"))]

    def _read(self, path: Path) -> tuple[Arrays, Arrays, Any]:
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            state = json.loads(str(arrays.pop("state")))
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise BadInput(f"{path}: damaged ({error}); remove {self.path} to begin again") from error
        moments = {name[1:]: arrays.pop(name) for name in list(arrays) if name.startswith("@")}
        return arrays, moments, state

    def add(self, number: int, records: Arrays, moments: Arrays, state: Any) -> None:
        """Write a part; whole or not there."""
        stream = io.BytesIO()
        named: dict[str, Any] = {**records, **{f"@{name}": values for name, values in moments.items()}}
        np.savez(stream, **named, state=np.array(json.dumps(state)))
        atomic_write(self.path / PARTS / f"{number:06d}.npz", stream.getvalue())

    def finish(self, result: dict[str, Any]) -> None:
        """Write the result, after which nothing of the parts is needed."""
        atomic_write(self.path / RESULT, json.dumps(result, indent=1, allow_nan=False).encode())
        shutil.rmtree(self.path / PARTS, ignore_errors=True)


def source_id(path: Path) -> str:
    """By what a file or a folder of pictures is recognised: sizes and, of a file, sha256 of its two ends."""
    if path == STREAM:
        return "stream"
    if path.is_dir():
        listing = sorted((file.name, file.stat().st_size) for file in path.iterdir() if file.is_file())
        return hashlib.sha256(repr(listing).encode()).hexdigest()
    digest, size = hashlib.sha256(), path.stat().st_size
    with path.open("rb") as file:
        digest.update(file.read(ENDS))
        file.seek(max(0, size - ENDS))
        digest.update(file.read(ENDS))
    return f"{size} {digest.hexdigest()}"
