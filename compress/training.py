"""What all trainings share: whose folder it is, checkpoints that are whole or not there, averaged weights."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from compress.atomic import atomic_write
from compress.errors import BadInput

FLOOR = 0.01  # share of the learning rate that is left at the end
LONGEST_MEMORY = 0.999  # decay of averaged weights once the ramp is over


def claim(path: Path, mine: dict[str, Any], noun: str) -> None:
    """Make the folder of `path` that of a training which `mine`, JSON values, tells from all others of its `noun`.

    Raises BadInput where the folder holds another one, or something else.
    """
    folder = path.parent
    if not path.exists():
        if folder.exists() and any(folder.iterdir()):
            raise BadInput(f"{folder}: the folder is not empty and holds no {noun}; remove it or name another one")
        atomic_write(path, json.dumps(mine, indent=1).encode())
        return
    try:
        theirs = json.loads(path.read_bytes())
        unlike = [name for name in {**mine, **theirs} if theirs.get(name) != mine.get(name)]
    except (ValueError, AttributeError, TypeError) as error:
        raise BadInput(f"{path}: not what a {noun} wrote ({error}); remove {folder}") from error
    if unlike:
        raise BadInput(f"{folder}: the {noun} there has another {unlike[0]}; remove the folder to start a new one")


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("checkpoint-*") if path.suffix != ".part")


def save_checkpoint(accelerator: Accelerator, folder: Path, step: int) -> None:
    """Write checkpoint-STEP, complete or not there at all; earlier ones go. Every process has to call it."""
    final = folder / f"checkpoint-{step:08d}"
    beside = final.with_name(final.name + ".part")
    if accelerator.is_main_process:
        shutil.rmtree(beside, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(beside))
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        return
    for file in beside.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    shutil.rmtree(final, ignore_errors=True)
    os.replace(beside, final)
    for old in checkpoints(folder)[:-1]:
        shutil.rmtree(old)


def resume(accelerator: Accelerator, folder: Path) -> Path | None:
    """Load the last complete checkpoint; None where there is none."""
    found = checkpoints(folder)
    if found:
        accelerator.load_state(str(found[-1]))
    return found[-1] if found else None


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, step: int) -> None:
    """Exponential moving average of the weights, with a memory that grows with the run; buffers are copied."""
    decay = min(LONGEST_MEMORY, (1 + step) / (40 + step))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
    for mine, theirs in zip(average.buffers(), model.buffers(), strict=True):
        mine.copy_(theirs)


def learning_rate(peak: float, step: int, fraction: float, warmup: int) -> float:
    """Linear warm-up over steps times a cosine over the budget, down to FLOOR of the peak."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, fraction)))
    return peak * min(1.0, (step + 1) / max(1, warmup)) * (FLOOR + (1 - FLOOR) * cosine)
