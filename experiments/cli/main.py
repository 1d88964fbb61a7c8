"""The command `fasthmr`, and how it ends: with 0 when done, 2 for bad input and what the system refuses, 130 and 143 on
SIGINT and SIGTERM, each with one sentence on stderr; with 1 and a traceback for a bug.

Commands are imported once signals are heeded: they take a while.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import NoReturn

from compress.errors import refusal

SIGNALS = (signal.SIGINT, signal.SIGTERM)
AGAIN = 0.01  # seconds, after which a signal comes again that came where it has to wait


class Stopped(BaseException):
    """A signal that ends the command: what was begun is removed on the way out.

    Code that is not Python's may turn it into another exception, so whatever ends a command after a signal is its end.
    """


def main() -> None:
    """Entry point."""
    ended(command)


def command() -> None:
    from experiments.cli.app import app

    app()


def ended(run: Callable[[], None]) -> NoReturn:
    """Do `run` and exit as described above."""
    came: list[int] = []
    try:
        with heeding_signals(came):
            sys.exit(refused(run, came))
    except BaseException as error:
        if not came or (isinstance(error, SystemExit) and not error.code):  # the result is there all the same
            raise
    sys.stderr.write(f"fasthmr: stopped by {signal.Signals(came[0]).name}\n")
    sys.exit(128 + came[0])


def refused(run: Callable[[], None], came: Sequence[int]) -> int:
    """0 after `run`, or 2 and a sentence on stderr where the input is bad or the system refuses to write or has no
    memory; not where a signal came."""
    try:
        try:
            run()
        finally:
            flush_output()
    except Exception as error:
        sentence = " ".join(refusal(error).split())
        if came or not sentence:
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


@contextlib.contextmanager
def heeding_signals(came: list[int]) -> Iterator[None]:
    """Raise Stopped where SIGINT or SIGTERM comes, and note it in `came`; not where it is ignored, as in a job in the
    background. While Python exits, when all is done, they stop nothing."""
    here = threading.current_thread() is threading.main_thread()  # nobody else may set handlers
    before = {number: signal.getsignal(number) for number in SIGNALS} if here else {}
    heeded = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}

    def stop(number: int, frame: FrameType | None) -> None:
        if not waits(frame):
            came.append(number)
            raise Stopped
        again = threading.Timer(AGAIN, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()

    try:
        for number in heeded:
            signal.signal(number, stop)
            atexit.register(signal.signal, number, signal.SIG_IGN)
        yield
    finally:
        for number, handler in heeded.items():
            signal.signal(number, handler)


def waits(frame: FrameType | None) -> bool:
    """Whether a signal has to wait for the end of an import or of what a context manager begins or ends.

    Some extensions, as torch's, abort where an import is interrupted. Between a context manager and its block Python
    runs code of its own: what raises there is seen by neither, and a lock or a hidden folder would stay.
    """
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith("<frozen importlib"):
            return True
        if code.co_filename == contextlib.__file__ and code.co_name in ("__enter__", "__exit__"):
            return True
        frame = frame.f_back
    return False


if __name__ == "__main__":
    main()
