"""Processes that do one work together, started again where they are killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import wait as wait_for
from typing import Any

from compress.errors import BadInput, refusal

DEATHS = 20  # processes in a row that died without any progress, after which all is given up


def supervised(
    work: Callable[[int], None],
    count: int,
    progress: Callable[[], int],
    environment: Callable[[int], Mapping[str, str]] = lambda worker: {},
) -> None:
    """Keep `count` processes at `work` until all have ended; one that is killed is started again.

    `work` is pickled and called with a process's number, whose `environment` it finds; `progress` is asked every
    second. Raises BadInput as theirs, and where they are killed again and again while `progress` returns no more than
    before.
    """
    context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads in whatever state they are
    pipes = [context.Pipe(duplex=False) for _ in range(count)]

    def start(worker: int) -> Any:
        process = context.Process(target=reporting, args=(work, worker, pipes[worker][1]))
        with deaf_to_interrupts(), given(environment(worker)):
            process.start()
        return process

    workers = {i: start(i) for i in range(count)}
    deaths, complete = 0, -1
    try:
        while workers:
            wait_for([process.sentinel for process in workers.values()], timeout=1)
            now = progress()
            deaths, complete = (0, now) if now > complete else (deaths, complete)
            for i, process in [(i, p) for i, p in workers.items() if p.exitcode is not None]:
                del workers[i]
                if process.exitcode < 0:
                    deaths += 1
                    if deaths > DEATHS:
                        raise BadInput(f"{deaths} workers in a row were killed before they finished a trial, perhaps "
                                       "for lack of memory: use fewer --workers")  # fmt: skip
                    workers[i] = start(i)
                elif process.exitcode:
                    raise BadInput(pipes[i][0].recv()) if pipes[i][0].poll() else RuntimeError(f"worker {i} failed")
    finally:
        for process in workers.values():
            process.terminate()
            process.join()


@contextmanager
def given(environment: Mapping[str, str]) -> Iterator[None]:
    """Processes that start now find this in their environment."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Have processes that start now never see SIGINT, which a terminal sends to all: this one ends them."""
    if not hasattr(signal, "pthread_sigmask"):  # POSIX alone has it
        yield
        return
    resource_tracker.ensure_running()  # which, where a process starts it, lets signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def reporting(work: Callable[[int], None], worker: int, pipe: Any) -> None:
    """`work` in a process of its own: a bad input, and what the system refuses, goes back as a sentence."""
    try:
        work(worker)
    except (BadInput, OSError) as error:
        if not refusal(error):
            raise
        pipe.send(refusal(error))
        os._exit(2)
