"""A model as an exporter takes it: tensors in a fixed order go in and come out, the body inside."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from compress.errors import BadInput
from compress.policies.precision import Int8Linear
from compress.stack import Schedule
from hmr.deploy.interface import BATCH, MEANINGS, Port
from hmr.models.model import HMRModel
from hmr.models.regressor import posed_joints

EXAMPLE = 2  # frames that a graph of any batch is traced with: 1 would be taken for a constant


class ExportNetwork(nn.Module):
    """crops (B, 3, H, W), then what else `inputs` names -> tensors in the order of `outputs`.

    Masks (B, H, W) are in 0..1 at the size of crops. A graph is traced from it, so no path depends on values.
    """

    def __init__(self, model: Any, vertices: bool = False) -> None:
        super().__init__()
        self.model, self.body = model, model.body
        extra = {"masks": model.protect is not None, "condition": model.needs_condition}
        self.inputs = ("crops", *(name for name, wanted in extra.items() if wanted))
        known = ("global_orient", "body_pose", "betas", "camera", "features", "joints")
        reduced = ("source",) if model.schedule != Schedule() else ()
        self.outputs = (*known, *(("vertices",) if vertices else ()), *reduced)

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        inputs = dict(zip(self.inputs, given, strict=True))
        tokens = self.model.encode(inputs["crops"], inputs.get("masks"))
        output = self.model.read(tokens, inputs.get("condition"))
        found = {**vars(output), "source": tokens.source}
        if "vertices" in self.outputs:
            posed = self.body(output.rotations.float(), output.betas.float())
            found |= {"vertices": posed.vertices, "joints": posed.joints}
        else:
            found["joints"] = posed_joints(self.body, output)
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

    def ports(self, batch: int | None) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
        """Inputs and outputs, for `batch` frames at once or, where None, any number."""
        given = self.example(1)
        with torch.no_grad():
            made = self(*given)
        both = ((self.inputs, given), (self.outputs, made))
        first, second = (tuple(map(port, names, values, [batch] * len(names))) for names, values in both)
        return first, second


def port(name: str, value: Tensor, batch: int | None) -> Port:
    """What a file says of a tensor (1, ...) of one frame."""
    dtype = str(value.dtype).removeprefix("torch.")
    return Port(name=name, dtype=dtype, shape=(batch or BATCH, *value.shape[1:]), meaning=MEANINGS[name])


def prepared(model: Any, precision: str) -> Any:
    """A copy of a model on the CPU as it is exported, without gradients. float16: the blocks alone, as in a recipe's
    bfloat16: the tokens that they add to, the last norm, the head and the body stay in float32.

    Raises BadInput for a model whose blocks were rounded already, which no runtime here computes as torch does.
    """
    name = model.encoder.name
    if not isinstance(model.encoder, HMRModel):
        raise BadInput(f"{name} is of no family known here, so what comes out of it has no names to export it by")
    if model.takes_clips:
        raise BadInput(f"{name} decodes motion from whole clips, and one frame is exported: name its encoder")
    if model.is_meta:
        raise BadInput(f"{name} has no weights: name a checkpoint")
    blocks = model.stack.blocks
    if any(isinstance(layer, Int8Linear) for layer in blocks.modules()):
        raise BadInput(f"{name} has int8 blocks of torchao: export the model before that step with --precision int8")
    if {value.dtype for value in model.parameters()} != {torch.float32}:
        raise BadInput(f"{name} is not in float32 throughout: export the model without its step `precision`")
    twin = copy.deepcopy(model).cpu().requires_grad_(False).eval()
    if precision == "float16":
        twin.stack.blocks.to(torch.float16)
    return twin
