"""The one training loop: a budget, optimizer steps, averaged weights, checkpoints, exact resume, a log and a curve.

What is trained is a `TrainingTask`. Whatever is random in a step follows from (seed, step, process), and all that has
happened so far lies in the last checkpoint, so that a killed run goes on from the exact next batch. Under `accelerate
launch` every process trains on its own part of each batch, and gradients are averaged (DistributedDataParallel).
"""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import send_to_device
from pydantic import Field, model_validator
from torch import Tensor, nn

from compress.atomic import atomic_write, occupied, synced
from compress.errors import BadInput
from compress.policy import Data, misuse

log = logging.getLogger(__name__)

Precision = Literal["float32", "bfloat16"]
CLIP = 1.0  # largest norm of a gradient
BETAS = (0.9, 0.98)
FLOOR = 0.01  # share of the learning rate that is left at the end


class Budget(Data):
    """How long to train, for `minutes` of wall clock or a number of `steps`, and how fast."""

    minutes: float | None = Field(None, gt=0, description="wall clock to train for")
    steps: int | None = Field(None, ge=1, description="optimizer steps, not minutes: repeats to the bit on a CPU")
    lr: float = Field(3e-4, gt=0, description="learning rate after warm-up; a cosine brings it down")
    batch: int = Field(16, ge=1, description="what a step learns from")
    precision: Precision = Field("float32", description="of products in training, not of weights")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.minutes is None) == (self.steps is None):
            where = "minutes" if self.steps else "policy"
            raise misuse(where, "a training needs either minutes or steps, and not both")
        return self


class TrainConfig(Budget):
    """How to train, and the folder `out` of the run. What is excluded from its JSON does not change the weights."""

    out: Path = Field(exclude=True)
    precision: Precision | Literal["auto"] = "float32"  # type: ignore[assignment]  # auto: bfloat16 where it is faster
    warmup: int = Field(100, ge=0)  # steps
    ema: float | None = Field(0.999, gt=0, lt=1)  # decay of the averaged weights; None: no average is kept
    seed: int = Field(0, ge=0)
    log_minutes: float = Field(0.2, ge=0, exclude=True)  # 0 here and below: after every step
    checkpoint_minutes: float = Field(2.0, ge=0, exclude=True)
    val_minutes: float = Field(5.0, ge=0, exclude=True)


@dataclass(frozen=True)
class Step:
    """One optimizer step, as one of the processes takes it."""

    index: int
    fraction: float = 0.0  # of the budget, spent before this step
    process: int = 0
    processes: int = 1

    def share(self, batch: int) -> range:
        """Which samples of a batch are this process's.

        All shares are of one size, so that the mean over processes is the mean over the batch; raises BadInput where
        that cannot be.
        """
        if batch % self.processes:
            raise BadInput(
                f"{batch} samples cannot be divided equally among {self.processes} processes: "
                "choose a batch that is a multiple of their number"
            )
        return range(self.process, batch, self.processes)


class TrainingTask(ABC):
    """What is trained: `module(*batch)` gives scalars by name, and training minimises the one called "loss"."""

    noun: ClassVar[str]  # in messages: "training of a motion VAE"
    module: nn.Module

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What distinguishes this training from others, as JSON values: its data, sizes and initial weights."""

    @abstractmethod
    def batch(self, step: Step) -> tuple[Any, ...]:
        """This process's share of the samples of a step: tensors, or tuples and dicts of them."""

    def validate(self, module: nn.Module, step: Step) -> dict[str, Any]:
        """Errors of `module`, with averaged weights, on data that is not trained on; part of a row of curve.jsonl."""
        return {}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters as torch.optim takes them; a group may have an `lr` of its own, as in layer-wise decay.

        A parameter without a gradient, as in a phase whose forward pass runs a part under `no_grad`, stays as it is.
        The default has no weight decay.
        """
        return [{"params": [p for p in self.module.parameters() if p.requires_grad]}]

    def learning_rate(self, group: dict[str, Any], step: Step, warmup: int) -> float:
        """The learning rate of a parameter group, whose highest is group["initial_lr"]."""
        return cosine(group["initial_lr"], step, warmup)


@dataclass
class Progress:
    """How far a training is: all that a checkpoint holds besides weights and optimizer."""

    step: int = 0
    seconds: float = 0.0  # wall clock, earlier sessions included
    bfloat16: bool = False
    scalars: dict[str, float] = field(default_factory=dict)  # means of the steps before the last line of the log

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


def train(
    task: TrainingTask,
    config: TrainConfig,
    observe: Callable[[Progress], None] = lambda progress: None,
    device_placement: bool = True,
) -> Training:
    """Train until the budget is spent, going on from the last checkpoint in `config.out`; `observe` follows each step.

    Writes training.json, curve.jsonl and checkpoint-STEP/. `device_placement=False` trains the module on the device
    where it is. Raises BadInput where `out` holds anything else, and where the loss is not finite.
    """
    ddp = DistributedDataParallelKwargs(find_unused_parameters=True)  # a phase may train a part
    accelerator = Accelerator(device_placement=device_placement, kwargs_handlers=[ddp])
    with accelerator.main_process_first():
        reserve_folder(config, task.identity(), task.noun)
    with torch.random.fork_rng():  # the caller's random numbers stay the caller's
        run = Training(task, config, accelerator)
        run.until_spent(observe)
    accelerator.wait_for_everyone()
    return run


class Training:
    """A training in progress: module, optimizer, averaged weights, clock."""

    def __init__(self, task: TrainingTask, config: TrainConfig, accelerator: Accelerator) -> None:
        self.task, self.config, self.accelerator, self.progress = task, config, accelerator, Progress()
        optimizer = torch.optim.AdamW(task.parameter_groups(), config.lr, betas=BETAS, weight_decay=0.0)
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        self.trained = [p for group in optimizer.param_groups for p in group["params"]]
        self.module, self.optimizer = accelerator.prepare(task.module, optimizer)
        self.device = self.trained[0].device
        accelerator.register_for_checkpointing(self.progress)
        self.average: nn.Module | None = None
        if config.ema is not None:
            self.average = copy.deepcopy(accelerator.unwrap_model(self.module)).eval().requires_grad_(False)
            accelerator.register_for_checkpointing(self.average)
        self.sums: dict[str, Tensor] = {}
        self.added = 0
        self.step = self.next_step()
        if not resume(accelerator, config.out):
            self.progress.bfloat16 = self.prefers_bfloat16()
        self.earlier, self.started = self.progress.seconds, time.monotonic()

    @property
    def fraction(self) -> float:
        """Share of the budget that is spent."""
        if self.config.steps is not None:
            return self.progress.step / self.config.steps
        return self.progress.seconds / (60 * cast(float, self.config.minutes))

    def next_step(self) -> Step:
        """The step that this process takes next."""
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        return Step(self.progress.step, min(1.0, self.fraction), process, processes)

    @property
    def weights(self) -> nn.Module:
        """The module with averaged weights, or with those of the last step where no average is kept."""
        return self.accelerator.unwrap_model(self.module) if self.average is None else self.average

    @property
    def trained_params(self) -> int:
        """How many parameters have had a gradient."""
        return sum(p.numel() for p in self.trained if p in self.optimizer.state)

    def until_spent(self, observe: Callable[[Progress], None]) -> None:
        """The loop: a step, and now and then, and at the end, a line, a validation and a checkpoint."""
        config, progress = self.config, self.progress
        duties = [
            (config.log_minutes, self.log),
            (config.val_minutes, self.validate),
            (config.checkpoint_minutes, self.save),
        ]
        last = [progress.seconds] * len(duties)
        while self.fraction < 1:
            self.advance()
            for i, (minutes, duty) in enumerate(duties):
                if self.fraction >= 1 or progress.seconds - last[i] >= 60 * minutes:
                    duty()
                    last[i] = progress.seconds
            observe(progress)

    def advance(self) -> None:
        """One optimizer step, on the mean of the gradients of all processes."""
        self.step = step = self.next_step()
        torch.manual_seed((self.config.seed << 40) + (step.index << 8) + step.process)  # noise and dropout of this step
        batch = send_to_device(self.task.batch(step), self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = self.task.learning_rate(group, step, self.config.warmup)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.progress.bfloat16):
            scalars = self.module(*batch)
        self.accelerator.backward(scalars["loss"])
        norm = self.accelerator.clip_grad_norm_(self.trained, CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.progress.step += 1
        if self.average is not None:
            memory = (1 + self.progress.step) / (40 + self.progress.step)  # grows with the run
            decay = min(cast(float, self.config.ema), memory)
            update_average(self.average, self.accelerator.unwrap_model(self.module), decay)
        self.added += 1
        for name, value in {**scalars, "gradient_norm": norm}.items():
            self.sums[name] = self.sums.get(name, torch.zeros((), device=self.device)) + value.detach().float()
        self.progress.seconds = self.agreed(self.earlier + time.monotonic() - self.started)

    def agreed(self, seconds: float) -> float:
        """The mean over processes, which have to stop, validate and save at the same step."""
        if self.accelerator.num_processes == 1:
            return seconds
        mine = torch.tensor(seconds, device=self.device)
        return cast(Tensor, self.accelerator.reduce(mine, "mean")).item()

    def log(self) -> None:
        """Means of the scalars since the last call, over all processes; only this waits for the device.

        Raises BadInput where the loss is not finite.
        """
        if not self.added:
            return
        means = torch.stack(list(self.sums.values())) / self.added
        found = cast(Tensor, self.accelerator.reduce(means, "mean")).tolist()
        progress, scalars = self.progress, dict(zip(self.sums, found, strict=True))
        progress.scalars, self.sums, self.added = scalars, {}, 0
        if not math.isfinite(scalars["loss"]):
            raise BadInput(f"{self.task.noun}: the loss is {scalars['loss']} at step {progress.step}: lower lr")
        line = " ".join(f"{name} {value:.4g}" for name, value in scalars.items())
        if self.accelerator.is_main_process:
            log.info("%5.1f%% step %d %s", 100 * min(1.0, self.fraction), progress.step, line)

    def validate(self) -> None:
        """Append the errors of the averaged weights to curve.jsonl; the main process alone."""
        if not self.accelerator.is_main_process:
            return
        with torch.no_grad():
            found = self.task.validate(self.weights, self.step)
        progress = self.progress
        means = {f"train_{name}": value for name, value in progress.scalars.items()}
        row = json.dumps({"step": progress.step, "minutes": progress.seconds / 60, **found, **means})
        with (self.config.out / "curve.jsonl").open("a") as file:
            file.write(row + "\n")
        log.info("validation %s", row)

    def save(self) -> None:
        """A checkpoint, once the loss is known to be finite."""
        self.log()
        save_checkpoint(self.accelerator, self.config.out, self.progress.step)

    def prefers_bfloat16(self) -> bool:
        """Whether to run products in bfloat16; for "auto", whether that is faster here, in all processes together."""
        if self.config.precision != "auto":
            return self.config.precision == "bfloat16"
        single, half = (self.agreed(self.seconds_of_steps(enabled)) for enabled in (False, True))
        log.info("3 steps take %.2f s in float32, %.2f s in bfloat16", single, half)
        return half < single

    def seconds_of_steps(self, bfloat16: bool) -> float:
        """Seconds of three forward and backward passes of the next batch, on a copy of the module."""
        batch = send_to_device(self.task.batch(self.next_step()), self.device)
        module = copy.deepcopy(self.accelerator.unwrap_model(self.module))

        def run(times: int) -> None:
            for _ in range(times):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16):
                    loss = module(*batch)["loss"]
                loss.backward()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)

        run(1)  # warms up
        started = time.monotonic()
        run(3)
        return time.monotonic() - started


# ---- schedules and averages


def cosine(peak: float, step: Step, warmup: int) -> float:
    """Linear warm-up over steps times a cosine over the budget, down to FLOOR of the peak."""
    share = 0.5 * (1 + math.cos(math.pi * min(1.0, step.fraction)))
    return peak * min(1.0, (step.index + 1) / max(1, warmup)) * (FLOOR + (1 - FLOOR) * share)


def linear(peak: float, step: Step, warmup: int, decay: float) -> float:
    """Linear warm-up over steps, then constant, then linear down to FLOOR of the peak over the last `decay` of the
    budget."""
    share = min(1.0, (1 - step.fraction) / decay)
    return peak * min(1.0, (step.index + 1) / max(1, warmup)) * (FLOOR + (1 - FLOOR) * share)


@torch.no_grad()
def update_average(average: nn.Module, module: nn.Module, decay: float) -> None:
    """Exponential moving average of the weights; buffers are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(module.parameters()), 1 - decay)
    for mine, theirs in zip(average.buffers(), module.buffers(), strict=True):
        mine.copy_(theirs)


# ---- the folder of a run


def reserve_folder(config: TrainConfig, identity: dict[str, Any], noun: str) -> None:
    """Make `config.out` the folder of one training, which may be given more minutes. Raises as `record_identity`."""
    settings = config.model_dump(mode="json", exclude={"minutes"})
    record_identity(config.out / "training.json", {**settings, **identity}, noun)


def record_identity(path: Path, identity: dict[str, Any], noun: str) -> None:
    """Write what identifies the content of a folder, as JSON values, to `path` in it, or compare it with what is there.

    Raises BadInput where the folder holds something else, or cannot be written.
    """
    folder = path.parent
    if not occupied(folder):
        try:
            atomic_write(path, json.dumps(identity, indent=1).encode())
        except OSError as error:
            raise BadInput(f"{folder}: cannot be written ({error.strerror})") from error
        return
    if not path.is_file():
        raise BadInput(f"{folder}: it is there, not empty, and holds no {noun}; remove it or name another one")
    try:
        theirs = json.loads(path.read_bytes())
        unlike = [name for name in {**identity, **theirs} if theirs.get(name) != identity.get(name)]
    except (ValueError, AttributeError, TypeError) as error:
        raise BadInput(f"{path}: not what a {noun} wrote ({error}); remove {folder}") from error
    if unlike:
        raise BadInput(f"{folder}: the {noun} there has another {unlike[0]}; remove the folder to start a new one")


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
