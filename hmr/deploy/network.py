"""A model as an exporter takes it: tensors in a fixed order go in and come out, the body inside."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from compress.errors import BadInput
from compress.policies.precision import unrounded
from compress.stack import Schedule
from hmr.adapters.adapted import gives_joints
from hmr.deploy.interface import BATCH, MEANINGS, Port
from hmr.models.head import BETAS
from hmr.models.model import HMRModel
from hmr.models.regressor import posed_joints

EXAMPLE = 2  # frames that a graph of any batch is traced with: 1 would be taken for a constant
BODIES = ("global_orient", "body_pose", "betas", "camera", "features", "joints")


class ExportNetwork(nn.Module):
    """crops (B, 3, H, W), then what else `inputs` names -> tensors in the order of `outputs`.

    Masks (B, H, W) are in 0..1 at the size of crops. An adapter's network gives joints alone. A graph is traced from
    it, so no path depends on values. Raises BadInput for vertices of a model that has no body.
    """

    def __init__(self, model: Any, vertices: bool = False) -> None:
        super().__init__()
        self.model, self.body = model.encoder, model.encoder.body
        extra = {"masks": model.protect is not None, "condition": model.encoder.needs_condition}
        self.inputs = ("crops", *(name for name, wanted in extra.items() if wanted))
        if vertices and gives_joints(model):
            raise BadInput(f"{model.encoder.name} is an adapter, which gives joints alone: leave out --vertices")
        self.reading = model.reading if model.takes_clips else None
        known = ("joints",) if gives_joints(model) else BODIES
        more = {"vertices": vertices, "reading": model.takes_clips, "source": model.schedule != Schedule()}
        self.outputs = (*known, *(name for name, wanted in more.items() if wanted))

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        inputs = dict(zip(self.inputs, given, strict=True))
        tokens = self.model.encode(inputs["crops"], inputs.get("masks"))
        output = self.model.read(tokens, inputs.get("condition"))
        found = {**vars(output), "source": tokens.source}
        if "vertices" in self.outputs:
            posed = self.body(output.rotations.float(), output.betas.float())
            found |= {"vertices": posed.vertices, "joints": posed.joints}
        elif "betas" in self.outputs:
            found["joints"] = posed_joints(self.body, output)
        if self.reading is not None:
            found["reading"] = self.reading(output)
        return tuple(found[name] for name in self.outputs)

    @property
    def blocks(self) -> str:
        """The dotted name of the blocks in here."""
        return next(name for name, module in self.named_modules() if module is self.model.stack.blocks)

    def example(self, batch: int) -> tuple[Tensor, ...]:
        """Random inputs for so many frames."""
        height, width = self.model.crop_size
        rng = torch.Generator().manual_seed(0)
        every = {
            "crops": torch.randn(batch, 3, height, width, generator=rng),
            "masks": (torch.rand(batch, height, width, generator=rng) > 0.7).float(),
            "condition": torch.rand(batch, 3, generator=rng),
        }
        return tuple(every[name] for name in self.inputs)


class DecoderNetwork(nn.Module):
    """The motion decoder of a model, with the body inside: what it reads of clips (B, F, W), betas (B, F, 10) and which
    frames are seen (B, F) -> rotations (B, F, 24, 3, 3), joints (B, F, 24, 3) and, where asked for, vertices."""

    inputs = ("reading", "betas", "seen")

    def __init__(self, model: Any, vertices: bool = False) -> None:
        super().__init__()
        self.model, self.decoder, self.body = model.encoder, model.decoder, model.encoder.body
        self.outputs = ("rotations", "joints", *(("vertices",) if vertices else ()))

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        reading, betas, seen = given
        rotations = self.decoder(reading, betas, seen)
        frames, shape = (rotations.flatten(0, 1), betas.flatten(0, 1)), rotations.shape[:2]
        if "vertices" not in self.outputs:
            return rotations, self.body.skeleton(*frames).unflatten(0, shape)
        posed = self.body(*frames)
        return rotations, posed.joints.unflatten(0, shape), posed.vertices.unflatten(0, shape)

    def example(self, batch: int) -> tuple[Tensor, ...]:
        """Random inputs for so many clips."""
        rng, shape = torch.Generator().manual_seed(0), (batch, self.decoder.frames)
        reading, betas = (torch.randn(*shape, width, generator=rng) for width in (self.decoder.width, BETAS))
        return reading, betas, torch.rand(shape, generator=rng) > 0.3


Network = ExportNetwork | DecoderNetwork


def ports(network: Network, batch: int | None) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Inputs and outputs of a network for `batch` frames, or clips, at once or, where None, any number."""
    given = network.example(1)
    with torch.no_grad():
        made = network(*given)
    both = ((network.inputs, given), (network.outputs, made))
    first, second = (tuple(map(port, names, values, [batch] * len(names))) for names, values in both)
    return first, second


def port(name: str, value: Tensor, batch: int | None) -> Port:
    """What a file says of a tensor (1, ...) of one frame."""
    dtype = str(value.dtype).removeprefix("torch.")
    return Port(name=name, dtype=dtype, shape=(batch or BATCH, *value.shape[1:]), meaning=MEANINGS[name])


def prepared(model: Any, precision: str) -> Any:
    """A copy of a model on the CPU as it is exported, without gradients. Blocks that a recipe has rounded have their
    rounded weights and compute in float32, since no runtime here rounds on the way as torch does. float16: the blocks'
    weights, which are computed with in float32 as well: in 16 bits that moved a joint of `reference` by up to 15 mm.

    Raises BadInput for a model without weights, and for one of which nobody knows what comes out.
    """
    name = model.encoder.name
    if not isinstance(model.encoder, HMRModel) and not gives_joints(model):
        raise BadInput(f"{name} is of no family known here, so what comes out of it has no names to export it by")
    if model.encoder.is_meta:
        raise BadInput(f"{name} has no weights: name a checkpoint")
    twin = copy.deepcopy(model).cpu().requires_grad_(False).eval()
    unrounded(twin)
    if precision == "float16":
        halve(twin)
    return twin


class Widened(nn.Module):
    """A weight that is kept in float16 and used in float32."""

    def forward(self, half: Tensor) -> Tensor:
        return half.float()


def halve(model: Any) -> None:
    """Keep the matrices of a model's blocks in float16, in place; what computes with them sees float32. In and before
    blocks that merge tokens, only those that this does not change: a rounded weight would let others merge."""
    deciding = max((i + 1 for i, merged in enumerate(model.schedule.merges) if merged), default=0)
    for i, block in enumerate(model.stack.blocks):
        for module in list(block.modules()):
            for name, value in list(module.named_parameters(recurse=False)):
                half = value.half()
                if value.ndim > 1 and (i >= deciding or torch.equal(half.float(), value)):
                    register_parametrization(module, name, Widened())
                    module.parametrizations[name].original = nn.Parameter(half, requires_grad=False)
