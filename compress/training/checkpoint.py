"""The folder of a training: whose it is, and checkpoints that are complete or not there."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from compress.atomic import record_identity, synced
from compress.training.task import TrainConfig

log = logging.getLogger(__name__)


def reserve_folder(config: TrainConfig, identity: dict[str, Any], noun: str) -> None:
    """Make `config.out` the folder of one training, which may be given more minutes. Raises as `record_identity`."""
    settings = config.model_dump(mode="json", exclude={"minutes"})
    record_identity(config.out / "training.json", {**settings, **identity}, noun)


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("checkpoint-*") if path.suffix != ".part")


def save_checkpoint(accelerator: Accelerator, folder: Path, step: int) -> None:
    """Write checkpoint-STEP, complete or not there at all; earlier ones go. One that is there already stays: it is of
    the same step, and to replace it is to be without it for a moment. Every process has to call it."""
    final = folder / f"checkpoint-{step:08d}"
    beside = final.with_name(final.name + ".part")
    accelerator.wait_for_everyone()  # the main process may still be at the same step's
    if final.exists():
        return
    if accelerator.is_main_process:
        shutil.rmtree(beside, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(beside))
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        return
    for file in beside.iterdir():
        synced(file)
    os.replace(beside, final)
    for old in checkpoints(folder)[:-1]:
        shutil.rmtree(old)


def resume(accelerator: Accelerator, folder: Path) -> bool:
    """Load the last complete checkpoint; whether there is one."""
    found = checkpoints(folder)
    if found:
        accelerator.load_state(str(found[-1]))
        log.info("going on from %s", found[-1])
    return bool(found)
