"""The zip archive that `torch.save` writes: where its records lie, and refusal of whatever torch.save never writes."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from compress.errors import BadInput
from hmr.checkpoints.unpickler import refused_if_broken

ZIP = b"PK\x03\x04"  # how files of torch.save begin
MAX_RECORDS = 200_000
PIECE = 1 << 20  # bytes read at once


@dataclass(frozen=True)
class StorageRecord:
    """Where a record's bytes lie in the file."""

    offset: int
    size: int


def checked_records(path: Path) -> dict[str, StorageRecord]:
    """The records of a torch archive, by name below its one folder, their checksums looked at; BadInput for what
    torch.save never writes, and for damage."""
    size = path.stat().st_size
    with refused_if_broken(path), path.open("rb") as file, zipfile.ZipFile(file) as archive:
        file.seek(-22, io.SEEK_END)
        if file.read(4) != b"PK\x05\x06":  # readers disagree about what follows the table of contents
            raise BadInput(f"{path}: bytes after the end of the archive; not read")
        members = archive.infolist()
        _refuse_odd(path, members, size)
        _refuse_damaged(path, archive, members)
        return {"/".join(PurePosixPath(m.filename).parts[1:]): _place(path, file, m, size) for m in members}


def _refuse_odd(path: Path, members: list[zipfile.ZipInfo], size: int) -> None:
    names = [member.filename for member in members]
    common, times = Counter(names).most_common(1)[0] if names else ("", 0)
    if times > 1:
        raise BadInput(f"{path}: {times} records are called {short(common)}; not read")
    for member in members:
        if reason := _odd(member):
            raise BadInput(f"{path}: record {short(member.filename)} {reason}; not read")
    if len(names) > MAX_RECORDS or sum(member.file_size for member in members) > size:
        raise BadInput(f"{path}: a zip bomb: its records claim more bytes than the file has")
    for before, after in pairwise(sorted(members, key=lambda member: member.header_offset)):
        if before.header_offset + before.file_size > after.header_offset:
            raise BadInput(f"{path}: a zip bomb: records {short(before.filename)} and {short(after.filename)} overlap")
    parts = [PurePosixPath(name).parts for name in names]  # two at least
    if {inner for _, inner, *_ in parts} & {"code", "constants.pkl"}:
        raise BadInput(f"{path}: a TorchScript archive, which holds code; save the model's state_dict with torch.save")
    if len({root for root, *_ in parts}) != 1 or f"{parts[0][0]}/data.pkl" not in names:
        raise BadInput(f"{path}: a zip file without one data.pkl, so not one of torch.save")


def _refuse_damaged(path: Path, archive: zipfile.ZipFile, members: list[zipfile.ZipInfo]) -> None:
    """Read every record once. Checksums that torch.save was told to leave out are 0, and are not looked at."""
    for member in members:
        if not member.CRC:
            continue
        try:
            with archive.open(member) as record:
                while record.read(PIECE):
                    pass
        except zipfile.BadZipFile as error:
            raise BadInput(f"{path}: damaged ({error}); get the file again") from error


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


def _place(path: Path, file: Any, member: zipfile.ZipInfo, size: int) -> StorageRecord:
    file.seek(member.header_offset)
    header = file.read(30)
    name, extra = struct.unpack("<26x2H", header)
    offset = member.header_offset + 30 + name + extra
    if not header.startswith(ZIP) or offset + member.file_size > size:
        raise BadInput(f"{path}: record {short(member.filename)} lies beyond the end of the file: truncated")
    return StorageRecord(offset, member.file_size)


def short(name: str) -> str:
    """A name of a file, quoted, at most a line of it."""
    return repr(name if len(name) <= 100 else f"{name[:100]}…")
