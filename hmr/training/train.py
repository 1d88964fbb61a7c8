"""Training of an HMR model from a pretrained backbone, on pictures that are drawn as they are needed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import roma
import torch
import torch.nn.functional as F
from accelerate import PartialState
from torch import Tensor, nn
from torch.utils.data import default_collate

from compress.errors import BadInput
from compress.stack import most_covered, through
from compress.tokens import Tokens, coverage
from compress.training import loop
from compress.training.checkpoint import checkpoints, reserve_folder
from compress.training.task import OptimizerStep, TrainingTask, linear
from hmr.body.files import load_body
from hmr.body.model import BodyModel
from hmr.checkpoints.backbone import start
from hmr.checkpoints.files import save
from hmr.data.crop import normalised
from hmr.evaluation.metrics import mpjpe, pa_mpjpe
from hmr.models.dinov2 import DINOv2
from hmr.models.head import HMROutput, SMPLHead, sixd_from_rotations
from hmr.models.model import HMRModel, build
from hmr.resolver import digest, load, path_of
from hmr.training.augment import augmented, blundered
from hmr.training.config import HMRTrainConfig, Stage, stages_of
from hmr.training.mirror import with_mirrors
from hmr.training.stream import BatchStream, labels_of
from hmr.training.supervision import TokenHeads, fade, losses, total
from hmr.world.synthetic import open_world

ENDLESS = 1 << 40  # frames: none is drawn twice
MEAN_OF = 500  # frames that the head's mean pose is taken over
RINGS = 1  # of tokens around the person that are kept with it


def train(config: HMRTrainConfig) -> Path:
    """Train until the budget is spent, going on from the last checkpoint in `config.out`; returns the weights' path.

    Writes model.safetensors (averaged weights, half precision, no auxiliary heads) beside what
    `compress.training.loop.train` writes. Raises as that, and BadInput for a backbone that is none.
    """
    with PartialState().main_process_first():  # before frames are drawn
        reserve_folder(config, identity_of(config), HMRTask.noun)
    with torch.random.fork_rng():  # the caller's random numbers stay the caller's
        trained = loop.train(HMRTask(config), config).weights
    path = config.out / "model.safetensors"
    if PartialState().is_main_process:
        save(cast(HMRLoss, trained).model, path, {"config": config.model_dump_json()}, torch.float16)
    PartialState().wait_for_everyone()
    return path


def identity_of(config: HMRTrainConfig) -> dict[str, Any]:
    """The hash of the weights it starts from. Not the pictures: a world may be refined while a long training is
    stopped."""
    if config.start is not None:
        path = path_of(config.start, weightless=False)
        return {"start": digest(cast(Path, path))}
    path = config.backbone
    if path is not None and not path.is_file():
        raise BadInput(f"{path}: there is no such file of pretrained weights")
    return {"backbone": "" if path is None else hashlib.sha256(path.read_bytes()).hexdigest()}


def pictures_of(config: HMRTrainConfig) -> int:
    """The seed of the pictures: others than those that the model it goes on from was trained on."""
    return config.seed + 1 + int(identity_of(config).get("start", "0")[:8], 16)


class HMRLoss(nn.Module):
    """The model, the heads that only its training needs, and the losses of both."""

    def __init__(self, model: HMRModel) -> None:
        super().__init__()
        self.model = model
        self.token_heads = TokenHeads(model.sizes.dim, model.sizes.head_dim)
        self._body = [load_body("open")]  # in a list, so that it is no part of the weights

    @property
    def body(self) -> BodyModel:
        """The body of the frames, on the model's device."""
        self._body[0] = self._body[0].to(device_of(self.model))
        return self._body[0]

    def tokens(self, crop: Tensor, cover: Tensor | None, stage: Stage) -> Tokens:
        """Finished tokens of crops (B, 3, H, W); cover (B, N0) decides which are dropped. No gradient reaches
        the embedding and the frozen blocks."""
        stack, blocks = self.model.backbone, list(self.model.backbone.blocks)
        frozen = len(blocks) if stage.frozen is None else stage.frozen
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            tokens = stack.embed(crop)
            if stage.keep is not None:
                drop = tokens.source.shape[1] - stage.keep
                tokens = tokens.kept(most_covered(tokens, cover, drop, RINGS))
            tokens = through(stack, blocks[:frozen], tokens)
        return stack.finish(through(stack, blocks[frozen:], tokens))

    def forward(
        self, crop: Tensor, cover: Tensor | None, target: dict[str, Tensor], stage: Stage, token_weight: float
    ) -> dict[str, Tensor]:
        """As `tokens`; targets as `losses` takes them, and what the losses of the auxiliary heads count for."""
        tokens = self.tokens(crop, cover, stage)
        output = self.model.read(tokens)
        read = self.token_heads(tokens, output.features)
        with torch.autocast(crop.device.type, enabled=False):
            parts, error = losses(output, read, target, self.body, tokens.grid)
            return {"loss": total(parts, token_weight), **parts, "joint_error_mm": error}


class HMRTask(TrainingTask):
    """Training of a model on `synth:train` in stages, see `stages_of`."""

    noun = "training of an HMR model"

    def __init__(self, config: HMRTrainConfig) -> None:
        self.config, self.stages = config, stages_of(config)
        torch.manual_seed(config.seed)
        model = build(config.architecture, config.sizes)
        size = model.family.crop
        self.frames = open_world("synth", "train", ENDLESS, pictures_of(config), config.mocap, size)
        self.held_out = open_world("synth", "val", config.val_frames, size=size)
        self.val: dict[str, Tensor] = {}
        if not checkpoints(config.out):
            self.begin(model)
        for part in (model.backbone.patch_embed, *list(model.backbone.blocks)[: config.frozen]):
            part.requires_grad_(not config.frozen)
        for name in ("cls_token", "pos_embed"):
            model.backbone.get_parameter(name).requires_grad_(not config.frozen)
        self.module = HMRLoss(model).train()
        self.stream = BatchStream(self.frames, config.batch // 2, config.workers)

    def begin(self, model: HMRModel) -> None:
        """The weights of a model to go on from; or the backbone's pretrained ones, and the mean of training frames for
        the head."""
        if self.config.start is not None:
            take_over(model, self.config.start)
            return
        if self.config.backbone is not None:
            if not isinstance(model.backbone, DINOv2):
                raise BadInput(f"{self.config.backbone}: {model.architecture} does not stand on DINOv2")
            start(model.backbone, self.config.backbone)
        start_from_mean(model, [labels_of(self.frames[ENDLESS - 1 - i]) for i in range(MEAN_OF)])

    def identity(self) -> dict[str, Any]:
        return identity_of(self.config)

    def stage(self, step: OptimizerStep) -> Stage:
        return next((stage for stage in self.stages if step.fraction < stage.until), self.stages[-1])

    def batch(self, step: OptimizerStep) -> tuple[Tensor, Tensor | None, dict[str, Tensor], Stage, float]:
        """Crops and their mirror images, what they show of the person, targets, the stage, and what the losses of the
        auxiliary heads count for."""
        stage, target = self.stage(step), with_mirrors(self.stream.batch(step))
        crop, cover = self.inputs(target, stage, learning=True)
        return crop, cover, target, stage, self.config.token_weight * fade(step.fraction)

    def inputs(self, target: dict[str, Tensor], stage: Stage, learning: bool) -> tuple[Tensor, Tensor | None]:
        """Crops (B, 3, H, W) as a stage has them, and the cover (B, N0) of their masks where it drops tokens; takes
        pictures and masks out of `target`."""
        images, masks = target.pop("image").float(), target.pop("mask")
        if stage.halved:
            images = F.avg_pool2d(images.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)  # (B, H/2, W/2, 3)
        images = augmented(images) if learning else images
        if stage.keep is None:
            return normalised(images), None
        masks = blundered(masks) if learning else masks
        rows, columns = cast(HMRLoss, self.module).model.grid
        return normalised(images), coverage(masks, (rows // (1 + stage.halved), columns // (1 + stage.halved)))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Each block learns `layer_decay` times as fast as the one above it; the heads have the full rate. Weight decay
        for matrices and kernels alone."""
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad:
                matrix = parameter.ndim > 1 and not name.endswith(("cls_token", "pos_embed", "pos_embedding"))
                groups.setdefault((self.share(name), matrix), []).append(parameter)
        return [
            {
                "params": parameters,
                "lr": self.config.lr * share,
                "weight_decay": self.config.weight_decay * matrix,
                "backbone": share < 1,
                "fused": True,
            }
            for (share, matrix), parameters in groups.items()
        ]

    def share(self, name: str) -> float:
        """The learning rate of a parameter, in shares of the heads'."""
        config, depth = self.config, len(cast(HMRLoss, self.module).model.backbone.blocks)
        if not name.startswith("model.backbone."):
            return 1.0
        number = name.removeprefix("model.backbone.blocks.").split(".")[0]
        below = depth - 1 - int(number) if number.isdigit() else 0 if ".norm." in name else depth
        return config.backbone_lr * config.layer_decay**below

    def learning_rate(self, group: dict[str, Any], step: OptimizerStep, warmup: int) -> float:
        """Constant, then linear down at the end; the backbone's rises once the head's own time is over."""
        rate = linear(group["initial_lr"], step, warmup, self.config.decay)
        if not group["backbone"]:
            return rate
        return rate * min(1.0, max(0.0, (step.fraction - self.config.head_until) / 0.01))

    @torch.no_grad()
    def validate(self, module: nn.Module, step: OptimizerStep) -> dict[str, Any]:
        """Joint errors (mm) and the root's (degrees, median) on `synth:val`, as this stage sees it, beside those of the
        mean pose under the true root."""
        stage, trained, device = self.stage(step), cast(HMRLoss, module), device_of(module)
        if not self.val:
            self.val = default_collate([labels_of(self.held_out[i]) for i in range(len(self.held_out))])
        found = []
        for part in parts_of(self.val, 50):
            target = {name: value.to(device) for name, value in part.items()}
            crop, cover = self.inputs(target, stage, learning=False)
            with torch.autocast(device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
                output = trained.model.read(trained.tokens(crop, cover, stage))
            found.append(errors(trained.body, trained.model.head, output, target))
        rows = torch.cat(found)
        error, aligned, _, least = rows.mean(0).tolist()
        named = {"mpjpe_mm": error, "pa_mpjpe_mm": aligned, "root_deg": rows[:, 2].median().item()}
        return {"stage": stage.name, **{f"val_{k}": v for k, v in named.items()}, "mean_pose_true_root_mm": least}


def take_over(model: HMRModel, start: str) -> None:
    """The weights of another model; raises BadInput where it is of another architecture or other sizes."""
    try:
        model.load_state_dict(load(start).state_dict())
    except RuntimeError as error:
        raise BadInput(f"{start}: a model of other sizes than the one that is trained ({error})") from error


def errors(body: BodyModel, head: SMPLHead, output: HMROutput, target: dict[str, Tensor]) -> Tensor:
    """MPJPE and PA-MPJPE (mm), the root's error (degrees) and the MPJPE of the head's mean pose under the true root, of
    each frame (B, 4)."""
    truth, rotations = target["rotations"], output.rotations.float()
    mean = head.rotations(head.init_body_pose.unflatten(1, (head.joints, 6)))
    trivial = torch.cat((truth[:, :1], mean[:, 1:].expand(len(truth), -1, -1, -1)), 1)
    joints = body.skeleton(truth, target["betas"])
    mine = body.skeleton(rotations, output.betas.float())
    least = body.skeleton(trivial, head.init_betas.expand(len(truth), -1))
    root = roma.rotmat_geodesic_distance(rotations[:, 0], truth[:, 0]).rad2deg()
    return torch.stack((mpjpe(mine, joints), pa_mpjpe(mine, joints), root, mpjpe(least, joints)), 1)


def parts_of(frames: dict[str, Tensor], size: int) -> Iterator[dict[str, Tensor]]:
    """Frames in parts of at most `size`."""
    for i in range(0, len(frames["image"]), size):
        yield {name: value[i : i + size] for name, value in frames.items()}


def start_from_mean(model: HMRModel, frames: list[dict[str, Any]]) -> None:
    """Fill the head's init buffers with the mean pose, betas and camera of frames."""
    means = {name: torch.from_numpy(np.mean([f[name] for f in frames], 0)).float() for name in ("betas", "camera")}
    mean = torch.from_numpy(np.mean([frame["rotations"] for frame in frames], 0, dtype=np.float64))
    pose = roma.special_procrustes(mean).float()  # (24, 3, 3): the rotations nearest to the mean
    model.head.init_body_pose.copy_(sixd_from_rotations(pose).reshape(1, -1))
    model.head.init_betas.copy_(means["betas"][None])
    model.head.init_cam.copy_(means["camera"][None])


def device_of(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
