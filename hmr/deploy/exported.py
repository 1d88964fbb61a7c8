"""An exported file as a model: `hmr.load("model.onnx")`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from compress.errors import BadInput
from compress.stack import Schedule
from hmr.deploy.runtime import Runtime, in_groups, opened
from hmr.models.head import HMROutput
from hmr.models.regressor import BodyRegressor

FIELDS = ("global_orient", "body_pose", "betas", "camera", "features")


class ExportedModel(BodyRegressor):
    """A file that `fasthmr export` wrote, run by its runtime on the CPU wherever its inputs are.

    It is called as the model it was made from, and cannot be looked into: no blocks, no tokens, no weights.
    """

    compressed, is_meta = True, False
    schedule = Schedule()  # whatever is merged is merged inside

    def __init__(self, path: Path, runtime: Runtime) -> None:
        super().__init__(runtime.interface.architecture)
        self.name, self.runtime, self.interface = str(path), runtime, runtime.interface
        self.sha256, self.protect = self.interface.hashes["graph"], self.interface.coverage
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)  # where outputs go

    @property
    def precision(self) -> str:
        """The numbers that its blocks compute with."""
        return self.interface.precision

    @property
    def stack(self) -> NoReturn:
        """Raises BadInput: whatever needs blocks needs the model that the file was made from."""
        raise BadInput(f"{self.name} is an exported file, and this needs blocks: name the model that it was made from")

    def cost(self) -> NoReturn:
        """Raises BadInput: what cannot be looked into cannot be counted."""
        raise BadInput(f"{self.name} is an exported file: `fasthmr cost` counts the model that it was made from")

    def forward(self, crop: Tensor, mask: Tensor | None = None, condition: Tensor | None = None) -> HMROutput:
        """As `HMRModel.forward`, except that a mask has the size of its crop."""
        inputs = self.inputs(crop, mask, condition)
        found = in_groups(self.runtime.run, inputs, FIELDS, self.interface.batch or len(crop))
        return HMROutput(*(torch.from_numpy(found[name]).to(self.place.device) for name in FIELDS))

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


def load_exported(path: Path) -> ExportedModel:
    """The model of a file; raises BadInput as its runtime."""
    return ExportedModel(path, opened(path)).eval()
