"""Recovery as `fasthmr compress` runs it: on rendered training pictures without a look at their poses."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.policies.recover import Approach, RecoverPlan, distil, identity
from hmr.body.model import BodyModel
from hmr.data.crop import normalised
from hmr.data.datasets import SEED, DataSpec, Frames, open_data
from hmr.home import fasthmr_home
from hmr.models.model import HMRModel
from hmr.training.distance import distance

DATA = DataSpec("synth", "train")
FRAMES = 4096  # pictures; each is drawn when a step first asks for it, and kept: 0.2 MB


class Pictures:
    """A `compress.policies.recover.Crops`: what a model is given of a data set, without a look at its poses."""

    def __init__(self, data: Frames) -> None:
        self.data = data
        self.drawn: dict[int, tuple[NDArray[Any], ...]] = {}

    def __len__(self) -> int:
        return len(self.data)

    def read(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        for i in indices:
            if i not in self.drawn:
                sample = self.data[i]
                self.drawn[i] = sample.image, sample.mask, sample.bbox_info
        images, *rest = (
            torch.from_numpy(np.stack(parts)) for parts in zip(*(self.drawn[i] for i in indices), strict=True)
        )
        return normalised(images), *rest


class Recovery:
    """A model as it is now, kept as the teacher of what will be left of it."""

    def __init__(self, model: HMRModel, body: BodyModel, spec: DataSpec = DATA, data: Frames | None = None) -> None:
        self.teacher, self.distance = copy.deepcopy(model), partial(distance, body)
        self.spec, self.crops = spec, Pictures(open_data(DATA, FRAMES) if data is None else data)
        self.folders: list[Path] = []

    def follow(self, plan: RecoverPlan, model: HMRModel, tell: Callable[[str, str, int, int], None]) -> RecoverPlan:
        """Train `model` as planned, going on where a run that was killed stopped; returns the plan, measured."""
        mine = identity(plan, model, self.teacher, self.crops, SEED)
        digest = hashlib.sha256(json.dumps(mine, sort_keys=True).encode()).hexdigest()
        self.folders.append(fasthmr_home() / "recover" / digest[:32])

        def show(now: Approach) -> None:
            word = f"step {now.step}: distance {now.distance:.3f}"
            if plan.minutes is None:
                tell("recovering", word, now.step, plan.steps or 0)
            else:
                tell("recovering", word, round(now.seconds), round(60 * plan.minutes))

        return distil(plan, model, self.teacher, self.crops, self.distance, self.folders[-1], seed=SEED, progress=show)

    def forget(self) -> None:
        """Remove all checkpoints: the weights, or what was measured of them, are safe elsewhere."""
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)
