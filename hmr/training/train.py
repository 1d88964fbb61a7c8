"""Training of an HMR model from nothing, on frames rendered beforehand: small pictures first, full resolution last.

Whatever is random in a step follows from (seed, step), and what has happened so far lies in the last checkpoint, so a
killed run goes on from the exact next batch.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import roma
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from compress.errors import BadInput
from compress.training import follow, resume, save_checkpoint
from hmr.body.files import load_body
from hmr.body.model import BodyModel
from hmr.checkpoints.files import load, save
from hmr.data.crop import normalised
from hmr.evaluation.metrics import mpjpe, pa_mpjpe
from hmr.models.head import JOINTS, HMROutput, sixd_from_rotations
from hmr.models.model import HMRModel, build
from hmr.training.augment import augmented
from hmr.training.config import Stage, TrainConfig, claim, stages_of
from hmr.training.grow import grown
from hmr.training.supervision import TokenHeads, TokenOutput, fade, losses, total
from hmr.world.cache import CachedFrames, order

log = logging.getLogger(__name__)
LOG_STEPS = 100
PATHS = ("out", "start", "half_cache", "full_cache", "half_val_cache", "full_val_cache")
FLOOR = 0.01  # share of the learning rate that is left at the end


@dataclass
class Progress:
    """All that a run remembers besides weights and optimizer."""

    step: int = 0
    images: int = 0
    seconds: float = 0.0
    stage: int = 0
    stage_from: int = 0  # the step that was the first of the stage
    bfloat16: bool = False

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


class Trainee(nn.Module):
    """The model and the heads that only its training needs."""

    def __init__(self, model: HMRModel) -> None:
        super().__init__()
        self.model = model
        self.token_heads = TokenHeads(model.sizes.dim)

    def forward(self, crop: Tensor) -> tuple[HMROutput, TokenOutput]:
        tokens = self.model.backbone(crop)
        return self.model.smpl_head(tokens), self.token_heads(tokens, self.grid_of(crop))

    def grid_of(self, crop: Tensor) -> tuple[int, int]:
        patch = self.model.family.patch
        return crop.shape[2] // patch, crop.shape[3] // patch


def train(config: TrainConfig) -> Path:
    """Train until the budget is spent, going on from the last checkpoint in `config.out`; returns the weights' path.

    Writes model.safetensors (averaged weights, half precision), curve.jsonl, config.json, tensorboard/ and
    checkpoint-STEP/. Raises BadInput for folders of frames that are missing or incomplete, and for an `out` that holds
    something else than this run.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with torch.random.fork_rng():  # the caller's random numbers are none of this function's business
        run = Run(config)
        with SummaryWriter(config.out / "tensorboard") as board:
            fit(run, board)
        settings = config.model_dump_json(exclude=set(PATHS))  # where things lay is nobody's business
        return save(run.average, config.out / "model.safetensors", {"config": settings}, torch.float16)


def fit(run: Run, board: SummaryWriter) -> None:
    """The loop: a step, and now and then a line, a checkpoint, a validation."""
    last_checkpoint = last_validation = run.seconds
    bar = tqdm(
        total=1.0, initial=run.fraction, disable=not sys.stderr.isatty(), bar_format="{percentage:5.1f}% {bar} {desc}"
    )
    while run.fraction < 1:
        run.advance()
        if run.progress.step % LOG_STEPS == 0:
            report(run, board, bar)
        if run.seconds - last_validation >= 60 * run.config.val_minutes:
            validate(run, board)
            last_validation = run.seconds
        if run.seconds - last_checkpoint >= 60 * run.config.checkpoint_minutes:
            run.save_checkpoint()
            last_checkpoint = run.seconds
    bar.close()
    validate(run, board)
    run.save_checkpoint()


class Run:
    """One training on its way: model, averaged model, optimizer, data, and how far it is."""

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.progress = config, Progress()
        claim(config)
        self.stages = stages_of(config)
        self.accelerator = Accelerator()
        self.device = self.accelerator.device
        torch.manual_seed(config.seed)
        model = build(config.architecture, config.sizes)
        if config.start is None:
            start_from_mean(model, self.stages[0].frames)
        else:
            start_from(model, config.start)
        self.average = copy.deepcopy(model).to(self.device).eval().requires_grad_(False)
        self.body: BodyModel = load_body("open").to(self.device)
        trainee = Trainee(model).train()
        groups = parameter_groups(trainee, config.weight_decay)
        optimizer = torch.optim.AdamW(groups, config.lr, betas=config.betas, fused=True)
        self.trainee, self.optimizer = self.accelerator.prepare(trainee, optimizer)
        self.accelerator.register_for_checkpointing(self.average, self.progress)
        self.started = time.monotonic()
        self.sums: dict[str, Tensor] = {}
        self.added = 0
        self.latest: dict[str, float] = {}
        self.logged_at = (self.seconds, 0)
        if not self.resume():
            self.progress.bfloat16 = self.prefers_bfloat16()

    @property
    def seconds(self) -> float:
        """Wall clock of the whole run, earlier sessions included."""
        return self.progress.seconds + time.monotonic() - self.started

    @property
    def fraction(self) -> float:
        """Share of the budget that is spent."""
        if self.config.steps is not None:
            return self.progress.step / self.config.steps
        return self.seconds / (60 * (self.config.minutes or 1))

    @property
    def stage(self) -> Stage:
        return self.stages[self.progress.stage]

    def advance(self) -> None:
        """One optimizer step."""
        progress, fraction = self.progress, self.fraction
        while fraction >= self.stage.until and progress.stage + 1 < len(self.stages):
            progress.stage, progress.stage_from = progress.stage + 1, progress.step
        torch.manual_seed((self.config.seed << 32) + progress.step)  # augmentation and stochastic depth of this step
        crop, target = self.batch()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, progress.step, fraction)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=progress.bfloat16):
            output, tokens = self.trainee(crop)
        parts, error = losses(output, tokens, target, self.body, self.trainee.grid_of(crop))
        loss = total(parts, self.config.token_weight * fade(fraction))
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.trainee.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        progress.step += 1
        progress.images += len(crop)
        follow(self.average, self.trainee.model, progress.step)
        self.add_up({"loss": loss, **parts, "joint_error_mm": error, "gradient_norm": norm})

    def batch(self) -> tuple[Tensor, dict[str, Tensor]]:
        """The next augmented crops and their targets."""
        stage, progress = self.stage, self.progress
        seed = self.config.seed + progress.stage
        chosen = order(len(stage.frames), stage.batch, progress.step - progress.stage_from, seed)
        images, target = stage.frames.read(chosen, self.device)
        return normalised(augmented(images)), target

    def add_up(self, values: dict[str, Tensor]) -> None:
        self.added += 1
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, torch.zeros((), device=self.device)) + value.detach()

    def averages(self) -> dict[str, float]:
        """Means since the last call; the only place that waits for the device."""
        means = (torch.stack(list(self.sums.values())) / self.added).tolist() if self.sums else []
        self.latest = dict(zip(self.sums, means, strict=True))
        (then, images), self.logged_at = self.logged_at, (self.seconds, self.progress.images)
        self.latest["images_per_s"] = (self.progress.images - images) / (self.seconds - then)
        self.sums, self.added = {}, 0
        return self.latest

    def prefers_bfloat16(self) -> bool:
        """What `precision` says; for "auto", whether three steps' forward and backward are faster under bfloat16."""
        if self.config.precision != "auto":
            return self.config.precision == "bfloat16"
        seconds = {enabled: self.time_steps(enabled) for enabled in (False, True)}
        log.info("3 steps take %.2f s in float32, %.2f s in bfloat16", seconds[False], seconds[True])
        return seconds[True] < seconds[False]

    def time_steps(self, bfloat16: bool) -> float:
        crop, target = self.batch()
        probe = copy.deepcopy(self.trainee)
        started = 0.0
        for i in range(4):  # the first one warms up
            if i == 1:
                started = self.synchronised()
            with torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16):
                output, tokens = probe(crop)
            total(losses(output, tokens, target, self.body, self.trainee.grid_of(crop))[0], 1.0).backward()
        return self.synchronised() - started

    def synchronised(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.monotonic()

    def save_checkpoint(self) -> None:
        """checkpoint-STEP, complete or not there at all; earlier ones go."""
        self.progress.seconds, self.started = self.seconds, time.monotonic()
        save_checkpoint(self.accelerator, self.config.out, self.progress.step)

    def resume(self) -> bool:
        found = resume(self.accelerator, self.config.out)
        if found is None:
            return False
        self.started = time.monotonic()
        self.logged_at = (self.seconds, self.progress.images)
        log.info("going on from %s", found)
        return True


def report(run: Run, board: SummaryWriter, bar: tqdm) -> None:
    values = run.averages()
    for name, value in values.items():
        board.add_scalar(f"train/{name}", value, run.progress.step)
    line = f"step {run.progress.step} {run.stage.name} " + " ".join(f"{k} {v:.4g}" for k, v in values.items())
    bar.n = min(1.0, run.fraction)
    bar.set_description_str(line)
    if bar.disable:
        log.info("%5.1f%% %s", 100 * run.fraction, line)


def validate(run: Run, board: SummaryWriter) -> None:
    """Append the averaged model's joint errors on the validation frames of this stage's resolution to curve.jsonl."""
    row: dict[str, Any] = {
        "minutes": run.seconds / 60,
        "step": run.progress.step,
        "images": run.progress.images,
        "stage": run.stage.name,
    }
    if run.stage.validation is not None:
        row |= errors(run.average, run.stage.validation, run.body, run.device, run.progress.bfloat16)
        for name in ("val_mpjpe_mm", "val_pa_mpjpe_mm"):
            board.add_scalar(f"val/{name}", row[name], run.progress.step)
    row |= {f"train_{name}": value for name, value in run.latest.items()}
    with (run.config.out / "curve.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    log.info("validation %s", json.dumps(row))


@torch.no_grad()
def errors(
    model: HMRModel, frames: CachedFrames, body: BodyModel, device: torch.device, bfloat16: bool
) -> dict[str, float]:
    """Mean MPJPE and PA-MPJPE (mm) of a model over frames."""
    found = []
    for indices in np.array_split(np.arange(len(frames)), math.ceil(len(frames) / 50)):
        images, target = frames.read(indices, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            output = model(normalised(images))
        joints = body.skeleton(output.rotations, output.betas)
        found.append(torch.stack((mpjpe(joints, target["joints"]), pa_mpjpe(joints, target["joints"])), 1))
    mean = torch.cat(found).mean(0).tolist()
    return {"val_mpjpe_mm": mean[0], "val_pa_mpjpe_mm": mean[1]}


def learning_rate(config: TrainConfig, step: int, fraction: float) -> float:
    """Linear warm-up over steps, then constant, then linear down to FLOOR of it over the last `decay` of the budget.

    A cosine leaves a fifth of the rate for full resolution, which is a new world to a network that has seen small
    pictures: half an hour went by until it was as good there.
    """
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    down = min(1.0, (1 - min(1.0, fraction)) / config.decay)
    return config.lr * warm * (FLOOR + (1 - FLOOR) * down)


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices and kernels; none for biases, norms and position embeddings.

    NOTE: Muon for the matrices of the blocks took 1.8 times fewer steps to the same training loss, and on a CPU each
    step took 1.8 times as long; the validation error after 6 minutes at half resolution was 260 mm, against 287 mm. At
    quarter resolution its price is higher still. On a GPU, or with larger batches, it is worth another look.
    """
    named = list(module.named_parameters())
    matrices = [p for name, p in named if p.ndim > 1 and "pos_embed" not in name]
    others = [p for name, p in named if p.ndim <= 1 or "pos_embed" in name]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def start_from(model: HMRModel, path: Path) -> None:
    """Take over the weights of a file: of the same sizes, or of a fraction of the blocks, which are then `grown`."""
    theirs = load(path)
    weights = grown(theirs.state_dict(), len(theirs.stack.blocks), len(model.stack.blocks))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise BadInput(f"{path}: these weights are of another model than the one to train: {reason}") from error


def start_from_mean(model: HMRModel, frames: CachedFrames, most: int = 20_000) -> None:
    """Fill the head's init buffers with the mean pose, betas and camera of the first frames."""
    arrays = {name: torch.from_numpy(np.array(frames.arrays[name][:most])) for name in ("rotations", "betas", "camera")}
    pose = roma.special_procrustes(arrays["rotations"].mean(0))  # (24, 3, 3): the rotation nearest to the mean
    head = model.smpl_head
    head.init_body_pose.copy_(sixd_from_rotations(pose).reshape(1, JOINTS * 6))
    head.init_betas.copy_(arrays["betas"].mean(0, keepdim=True))
    head.init_cam.copy_(arrays["camera"].mean(0, keepdim=True))
