"""Processes that load one checkpoint each while an audit hook watches.

stdin: a JSON list of paths, first those of two good files, one of tensors alone; stdout: a JSON object, path ->
[outcome, message, what the hook saw].
"""

from __future__ import annotations

import encodings.cp437  # noqa: F401  # zipfile asks for it
import io
import json
import logging
import os
import resource
import signal
import sys
from typing import Any

import torch

from compress.errors import BadInput
from hmr.checkpoints import files as checkpoints

SECONDS, ADDRESS_SPACE = 20, 6 << 30  # torch alone maps 3 GiB
FORBIDDEN = ("os.", "subprocess.", "socket.", "shutil.", "exec", "import", "ctypes.", "urllib.", "code.", "pty.",
             "webbrowser.", "tempfile.", "compile", "sys.addaudithook", "sys.settrace")  # fmt: skip
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

seen: list[str] = []
watching = False


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Note whatever a reader of files would not do; and stop it before it happens."""
    if not watching:
        return
    if event.startswith(FORBIDDEN) or (event == "open" and writes(*arguments)):
        seen.append(f"{event} {arguments!r}"[:200])
        raise RuntimeError(f"forbidden: {event}")


def writes(_path: object, mode: str | None, flags: int) -> bool:
    """Whether a file is opened for more than reading; os.open has flags and no mode."""
    return any(letter in mode for letter in "wxa+") if mode else bool(flags & WRITING)


def apart(path: str) -> list[object]:
    """`attempt` in a process of its own, which the kernel ends when it takes too long."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(SECONDS)
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        sys.addaudithook(watch)
        os.write(writing, json.dumps(attempt(path)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return json.loads(said) if code == 0 else [f"ended with {code}", "", []]


def attempt(path: str) -> list[object]:
    """[outcome, message and log, forbidden events] of loading a file."""
    global watching
    logged = io.StringIO()
    logging.basicConfig(stream=logged, force=True)
    watching = True
    outcome, message = "loaded", ""
    try:
        checkpoints.load(path, heads=2)
    except BadInput as error:
        outcome, message = "refused", str(error)
    except BaseException as error:  # what the user would see as a crash
        outcome, message = type(error).__name__, str(error)
    finally:
        watching = False
    return [outcome, message + logged.getvalue(), seen]


if __name__ == "__main__":
    paths = json.load(sys.stdin)
    torch.set_num_threads(1)  # a process of several threads cannot be forked
    for path in paths[:2]:
        attempt(path)  # what is imported on first use
    json.dump({path: apart(path) for path in paths}, sys.stdout)
