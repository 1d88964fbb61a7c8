"""Work in a process of its own, which may be killed, limited or hang. It is forked: imports are made once.

A process of several threads cannot be forked safely: whoever forks computes with one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from experiments.cli import main as cli

SECONDS = 300  # after which a process counts as one that hangs


class Defect(AssertionError):
    """What a case shows and should not."""


@dataclass(frozen=True)
class End:
    """How a process ended."""

    code: int  # negative: the signal that ended it
    out: str
    said: str  # on stderr
    seconds: float

    @property
    def sentence(self) -> str:
        """The sentence of a refusal; raises Defect where it is not one that ended with 2."""
        last = (self.said.splitlines() or [""])[-1]
        if self.code != 2 or "Traceback" in self.said or not last.startswith("fasthmr: "):
            raise Defect(f"ended with {self.code}: {self.said[-1500:] or 'without a word'}")
        return last


def apart(
    work: Callable[[], object],
    place: Path,
    killed: float | None = None,
    before: Callable[[], object] = lambda: None,
    kill: Callable[[int], Iterable[int]] = lambda pid: (pid,),
) -> End:
    """Do `work` in the folder `place`, in a child of this process, after `before`; kill -9 after `killed` seconds, if
    it still runs, all that `kill` names. Raises Defect where it hangs. Whatever is left of its group dies with it.
    """
    with tempfile.TemporaryDirectory() as spoken:
        files = [Path(spoken) / name for name in ("out", "said")]
        sys.stdout.flush()
        began = time.monotonic()
        child = os.fork()
        if not child:
            inside(work, place, before, files)
        try:
            code = waited(child, killed, kill)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
        out, said = (file.read_text(errors="replace") for file in files)
        end = End(code, out, said, time.monotonic() - began)
    if code == -signal.SIGALRM:
        raise Defect(f"hangs: {end.said[-500:]}")
    return end


def waited(child: int, killed: float | None, kill: Callable[[int], Iterable[int]]) -> int:
    """The exit code of a child, which may be killed meanwhile."""
    until = time.monotonic() + (killed or 0)
    while killed is not None and time.monotonic() < until:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            break
        time.sleep(0.002)
    else:
        for pid in () if killed is None else kill(child):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def inside(work: Callable[[], object], place: Path, before: Callable[[], object], files: list[Path]) -> NoReturn:
    """The child: `work`, and the exit code that Python would give."""
    code = 1
    try:
        os.setpgid(0, 0)
        for number, file in enumerate(files, 1):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
        os.chdir(place)
        signal.alarm(SECONDS)
        before()
        work()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        with contextlib.suppress(Exception):
            traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def fasthmr(*words: object) -> Callable[[], None]:
    """A command, with its home in the folder where it runs."""

    def work() -> None:
        sys.argv = ["fasthmr", *map(str, words)]
        cli.main()

    return work
