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
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import send_to_device
from torch import Tensor, nn

from compress.atomic import alone, append_line
from compress.cost.bfloat16 import warn_if_slow
from compress.errors import BadInput
from compress.training.checkpoint import reserve_folder, resume, save_checkpoint
from compress.training.task import OptimizerStep, TrainConfig, TrainingTask

log = logging.getLogger(__name__)
CLIP = 1.0  # largest norm of a gradient
BETAS = (0.9, 0.98)


@dataclass
class Progress:
    """How far a training is: all that a checkpoint holds besides weights and optimizer."""

    step: int = 0
    seconds: float = 0.0  # wall clock, earlier sessions included
    bfloat16: bool = False
    chosen: int = 0  # the step whose weights have the least loss held out, of a task that chooses
    least: float = math.inf  # that loss
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
    """Train until the budget is spent or nothing more is gained, going on from the last checkpoint in `config.out`;
    `observe` follows each step.

    Writes training.json, curve.jsonl and checkpoint-STEP/. `device_placement=False` trains the module on the device
    where it is. Raises BadInput where `out` holds anything else, where another process trains there, and where the loss
    is not finite; Unwritable.
    """
    ddp = DistributedDataParallelKwargs(find_unused_parameters=True)  # a phase may train a part
    accelerator = Accelerator(device_placement=device_placement, kwargs_handlers=[ddp])
    with accelerator.main_process_first():
        reserve_folder(config, task.identity(), task.noun)
    with alone(config.out / "training") if accelerator.is_main_process else nullcontext():
        with torch.random.fork_rng():  # the caller's random numbers stay the caller's
            run = Training(task, config, accelerator)
            run.fit(observe)
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
        self.chosen: nn.Module | None = None
        if task.choose_every is not None:
            self.chosen = copy.deepcopy(self.latest).eval().requires_grad_(False)
            accelerator.register_for_checkpointing(self.chosen)
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

    @property
    def ended(self) -> bool:
        """Whether the budget is spent, or the loss held out has fallen no further for as long as the task waits."""
        waited, patience = self.progress.step - self.progress.chosen, self.task.patience
        return self.fraction >= 1 or (patience is not None and waited >= patience)

    def next_step(self) -> OptimizerStep:
        """The step that this process takes next."""
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        return OptimizerStep(self.progress.step, min(1.0, self.fraction), process, processes)

    @property
    def latest(self) -> nn.Module:
        """The module with averaged weights, or with those of the last step where no average is kept."""
        return self.accelerator.unwrap_model(self.module) if self.average is None else self.average

    @property
    def weights(self) -> nn.Module:
        """What the training gives: the module with the latest weights, or with those that its task chose."""
        return self.latest if self.chosen is None else self.chosen

    @property
    def trained_params(self) -> int:
        """How many parameters have had a gradient."""
        return sum(p.numel() for p in self.trained if p in self.optimizer.state)

    def fit(self, observe: Callable[[Progress], None]) -> None:
        """The loop: a step, and now and then, and at the end, a line, a validation and a checkpoint."""
        config, progress = self.config, self.progress
        every = self.task.choose_every
        duties: list[tuple[float, Callable[[], Any]]] = [(config.log_minutes, self.report)]
        duties += [(config.val_minutes, self.validate)] if every is None else []
        duties += [(config.checkpoint_minutes, self.save)]
        last = [progress.seconds] * len(duties)
        while not self.ended:
            self.advance()
            if every is not None and (progress.step % every == 0 or self.fraction >= 1):
                self.choose()
            for i, (minutes, duty) in enumerate(duties):
                if self.ended or progress.seconds - last[i] >= 60 * minutes:
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

    def report(self) -> None:
        """Log the means of the scalars since the last call, over all processes; only this waits for the device.

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

    def choose(self) -> None:
        """Keep the latest weights where no earlier ones had as little loss held out; every process has the same."""
        loss = self.validate()["loss"]
        if loss < self.progress.least:
            self.progress.least, self.progress.chosen = loss, self.progress.step
            cast(nn.Module, self.chosen).load_state_dict(self.latest.state_dict())

    def validate(self) -> dict[str, Any]:
        """The errors of the latest weights, appended to curve.jsonl by the main process, which alone has to measure
        them where nothing is chosen."""
        if not self.accelerator.is_main_process and self.chosen is None:
            return {}
        with torch.no_grad():
            found = self.task.validate(self.latest, self.step)
        if not self.accelerator.is_main_process:
            return found
        progress = self.progress
        means = {f"train_{name}": value for name, value in progress.scalars.items()}
        row = json.dumps({"step": progress.step, "minutes": progress.seconds / 60, **found, **means})
        append_line(self.config.out / "curve.jsonl", row)
        log.info("validation %s", row)
        return found

    def save(self) -> None:
        """A checkpoint, once the loss is known to be finite."""
        self.report()
        save_checkpoint(self.accelerator, self.config.out, self.progress.step)

    def prefers_bfloat16(self) -> bool:
        """Whether to run products in bfloat16; for "auto", whether that is faster here, in all processes together."""
        if self.config.precision == "bfloat16":
            warn_if_slow(self.device.type)
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


@torch.no_grad()
def update_average(average: nn.Module, module: nn.Module, decay: float) -> None:
    """Exponential moving average of the weights; buffers are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(module.parameters()), 1 - decay)
    for mine, theirs in zip(average.buffers(), module.buffers(), strict=True):
        mine.copy_(theirs)
