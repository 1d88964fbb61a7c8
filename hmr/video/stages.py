"""How long each stage of a run takes, whichever thread it runs in, and how much memory the process came to."""

from __future__ import annotations

import ctypes
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = (
    "decode", "detect", "track", "mask", "crop", "exported network", "encoder blocks", "matching and merging", "head",
    "decoder", "body", "draw", "write",
)  # fmt: skip
NETWORK = ("exported network", "encoder blocks", "matching and merging", "head")  # of those, the model itself
STATUS = Path("/proc/self/status")  # of Linux


@dataclass
class Stages:
    """Seconds by stage. `events` are kept where a trace is wanted: name, thread, begin and end in seconds."""

    traced: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    cold: dict[str, float] = field(default_factory=dict)  # of the first time
    events: list[tuple[str, str, float, float]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what is done inside."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - begin, begin)

    def add(self, name: str, seconds: float, begin: float | None = None) -> None:
        """Count seconds of a stage, which began at `begin` of the performance counter."""
        with self.lock:
            self.cold.setdefault(name, seconds)
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds
            if self.traced and begin is not None:
                self.events.append((name, threading.current_thread().name, begin, begin + seconds))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Of each stage that ran: seconds, its share of all stages' seconds, and those of its first time."""
        total = sum(self.seconds.values()) or 1.0
        ran = [name for name in NAMES if name in self.seconds]
        return [
            {"name": n, "s": self.seconds[n], "share": self.seconds[n] / total, "cold_s": self.cold[n]} for n in ran
        ]

    def trace(self) -> bytes:
        """What Chrome's tracing and Perfetto read: one row for each thread."""
        events = [
            {"name": name, "ph": "X", "ts": 1e6 * begin, "dur": 1e6 * (end - begin), "pid": 1, "tid": thread}
            for name, thread, begin, end in sorted(self.events, key=lambda event: event[2])
        ]
        return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}).encode()


def peak_memory() -> int | None:
    """The most memory in bytes that this process has had, weights and libraries included; None where no system says."""
    if not STATUS.is_file():
        return None
    lines = STATUS.read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)  # it says kB


def trim_memory() -> None:
    """Give the system back what was freed: glibc keeps it in pieces, other ones for each thread, which come to a fifth
    of a run's memory (malloc_trim(3)). Nothing on other systems."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None  # musl has none
    if trim:
        trim(0)
