"""Training of an HMR model from nothing, on frames rendered beforehand: small pictures first, full resolution last."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import roma
import torch
from accelerate import PartialState
from torch import Tensor, nn

from compress.errors import BadInput
from compress.training import loop
from compress.training.task import Step, TrainingTask, linear
from hmr.body.model import BodyModel, load_body
from hmr.checkpoints.files import load, save
from hmr.data.crop import normalised
from hmr.evaluation.metrics import mpjpe, pa_mpjpe
from hmr.models.head import JOINTS, sixd_from_rotations
from hmr.models.model import HMRModel, build
from hmr.models.vit import PATCH
from hmr.training.augment import augmented
from hmr.training.config import HMRTrainConfig, Stage, stages_of
from hmr.training.grow import grown
from hmr.training.supervision import TokenHeads, fade, losses, total
from hmr.world.cache import CachedFrames, order


def train(config: HMRTrainConfig) -> Path:
    """Train until the budget is spent, going on from the last checkpoint in `config.out`; returns the weights' path.

    Writes model.safetensors (averaged weights, half precision) beside the files of `compress.training.loop.train`, and
    raises as that; BadInput also for folders of frames that are missing or incomplete.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with torch.random.fork_rng():  # the caller's random numbers stay the caller's
        trained = loop.train(HMRTask(config), config).weights
    path = config.out / "model.safetensors"
    if PartialState().is_main_process:
        save(cast(HMRLoss, trained).model, path, {"config": config.model_dump_json()}, torch.float16)
    PartialState().wait_for_everyone()
    return path


class HMRLoss(nn.Module):
    """The model, the heads that only its training needs, and the losses of both."""

    def __init__(self, model: HMRModel) -> None:
        super().__init__()
        self.model = model
        self.token_heads = TokenHeads(model.sizes.dim)
        self._body = [load_body("open")]  # in a list, so that it is no part of the weights

    @property
    def body(self) -> BodyModel:
        """The body of the frames, on the model's device."""
        self._body[0] = self._body[0].to(device_of(self.model))
        return self._body[0]

    def forward(self, crop: Tensor, target: dict[str, Tensor], token_weight: float) -> dict[str, Tensor]:
        """Crops (B, 3, H, W), targets as `losses` takes them, and what the losses of tokens count for."""
        grid = grid_of(crop)
        tokens = self.model.backbone(crop)
        output, read = self.model.smpl_head(tokens), self.token_heads(tokens, grid)
        with torch.autocast(crop.device.type, enabled=False):
            parts, error = losses(output, read, target, self.body, grid)
            return {"loss": total(parts, token_weight), **parts, "joint_error_mm": error}


class HMRTask(TrainingTask):
    """Training of a model on cached frames, in stages of growing resolution."""

    noun = "training of an HMR model"

    def __init__(self, config: HMRTrainConfig) -> None:
        self.config, self.stages = config, stages_of(config)
        torch.manual_seed(config.seed)
        model = build(config.architecture, config.sizes)
        if config.start is None:
            start_from_mean(model, self.stages[0].frames)
        else:
            start_from(model, config.start)
        self.module = HMRLoss(model).train()

    def identity(self) -> dict[str, Any]:
        """Nothing beyond the config, so that a folder can be reserved before frames are drawn."""
        return {}

    def stage(self, step: Step) -> Stage:
        return next((stage for stage in self.stages if step.fraction < stage.until), self.stages[-1])

    def batch(self, step: Step) -> tuple[Tensor, dict[str, Tensor], float]:
        """Augmented crops, their targets, and what the losses of tokens count for."""
        stage = self.stage(step)
        chosen = order(len(stage.frames), stage.batch, step.index, self.config.seed + self.stages.index(stage))
        images, target = stage.frames.read(chosen[list(step.share(len(chosen)))], device_of(self.module))
        return normalised(augmented(images)), target, self.config.token_weight * fade(step.fraction)

    def validate(self, module: nn.Module, step: Step) -> dict[str, Any]:
        """Joint errors on the validation frames of this stage's resolution."""
        stage, trained = self.stage(step), cast(HMRLoss, module)
        row: dict[str, Any] = {"stage": stage.name}
        return row if stage.validation is None else row | errors(trained.model, stage.validation, trained.body)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Weight decay for matrices and kernels; none for biases, norms and position embeddings.

        NOTE: Muon for the matrices of the blocks took 1.8 times fewer steps to the same training loss, and on a CPU
        each step took 1.8 times as long; the validation error after 6 minutes at half resolution was 260 mm, against
        287 mm. At quarter resolution its price is higher still. On a GPU, or with larger batches, it is worth another
        look.
        """
        named = list(self.module.named_parameters())
        matrices = [p for name, p in named if p.ndim > 1 and "pos_embed" not in name]
        others = [p for name, p in named if p.ndim <= 1 or "pos_embed" in name]
        return [
            {"params": matrices, "weight_decay": self.config.weight_decay, "fused": True},
            {"params": others, "fused": True},
        ]

    def learning_rate(self, group: dict[str, Any], step: Step, warmup: int) -> float:
        """A cosine leaves a fifth of the rate for full resolution, which is a new world to a network that has seen
        small pictures: half an hour went by until it was as good there."""
        return linear(group["initial_lr"], step, warmup, self.config.decay)


@torch.no_grad()
def errors(model: HMRModel, frames: CachedFrames, body: BodyModel) -> dict[str, float]:
    """Mean MPJPE and PA-MPJPE (mm) of a model over frames."""
    device = device_of(model)
    found = []
    for indices in np.array_split(np.arange(len(frames)), math.ceil(len(frames) / 50)):
        images, target = frames.read(indices, device)
        output = model(normalised(images))
        joints = body.skeleton(output.rotations, output.betas)
        found.append(torch.stack((mpjpe(joints, target["joints"]), pa_mpjpe(joints, target["joints"])), 1))
    mean = torch.cat(found).mean(0).tolist()
    return {"val_mpjpe_mm": mean[0], "val_pa_mpjpe_mm": mean[1]}


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


def device_of(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def grid_of(crop: Tensor) -> tuple[int, int]:
    return crop.shape[2] // PATCH, crop.shape[3] // PATCH
