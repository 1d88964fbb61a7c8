"""Training of the motion VAE and of what decodes motion from features: one loop, resumed to the bit.

Whatever is random in a step follows from (seed, step, process), and what has happened so far lies in the last
checkpoint. With `accelerate launch` every process draws its own part of a batch and gradients are averaged (DDP).
"""

from __future__ import annotations

import copy
import json
import logging
import math
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from accelerate import Accelerator
from pydantic import Field
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from compress.errors import BadInput
from compress.training import Budget, Progress, Training, claim, follow, save_checkpoint

log = logging.getLogger(__name__)


class TrainConfig(Budget):
    """How to train; the defaults are those of the reference size, the paper's lr is 1e-4 and its batch 32."""

    out: Path
    lr: float = Field(2e-3, gt=0)
    warmup: int = Field(100, ge=0)  # steps
    log_steps: int = Field(50, ge=1)
    checkpoint_steps: int = Field(200, ge=1)
    val_steps: int = Field(400, ge=1)
    seed: int = Field(0, ge=0)


class Course(Protocol):
    """What is learned: the trained module gives the scalars of a batch, `total` is what to make small."""

    noun: str  # what a message calls such a training

    @property
    def trainee(self) -> nn.Module:
        """A batch -> its scalars."""

    def identity(self) -> dict[str, Any]:
        """What tells this training from others, as JSON values: its data, sizes and whatever it starts from."""

    def batch(self, step: int, process: int, processes: int) -> tuple[Tensor, ...]:
        """This process's share of the batch of a step."""

    def validate(self, trainee: nn.Module) -> dict[str, float]:
        """Errors of averaged weights on data that no step learns from."""


def train(course: Course, config: TrainConfig, after: Callable[[int], None] = lambda step: None) -> nn.Module:
    """Train until the budget is spent, going on from the last checkpoint in `config.out`; returns averaged weights.

    Writes run.json, curve.jsonl, tensorboard/ and checkpoint-STEP/. `after` is told each step that was done.
    Raises BadInput where `out` holds something else, and where the loss is no number any more.
    """
    mine = {**course.identity(), "config": config.model_dump(mode="json", exclude={"out"})}
    accelerator = Accelerator()
    with accelerator.main_process_first():
        claim(config.out / "run.json", mine, course.noun)
    tells = SummaryWriter(config.out / "tensorboard") if accelerator.is_main_process else nullcontext()
    with torch.random.fork_rng(), tells as board:
        run = Run(course, config, accelerator)
        fit(run, board, after)
    return run.average.eval()


def fit(run: Run, board: SummaryWriter | None, after: Callable[[int], None]) -> None:
    """The loop: a step, and now and then a line, a validation, a checkpoint; `board` is the main process's alone."""
    config, progress = run.config, run.progress
    hidden = board is None or not sys.stderr.isatty()
    bar = tqdm(total=1.0, initial=run.fraction, disable=hidden, bar_format="{percentage:5.1f}% {bar} {desc}")
    while run.fraction < 1:
        run.advance()
        ended = run.fraction >= 1
        if progress.step % config.log_steps == 0 or ended:
            report(run, board, bar)
        if progress.step % config.val_steps == 0 or ended:
            validate(run, board)
        if progress.step % config.checkpoint_steps == 0 or ended:
            save_checkpoint(run.accelerator, config.out, progress.step)
        after(progress.step)
    bar.close()


class Run(Training):
    """One training on its way, and the average of its weights."""

    def __init__(self, course: Course, config: TrainConfig, accelerator: Accelerator) -> None:
        self.course, self.config, self.device = course, config, accelerator.device
        self.average = copy.deepcopy(course.trainee).to(self.device).eval().requires_grad_(False)
        super().__init__(course.trainee.train(), config, config.out, Progress(), accelerator, self.average)
        if self.resumed is not None:
            log.info("going on from %s", self.resumed)
        self.sums: dict[str, Tensor] = {}
        self.added = 0

    def advance(self) -> None:
        """One optimizer step."""
        step, process = self.progress.step, self.accelerator.process_index
        torch.manual_seed((self.config.seed << 40) + (step << 8) + process)  # noise and dropout of this step
        batch = (part.to(self.device) for part in self.course.batch(step, process, self.accelerator.num_processes))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            said = self.trainee(*batch)
        self.descend(said["total"], self.config.warmup)
        follow(self.average, self.accelerator.unwrap_model(self.trainee), step + 1)
        self.added += 1
        for name, value in said.items():
            self.sums[name] = self.sums.get(name, torch.zeros((), device=self.device)) + value.detach().float()
        self.agree_on_time()

    def agree_on_time(self) -> None:
        """All processes stop at the same step, so with a budget in minutes they share one clock."""
        seconds = self.seconds
        if self.config.minutes is not None and self.accelerator.num_processes > 1:
            mine = torch.tensor(seconds, device=self.device)
            seconds = cast(Tensor, self.accelerator.reduce(mine, "mean")).item()
        self.progress.seconds = seconds

    def means(self) -> dict[str, float]:
        """Means of the scalars since the last call; the only place that waits for the device. Raises BadInput where the
        loss is no number."""
        found = (torch.stack(list(self.sums.values())) / self.added).tolist()
        named = dict(zip(self.sums, found, strict=True))
        if not math.isfinite(named["total"]):
            raise BadInput(f"{self.course.noun}: the loss is {named['total']} at step {self.progress.step}: lower lr")
        self.sums, self.added = {}, 0
        return named


def report(run: Run, board: SummaryWriter | None, bar: tqdm) -> None:
    """Means since the last report, to tensorboard and to whoever looks."""
    values = run.means()
    if board is None:
        return
    for name, value in values.items():
        board.add_scalar(f"train/{name}", value, run.progress.step)
    line = f"step {run.progress.step} " + " ".join(f"{name} {value:.4g}" for name, value in values.items())
    bar.n = min(1.0, run.fraction)
    bar.set_description_str(line)
    if bar.disable:
        log.info("%5.1f%% %s", 100 * run.fraction, line)


def validate(run: Run, board: SummaryWriter | None) -> None:
    """Append the averaged weights' errors to curve.jsonl."""
    if board is None:
        return
    with torch.no_grad():
        found = run.course.validate(run.average)
    for name, value in found.items():
        board.add_scalar(f"val/{name}", value, run.progress.step)
    row = {"step": run.progress.step, "minutes": run.progress.seconds / 60, **found}
    with (run.config.out / "curve.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    log.info("validation %s", json.dumps(row))
