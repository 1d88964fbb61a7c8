"""The motion decoder of an exported model: a file that lies beside the encoder's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compress.errors import BadInput
from diffusion.model.video_decoder import VideoDecoder
from hmr.deploy.runtime import in_groups, opened


class ExportedDecoder(VideoDecoder):
    """A file that `fasthmr export` wrote beside `encoder`, run by its runtime on the CPU wherever its inputs are.

    Raises BadInput as the runtime, and where the encoder was exported with another one.
    """

    def __init__(self, path: Path, encoder: Any) -> None:
        runtime = opened(path)
        facts = runtime.interface
        if facts.hashes["graph"] != encoder.interface.hashes["decoder"]:
            raise BadInput(f"{path}: {encoder.name} was exported with another decoder: export both again")
        _, frames, width = facts.inputs[0].shape
        super().__init__(int(frames), int(width), facts.look_ahead)
        self.runtime, self.interface = runtime, facts

    def forward(self, features: Tensor, betas: Tensor, seen: Tensor | None = None) -> Tensor:
        """As `ClipDecoder`."""
        if seen is None:
            seen = features.new_ones(features.shape[:2], dtype=torch.bool)
        given = {"reading": features.float(), "betas": betas.float(), "seen": seen}
        arrays = {name: value.detach().cpu().numpy() for name, value in given.items()}
        found = in_groups(self.runtime.run, arrays, ["rotations"], self.interface.batch or len(features))
        return torch.from_numpy(found["rotations"]).to(self.place.device)
