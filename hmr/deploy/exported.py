"""An exported file as a model: `hmr.load("model.onnx")`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from compress.errors import BadInput
from compress.registry import policy
from compress.stack import Schedule
from hmr.adapters.adapted import OwnJoints, PlacedJoints
from hmr.adapters.adapter import Adapter
from hmr.deploy.runtime import Runtime, in_groups, opened
from hmr.models.cost import frame_calls
from hmr.models.head import HMROutput
from hmr.models.regressor import BodyRegressor

FIELDS = ("global_orient", "body_pose", "betas", "camera", "features")


class Exported(nn.Module):
    """A file that `fasthmr export` wrote, run by its runtime on the CPU wherever its inputs are.

    It is called as the model it was made from, and cannot be looked into: no blocks, no tokens, no weights.
    """

    takes_clips, compressed, is_meta = False, True, False
    schedule = Schedule()  # whatever is merged is merged inside
    calls = frame_calls

    def run_by(self, runtime: Runtime, path: Path) -> None:
        """Take the runtime of the file at `path`."""
        self.name, self.runtime, self.interface = str(path), runtime, runtime.interface
        self.sha256, self.protect = self.interface.hashes["graph"], self.interface.coverage
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)  # where outputs go

    @property
    def precision(self) -> str:
        """The numbers that its blocks compute with."""
        return self.interface.precision

    @property
    def hashes(self) -> tuple[str, ...]:
        """Of all that it gives: its weights are no parameters."""
        return tuple(self.interface.hashes.values())

    @property
    def stack(self) -> NoReturn:
        """Raises BadInput: whatever needs blocks needs the model that the file was made from."""
        raise BadInput(f"{self.name} is an exported file, and this needs blocks: name the model that it was made from")

    def cost(self) -> NoReturn:
        """Raises BadInput: what cannot be looked into cannot be counted."""
        raise BadInput(f"{self.name} is an exported file: `fasthmr cost` counts the model that it was made from")

    def outputs(
        self, names: Sequence[str], crop: Tensor, mask: Tensor | None, condition: Tensor | None
    ) -> list[Tensor]:
        """Some outputs (B, ...) of the file. Raises BadInput as `inputs`."""
        inputs = self.inputs(crop, mask, condition)
        found = in_groups(self.runtime.run, inputs, names, self.interface.batch or len(crop))
        return [torch.from_numpy(found[name]).to(self.place.device) for name in names]

    def inputs(self, crop: Tensor, mask: Tensor | None, condition: Tensor | None) -> dict[str, Any]:
        """What the file takes, as arrays. Raises BadInput for what is missing or of another shape."""
        every, given = {"crops": crop, "masks": mask, "condition": condition}, {}
        for port in self.interface.inputs:
            value = every[port.name]
            if value is None:
                raise BadInput(f"{self.name} needs {port.name}: {port.meaning}")
            if tuple(value.shape[1:]) != port.shape[1:] or len(value) != len(crop):
                shape = ("B", *port.shape[1:])
                raise BadInput(f"{self.name}: {port.name} are {shape}, these are {tuple(value.shape)}")
            given[port.name] = np.ascontiguousarray(value.detach().float().cpu().numpy())
        return given


class ExportedModel(Exported, BodyRegressor):
    """The file of a model of a known family, or of the encoder in front of a motion decoder."""

    def __init__(self, path: Path, runtime: Runtime) -> None:
        super().__init__(runtime.interface.architecture)
        self.run_by(runtime, path)

    def forward(self, crop: Tensor, mask: Tensor | None = None, condition: Tensor | None = None) -> HMROutput:
        """As `HMRModel.forward`, except that a mask has the size of its crop."""
        return HMROutput(*self.outputs(FIELDS, crop, mask, condition))


class ExportedJoints(Exported):
    """The file of an adapter's network."""

    poses_hand = needs_condition = False
    gives_joints = True

    def __init__(self, path: Path, runtime: Runtime) -> None:
        super().__init__()
        self.run_by(runtime, path)
        self.architecture = self.interface.architecture
        height, width = self.interface.inputs[0].shape[2:]
        self.crop_size = (int(height), int(width))
        self.body = OwnJoints(f"joints of {self.architecture}", self.interface.hashes["body"])

    @property
    def adapter(self) -> Adapter:
        """Who cuts its crops. Raises BadInput where that is code of an adapter."""
        if self.interface.own_crops:
            raise BadInput(f"{self.name} has no code in it, and its crops are cut by its adapter's: name the adapter")
        found = Adapter()
        found.size = self.crop_size  # type: ignore[misc]  # of this one, and of no class
        return found

    @property
    def encoder(self) -> ExportedJoints:
        """Itself."""
        return self

    def forward(self, crop: Tensor, mask: Tensor | None = None, condition: Tensor | None = None) -> PlacedJoints:
        """As `AdaptedModel.forward`, except that a mask has the size of its crop."""
        return PlacedJoints(*self.outputs(["joints"], crop, mask, condition))

    def joints(self, output: PlacedJoints) -> Tensor:
        """As `AdaptedModel.joints`."""
        return output.joints


def load_exported(path: Path) -> Any:
    """The model of a file; raises BadInput as its runtime, and where a motion decoder does not lie beside it."""
    runtime = opened(path)
    named = {port.name for port in runtime.interface.outputs}
    if "crops" not in {port.name for port in runtime.interface.inputs}:
        raise BadInput(f"{path}: a motion decoder alone: name the file of its encoder, which lies beside it")
    if "betas" not in named:
        return ExportedJoints(path, runtime).eval()
    encoder = ExportedModel(path, runtime).eval()
    if runtime.interface.decoded_by is None:
        return encoder
    maker: Any = policy(runtime.interface.decoded_by)
    return maker.exported(encoder, path.with_stem("decoder")).eval()
