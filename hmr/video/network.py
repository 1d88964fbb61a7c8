"""A model on crops of any people of any frames: batches of one size, and how long its parts take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.stack import Stack, encode
from compress.tokens import Tokens
from hmr.adapters.adapted import PlacedJoints
from hmr.data.crop import normalised
from hmr.data.sample import Array
from hmr.deploy.exported import ExportedModel
from hmr.evaluation.predict import now
from hmr.media.shot import Pixels
from hmr.models.head import HMROutput
from hmr.people.finders import Mask
from hmr.video.stages import Stages


@dataclass(frozen=True)
class View:
    """One person in one frame, as a network takes them."""

    crop: Pixels  # (H, W, 3)
    mask: Mask | None
    condition: Array | None  # (3,)


class Watched:
    """A `Stack` that notes how much time lies between a block's attention and its MLP: there tokens are matched and
    merged."""

    def __init__(self, stack: Stack, device: torch.device) -> None:
        self.stack, self.device = stack, device
        self.blocks: nn.ModuleList = stack.blocks
        self.merging, self.attended = 0.0, 0.0  # s, and when the last attention ended

    def embed(self, crop: Tensor) -> Tokens:
        return self.stack.embed(crop)

    def attend(self, block: nn.Module, tokens: Tokens, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        found = self.stack.attend(block, tokens, bias)
        self.attended = now(self.device)
        return found

    def feed(self, block: nn.Module, x: Tensor) -> Tensor:
        self.merging += now(self.device) - self.attended
        return self.stack.feed(block, x)

    def finish(self, tokens: Tokens) -> Tokens:
        return self.stack.finish(tokens)


class Network:
    """A model, which sees `batch` crops at once: the last ones of a video are filled up with copies, so that shapes
    never change."""

    def __init__(self, model: Any, batch: int, stages: Stages) -> None:
        self.model, self.batch, self.stages = model.encoder, batch, stages
        self.device = next(model.parameters()).device

    @torch.no_grad()
    def __call__(self, views: Sequence[View]) -> dict[str, NDArray[np.float32]]:
        """What the encoder and its head say of at most `batch` views: arrays (B, ...) by the names of HMROutput's
        fields, or an adapter's `joints`. Raises BadInput where the model needs a mask that a view does not have."""
        full = [*views, *[views[-1]] * (self.batch - len(views))]
        with self.stages.stage("crop"):
            crops = normalised(torch.from_numpy(np.stack([view.crop for view in full])).to(self.device))
            masks, conditions = (self._stacked([getattr(v, name) for v in full]) for name in ("mask", "condition"))
        out = self._output(crops, masks, conditions)
        said = {"joints": out.joints} if isinstance(out, PlacedJoints) else vars(out)
        return {name: value[: len(views)].float().cpu().numpy() for name, value in said.items()}

    def _output(self, crops: Tensor, masks: Tensor | None, conditions: Tensor | None) -> HMROutput | PlacedJoints:
        """The output of the model, its parts timed; an exported file has none."""
        if isinstance(self.model, ExportedModel):
            with self.stages.stage("exported network"):
                whole: HMROutput = self.model(crops, masks, conditions)
                return whole
        tokens = self._encode(crops, masks)
        with self.stages.stage("head"):
            out: HMROutput | PlacedJoints = self.model.read(tokens, conditions)
            return out

    def _stacked(self, values: Sequence[NDArray[Any] | None]) -> Tensor | None:
        present = [value for value in values if value is not None]
        return torch.from_numpy(np.stack(present)).to(self.device) if len(present) == len(values) else None

    def _encode(self, crops: Tensor, masks: Tensor | None) -> Tokens:
        """As the model's own `encode`, by a stack that is watched."""
        person, stack = self.model.person(crops, masks), Watched(self.model.stack, self.device)
        begin = now(self.device)
        tokens = encode(stack, crops, person, self.model.schedule)
        seconds = now(self.device) - begin
        merging = stack.merging if any(self.model.schedule.merges) else 0.0
        self.stages.add("encoder blocks", seconds - merging, begin)
        if merging:
            self.stages.add("matching and merging", merging, begin + seconds - merging)
        return tokens
