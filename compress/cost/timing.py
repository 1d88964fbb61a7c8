"""What a call costs on this machine: time and peak memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch


def timed(
    calls: Mapping[str, Callable[[], object]], rounds: int, device: torch.device, warmup: int = 1
) -> dict[str, list[float]]:
    """Seconds of each call in each of `rounds` rounds, after `warmup` rounds that do not count.

    A round runs every call once: a machine that slows down slows all of them. On CUDA, events time the device.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with torch.no_grad():
        for i in range(warmup + rounds):
            for name, call in calls.items():
                took = _seconds(call, device)
                if i >= warmup:
                    seconds[name].append(took)
    return seconds


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    call()
    after.record()
    torch.cuda.synchronize(device)
    return before.elapsed_time(after) / 1000  # from milliseconds


def peak_memory(call: Callable[[], object], device: torch.device) -> int | None:
    """Peak memory in bytes while `call` runs: on CUDA what torch allocated, weights included.

    On a CPU it is the peak resident memory of the whole process, Python and libraries included, which Linux alone
    can tell for one call; elsewhere None.
    """
    with torch.no_grad():
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            call()
            torch.cuda.synchronize(device)
            return torch.cuda.max_memory_allocated(device)
        try:
            Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back (proc(5))
        except OSError:
            return None
        call()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))  # from kB
