"""Who searches on this machine: many searches at once, or one alone that measures time; and each worker's device."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from filelock import ReadWriteLock, Timeout

from compress.atomic import writing
from compress.errors import BadInput, Unwritable
from hmr.home import fasthmr_home


@contextmanager
def machine(alone: bool) -> Iterator[None]:
    """Search beside others on this machine or, to measure time, `alone`; raises BadInput where that cannot be.

    The lock of a process that dies is free again.
    """
    path = fasthmr_home() / "searches" / "machine.db"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    lock = ReadWriteLock(path, blocking=False, is_singleton=False)
    try:
        with lock.write_lock() if alone else lock.read_lock():
            yield
    except Timeout as error:
        raise BadInput(
            "another search runs on this machine and latency cannot be measured beside it: wait for that one, or "
            "search for macs"
        ) from error
    except sqlite3.OperationalError as error:
        raise Unwritable(f"{path}: cannot be written ({error})") from error
    finally:
        lock.close()


def one_device(worker: int) -> dict[str, str]:
    """What a worker finds in its environment: one of the CUDA devices, in turn, or all would crowd on the first one.

    Nothing where there is none, and where `fasthmr --device` has named another kind, or a device by its number.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = [str(i) for i in range(torch.cuda.device_count())] if visible is None else visible.split(",")
    if os.environ.get("FASTHMR_DEVICE", "cuda") != "cuda" or not any(devices):
        return {}
    return {"CUDA_VISIBLE_DEVICES": devices[worker % len(devices)]}
