"""kill -9 at any moment of a command: what was finished is there, and the same command again ends in the same."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tests.campaign.apart import Defect, End, apart, fasthmr
from tests.campaign.places import COMMANDS, SEARCH, Command, Facts, before, warm, world

TIMES = {"compress": 40, "search": 30, "train a VAE": 20, "train a model": 20, "run": 40, "export": 40}
WORKERS = 10  # searches of two workers, of which one is killed


@cache
def inputs() -> Path:
    """A folder with the inputs of all commands, in one of its own."""
    place = Path(tempfile.mkdtemp(prefix="fasthmr-campaign-")) / "world"
    place.mkdir()
    world(place)
    with tempfile.TemporaryDirectory() as other:
        shutil.copytree(place, Path(other) / "place")
        warm(Path(other) / "place")
    return place


@contextmanager
def copied() -> Iterator[Path]:
    """A copy of the inputs, for one case."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "place"
        shutil.copytree(inputs(), place)
        yield place


def facts(command: Command, place: Path) -> Facts:
    """What of a command's result is there; raises Defect where it is not whole."""
    end = apart(lambda: print(json.dumps(command.facts())), place, before=before)  # noqa: T201
    if end.code:
        raise Defect(f"what is left is not whole: {end.said[-1500:]}")
    return dict(json.loads(end.out))


def finished(command: Command, place: Path) -> End:
    """The command to its end; raises Defect where that is no success."""
    end = apart(command.work, place, before=before)
    if end.code:
        raise Defect(f"does not go on: {end.code}: {end.said[-1500:]}")
    return end


@cache
def whole(name: str) -> tuple[Facts, float]:
    """The facts of an unbroken run, and its seconds."""
    with copied() as place:
        end = finished(COMMANDS[name], place)
        return facts(COMMANDS[name], place), end.seconds


def killed(name: str, case: int) -> str:
    """One kill: an even case at any moment, an odd one near the end, where most is written."""
    command, (wanted, seconds), rng = COMMANDS[name], whole(name), random.Random(f"{name} {case}")
    moment = seconds * (rng.uniform(0.75, 1.0) if case % 2 else rng.random())
    while True:
        with copied() as place:
            if apart(command.work, place, moment, before).code != -9:  # it was faster
                moment *= 0.8
                continue
            return recovered(command, wanted, place)


def recovered(command: Command, wanted: Facts, place: Path) -> str:
    """After a kill; raises Defect where something is lost, or the same command again does not end in the same."""
    kept = facts(command, place)
    if not (place / "out").exists() or not kept or not apart_done(command, place):
        finished(command, place)
    found = facts(command, place)
    lost = {key for key in kept if key not in ("complete", "running") and found.get(key) != kept[key]}
    if lost or not command.same(wanted, found):
        raise Defect(f"lost {sorted(lost)}; {found} in the place of {wanted}"[:1500])
    left = [path.name for path in place.iterdir() if path.name.startswith(".")]
    if left:
        raise Defect(f"{left} are left")
    return "equal"


def apart_done(command: Command, place: Path) -> bool:
    """Whether the command has nothing left to do."""
    return apart(lambda: print(command.done()), place).out.strip() == "True"  # noqa: T201


def worker_killed(case: int) -> str:
    """Of a search by two workers one is killed; the search itself starts it again."""
    wanted, seconds = whole("search")
    command = COMMANDS["search"]
    moment = 4 + 2 * seconds * random.Random(f"worker {case}").random()  # a worker imports for seconds
    two = Command(fasthmr(*SEARCH, "--workers", 2), command.facts, command.done, command.same)
    with copied() as place:
        hit: list[int] = []

        def one(parent: int) -> Iterable[int]:
            hit.extend(workers(parent)[:1])
            return hit

        end = apart(two.work, place, moment, before, one)
        if end.code or not hit:
            raise Defect(f"a search that lost a worker ended with {end.code}: {end.said[-1500:]}")
        return recovered(two, wanted, place)


def workers(parent: int) -> list[int]:
    """Processes that a search has started, without Python's own tracker."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def rows() -> Iterator[tuple[str, int, Callable[[int], str]]]:
    """(row, cases, what does one)."""
    for name, times in TIMES.items():
        yield f"kill -9 in {name}", times, lambda case, name=name: killed(name, case)  # type: ignore[misc]
    yield "kill -9 of one worker of two", WORKERS, worker_killed
