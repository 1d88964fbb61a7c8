"""The command `fasthmr`, and how it ends: with 0 when done, 2 for bad input and what the system refuses, 130 and 143 on
SIGINT and SIGTERM, each with one sentence on stderr; with 1 and a traceback for a bug.

Commands are imported once signals are heeded: they take a while.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from compress.errors import BadInput, refusal

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal that ends the command: what was begun is removed on the way out."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main() -> None:
    """Entry point."""
    ended(command)


def command() -> None:
    from experiments.cli.app import app

    app()


def ended(run: Callable[[], None]) -> NoReturn:
    """Do `run` and exit as this module says."""
    try:
        with heeding_signals():
            sys.exit(refused(run))
    except Stopped as stopped:
        sys.stderr.write(f"fasthmr: stopped by {signal.Signals(stopped.number).name}\n")
        sys.exit(128 + stopped.number)


def refused(run: Callable[[], None]) -> int:
    """0 after `run`, or 2 and a sentence on stderr where the input is bad or the system refuses to write."""
    try:
        try:
            run()
        finally:
            flush_output()
    except (BadInput, OSError) as error:
        sentence = " ".join(refusal(error).split())
        if not sentence:
            raise
        sys.stderr.write(f"fasthmr: {sentence}\n")
        return 2
    return 0


def flush_output() -> None:
    """Write what standard output still holds: a result that does not arrive is none. Raises OSError."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python tries once more at its exit
        raise


@contextmanager
def heeding_signals() -> Iterator[None]:
    """Raise Stopped where SIGINT or SIGTERM comes, unless it is ignored, as in a job in the background. While Python
    exits, when all is done, they stop nothing."""
    here = threading.current_thread() is threading.main_thread()  # nobody else may set handlers
    before = {number: signal.getsignal(number) for number in SIGNALS} if here else {}
    heeded = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    try:
        for number in heeded:
            signal.signal(number, stop)
            atexit.register(signal.signal, number, signal.SIG_IGN)
        yield
    finally:
        for number, handler in heeded.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    main()
