"""Files out of wheels, which are zip archives; nothing in them is run."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from email.parser import BytesParser
from pathlib import Path

from compress.errors import BadInput

LARGEST = 256 * 1024**2  # bytes of a file in a wheel


def members(wheel: Path, names: Sequence[str], hint: str) -> dict[str, bytes]:
    """The named files of a wheel. Raises BadInput where one is missing, with the `hint` which wheel has it, or too
    large, and where the wheel cannot be read."""
    found: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in names:
                with archive.open(name) as file:
                    found[name] = file.read(LARGEST + 1)
    except KeyError as error:
        raise BadInput(f"{wheel}: holds no {name}: {hint}") from error
    except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, NotImplementedError, EOFError) as error:
        raise BadInput(f"{wheel}: a broken wheel ({error})") from error
    if large := next((name for name, content in found.items() if len(content) > LARGEST), None):
        raise BadInput(f"{wheel}: {large} is larger than {LARGEST} bytes")
    return found


def described(wheel: Path, hint: str) -> tuple[str, str, bytes]:
    """Name and version of the package in a wheel, and the text of its licence. Raises BadInput as `members`."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            inside = [
                name for name in archive.namelist() if Path(name).parts[:1] and ".dist-info" in Path(name).parts[0]
            ]
    except (zipfile.BadZipFile, OSError) as error:
        raise BadInput(f"{wheel}: not a wheel ({error})") from error
    metadata = next((name for name in inside if Path(name).name == "METADATA"), "METADATA")
    licence = next((name for name in inside if Path(name).name.startswith("LICEN")), "LICENSE")
    held = members(wheel, [metadata, licence], hint)
    fields = BytesParser().parsebytes(held[metadata], headersonly=True)
    return str(fields["Name"]).lower(), str(fields["Version"]), held[licence]
