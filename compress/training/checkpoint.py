"""The folder of a training: whose it is, and checkpoints that are complete or not there."""

from __future__ import annotations

import json
import logging
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError

from compress.atomic import atomic_folder, record_identity, unfinished
from compress.errors import BadInput, Unwritable
from compress.files.weights import digest
from compress.training.task import TrainConfig

HASHES = "hashes.json"  # file -> sha256
log = logging.getLogger(__name__)


def reserve_folder(config: TrainConfig, identity: dict[str, Any], noun: str) -> None:
    """Make `config.out` the folder of one training, which may be given more minutes. Raises as `record_identity`."""
    settings = config.model_dump(mode="json", exclude={"minutes"})
    record_identity(config.out / "training.json", {**settings, **identity}, noun)


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(folder.glob(f"checkpoint-{8 * '[0-9]'}"))


def save_checkpoint(accelerator: Accelerator, folder: Path, step: int) -> None:
    """Write checkpoint-STEP, complete or not there at all; earlier ones go. One that is there already stays: it is of
    the same step, and to replace it is to be without it for a moment. Every process has to call it. Raises
    Unwritable."""
    final = folder / f"checkpoint-{step:08d}"
    accelerator.wait_for_everyone()  # the main process may still be at the same step's
    if final.exists():
        return
    with atomic_folder(final) if accelerator.is_main_process else nullcontext():
        accelerator.wait_for_everyone()  # until the folder is there
        save_state(accelerator, unfinished(final))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            hashes = {file.name: digest(file) for file in sorted(unfinished(final).iterdir())}
            (unfinished(final) / HASHES).write_text(json.dumps(hashes, indent=1))
    if accelerator.is_main_process:
        for old in (*checkpoints(folder)[:-1], *folder.glob(".checkpoint-*.unfinished")):  # the latter of killed runs
            shutil.rmtree(old)


def save_state(accelerator: Accelerator, folder: Path) -> None:
    """Write what a resumed run goes on from, with the umask's mode, and not the one of safetensors, which nobody else
    may read. Raises Unwritable: there is no other reason to fail in torch's and safetensors' words for a full disk."""
    try:
        accelerator.save_state(str(folder))
    except (RuntimeError, SafetensorError) as error:
        raise Unwritable(f"{folder}: cannot be written ({str(error).splitlines()[0]})") from error
    if accelerator.is_main_process:
        for file in folder.iterdir():
            file.chmod(folder.stat().st_mode & 0o666)


def refuse_damaged(folder: Path) -> None:
    """Raise BadInput where a file of a checkpoint is not as it was written; those of before there were hashes have
    none."""
    file = folder / HASHES
    if not file.exists():
        return
    try:
        hashes = dict(json.loads(file.read_bytes()))
    except (ValueError, TypeError) as error:
        raise BadInput(f"{file}: damaged ({error}); remove {folder}, and the training begins anew") from error
    for name, wanted in hashes.items():
        if not (folder / name).is_file() or digest(folder / name) != wanted:
            reason = "damaged: it is not what was written"
            raise BadInput(f"{folder / name}: {reason}; remove {folder}, and the training begins anew")


def resume(accelerator: Accelerator, folder: Path) -> bool:
    """Load the last complete checkpoint; whether there is one. Raises as `refuse_damaged`."""
    found = checkpoints(folder)
    if found:
        refuse_damaged(found[-1])
        accelerator.load_state(str(found[-1]))
        log.info("going on from %s", found[-1])
    return bool(found)
