"""What a call costs on this machine: time and peak memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

Clock = Callable[[], float]


def timed(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    device: torch.device,
    warmup: int = 1,
    clock: Clock = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each call in each of `rounds` rounds, after `warmup` rounds that do not count.

    A round runs every call once: a machine that slows down slows all of them. On CUDA, events time the device, and
    elsewhere `clock`: by `time.process_time`, other work on the machine takes no time, and that of all threads adds up.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with torch.no_grad():
        for i in range(warmup + rounds):
            for name, call in calls.items():
                took = _seconds(call, device, clock)
                if i >= warmup:
                    seconds[name].append(took)
    return seconds


def time_inside(
    groups: Mapping[str, Sequence[nn.Module]],
    call: Callable[[], object],
    rounds: int,
    device: torch.device,
    clock: Clock = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds that `call` spends in the modules of each group, in each of `rounds` rounds after one of warm-up.

    On CUDA the device is waited for around each module, which the call by itself does not do.
    """
    spent: dict[str, list[float]] = {name: [] for name in groups}
    began: dict[nn.Module, float] = {}

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return clock()

    def enter(module: nn.Module, given: object) -> None:
        began[module] = now()

    def leave(name: str) -> Callable[..., None]:
        def add(module: nn.Module, given: object, said: object) -> None:
            spent[name][-1] += now() - began[module]

        return add

    watches = [module.register_forward_pre_hook(enter) for modules in groups.values() for module in modules]
    watches += [module.register_forward_hook(leave(name)) for name, modules in groups.items() for module in modules]
    try:
        with torch.no_grad():
            for _ in range(rounds + 1):
                for seconds in spent.values():
                    seconds.append(0.0)
                call()
    finally:
        for watch in watches:
            watch.remove()
    return {name: seconds[1:] for name, seconds in spent.items()}


def _seconds(call: Callable[[], object], device: torch.device, clock: Clock) -> float:
    if device.type != "cuda":
        start = clock()
        call()
        return clock() - start
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
