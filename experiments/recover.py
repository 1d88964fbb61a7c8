"""Recovery as `fasthmr compress` runs it: on rendered training pictures without a look at their poses."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from compress.policies.recover import Approach, RecoverPlan, distil, identity
from hmr.body.model import BodyModel
from hmr.data.dataset import DataSpec, Frames
from hmr.data.datasets import SEED, open_data
from hmr.home import fasthmr_home
from hmr.models.model import HMRModel
from hmr.training.distance import distance

DATA = DataSpec("synth", "train")
FRAMES = 4096  # pictures; each is drawn when a step first asks for it, and kept: 0.2 MB


class Recovery:
    """A model as it is now, kept as the teacher of what will be left of it. It learns from `frames`, without a look at
    their labels; from FRAMES of DATA where there are none of the user's."""

    def __init__(self, model: HMRModel, body: BodyModel, frames: Frames | None = None) -> None:
        self.teacher, self.distance = copy.deepcopy(model), partial(distance, body)
        self.frames = (open_data(DATA, FRAMES) if frames is None else frames).keeping()
        self.folders: list[Path] = []

    def follow(self, plan: RecoverPlan, model: HMRModel, tell: Callable[[str, str, int, int], None]) -> RecoverPlan:
        """Train `model` as planned, going on where a run that was killed stopped; returns the plan, measured."""
        mine = identity(plan, model, self.teacher, self.frames, SEED)
        digest = hashlib.sha256(json.dumps(mine, sort_keys=True).encode()).hexdigest()
        self.folders.append(fasthmr_home() / "recover" / digest[:32])

        def show(now: Approach) -> None:
            word = f"step {now.step}: distance {now.distance:.3f}"
            if plan.minutes is None:
                tell("recovering", word, now.step, plan.steps or 0)
            else:
                tell("recovering", word, round(now.seconds), round(60 * plan.minutes))

        return distil(plan, model, self.teacher, self.frames, self.distance, self.folders[-1], seed=SEED, progress=show)

    def forget(self) -> None:
        """Remove all checkpoints: the weights, or what was measured of them, are safe elsewhere."""
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)
