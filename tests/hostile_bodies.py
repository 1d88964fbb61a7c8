"""Run by test_body_import in a process of its own: imports every file it is given while an audit hook watches.

stdin: JSON list of paths. stdout: one JSON object, path -> [exit code, stderr, what the hook saw].
"""

from __future__ import annotations

import contextlib
import encodings.cp437  # noqa: F401  (zipfile asks for it)
import io
import json
import sys
from typing import Any

import hmr.body.files
from experiments.cli import main as cli

FORBIDDEN = ("os.", "subprocess.", "socket.", "shutil.", "exec", "import", "ctypes.", "urllib.", "code.")
seen: list[str] = []
watching = False
import_body = hmr.body.files.import_body


def watched_import(path: str) -> Any:
    """`import_body` under watch; not all of the command, for typer itself compiles its annotations."""
    global watching
    watching = True
    try:
        return import_body(path)
    finally:
        watching = False


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Note whatever a harmless import of a file would not do; and stop it before it happens."""
    if not watching:
        return
    writes = event == "open" and any(letter in str(arguments[1] or "r") for letter in "wxa+")
    if event.startswith(FORBIDDEN) or writes:
        seen.append(f"{event} {arguments!r}"[:200])
        raise RuntimeError(f"forbidden: {event}")


def attempt(path: str) -> list[object]:
    """[exit code, stderr, forbidden events] of `fasthmr body import PATH`."""
    seen.clear()
    sys.argv = ["fasthmr", "body", "import", path]
    code: object = 0
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
        except Exception as error:
            code = f"{type(error).__name__}: {error}"
    return [code, stderr.getvalue(), list(seen)]


if __name__ == "__main__":
    paths = json.load(sys.stdin)
    hmr.body.files.import_body = watched_import  # type: ignore[assignment]  # the command looks it up when it runs
    attempt("/no/such/body.pkl")  # what is imported on first use
    sys.addaudithook(watch)
    json.dump({path: attempt(path) for path in paths}, sys.stdout)
