"""A machine that has no room, no memory, no permission or the wrong time: told, and the same command goes on when it
has."""

from __future__ import annotations

import itertools
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.campaign.apart import Defect, apart
from tests.campaign.kills import copied, recovered, whole
from tests.campaign.places import COMMANDS, before
from tests.test_video_inputs import limited_by_modes

MEGABYTES = (8, 32, 128, 512)  # beyond what a process has when it starts


def full(case: int) -> None:
    """No file grows beyond some bytes."""
    most = int(10 ** random.Random(f"full {case}").uniform(1, 5))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def read_only(case: int) -> None:
    """The folder, or the home in it, cannot be written."""
    if case % 2:
        Path("home").mkdir()
    Path("home" if case % 2 else ".").chmod(0o555)


def no_memory(case: int) -> None:
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = held + (MEGABYTES[case % len(MEGABYTES)] << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def clock_back(case: int) -> None:
    """At every look, Python's clock is a minute earlier than at the one before."""
    real, looks = time.time, itertools.count()
    time.time = lambda: real() - 60 * next(looks)


TROUBLES: dict[str, tuple[Callable[[int], None], int]] = {  # and cases for each command
    "a full disk": (full, 5), "a read-only folder": (read_only, 2), "no memory": (no_memory, len(MEGABYTES)),
    "a clock that goes back": (clock_back, 2),
}  # fmt: skip


def begun(trouble: str, case: int) -> None:
    """What a process finds that is in trouble."""
    before()
    TROUBLES[trouble][0](case)


def troubled(trouble: str, case: int) -> str:
    """One command in trouble, and again without; raises Defect where it is not told or something is lost."""
    name = list(COMMANDS)[case % len(COMMANDS)]
    command, (wanted, _) = COMMANDS[name], whole(name)
    with copied() as place, limited_by_modes():
        end = apart(command.work, place, before=partial(begun, trouble, case // len(COMMANDS)))
        for folder in (place, place / "home"):
            if folder.exists():
                folder.chmod(0o755)
        if end.code and not name.startswith("train"):  # these are called without the command line, which tells
            try:
                _ = end.sentence
            except Defect as error:
                raise Defect(f"{name}: {error}") from error
        recovered(command, wanted, place)
        return "refused" if end.code else "equal"


def rows() -> Iterator[tuple[str, int, Callable[[int], str]]]:
    """(row, cases, what does one)."""
    for trouble, (_, times) in TROUBLES.items():
        yield trouble, times * len(COMMANDS), partial(troubled, trouble)
