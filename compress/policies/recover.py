"""Label-free recovery: after merging or pruning, a model learns the original's outputs.

The compressed model (student) follows the original's (teacher's) tokens, after some blocks and finished, and its output
on pictures without labels. FastHMR has no such step before its decoder. Blocks whose weights or inputs are no longer
the original's train, and so does everything above them, the last norm and the head. Frozen are the embedding and the
blocks below, which see what they always saw; and all modules stay in evaluation mode, so that BatchNorm keeps its
running statistics and no stochastic depth adds noise to a comparison of two functions.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar, Literal

from pydantic import Field

from compress.context import Context
from compress.cost.bfloat16 import warn_if_slow
from compress.distillation.changes import identical
from compress.distillation.training import distil, identity
from compress.policy import Compressible, MadeFor, Plan, Policy, knob
from compress.training.loop import Progress
from compress.training.task import Budget


class Learning(Budget):
    """How a recovery learns."""

    # 3e-4, at which decoders train, undid pretrained weights that merging had left nearly right; 1e-5 left them there
    lr: float = Field(3e-5, gt=0, description="learning rate after warm-up; a cosine brings it down")
    wrong_masks: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of person masks that are eroded, grown, made boxes or holed for the student",
        exclude_if=lambda share: share == 0.0,  # so that recipes without it keep their ids
    )


class Recover(Learning, Policy):
    """Distil the original into what is left of it, for `minutes` of wall clock or a number of `steps`."""

    stage: ClassVar[int] = 3
    policy: Literal["recover"] = "recover"
    steps: int | None = Field(
        None,
        ge=1,
        description="optimizer steps, not minutes: repeats to the bit on a CPU",
        json_schema_extra=knob(25, 1000, 25),
    )

    @property
    def trains(self) -> bool:
        return True

    def check(self, model: Compressible) -> None:
        """Say where bfloat16 is slow."""
        if self.precision == "bfloat16":
            warn_if_slow(next(model.parameters()).device.type)  # type: ignore[attr-defined]  # it is a module

    def plan(self, model: Any, context: Context) -> RecoverPlan:
        """The training that was asked for; none where the model is the original still."""
        budget = self.model_dump()
        if identical(model, context.original):
            budget |= {"minutes": None, "steps": 0}
        return RecoverPlan(made_for=MadeFor.of(model), **budget)


class RecoverPlan(Learning, Plan):
    """A training: what it was allowed. What it learnt are weights, so an artefact comes back without it."""

    policy: Literal["recover"] = "recover"
    steps: int | None = Field(None, ge=0, description="0: there was nothing to recover")

    @property
    def empty(self) -> bool:
        return self.steps == 0

    def describe(self) -> str:
        if self.empty:
            return "Nothing had changed, so there was nothing to recover."
        if not self.measured:
            return "The model is trained to match the original, without labels."
        apart = "{before:.3f} to {after:.3f}".format(**self.measured["distance"])
        return (
            f"{self.measured['steps']} steps in {self.measured['seconds'] / 60:.1f} minutes brought the distance to "
            f"the original from {apart}, on pictures that were held out."
        )

    def shape(self, model: Any) -> Any:
        """No structure changes. Raises as `check`."""
        self.check(model)
        return model

    def apply(self, model: Any, context: Context) -> Any:
        """Train `model`, in place, to follow the original; a training that was killed goes on from its checkpoints.
        Raises as `distil`."""
        self.check(model)
        if self.empty:
            return model
        pictures = context.pictures
        mine = identity(self, model, context.original, pictures, context.seed)

        def show(now: Progress) -> None:
            done, total = (now.step, self.steps) if self.steps else (now.seconds, 60 * (self.minutes or 0))
            detail = f"step {now.step}" + (f": distance {now.scalars['loss']:.3f}" if now.scalars else "")
            context.observer("recovering", detail, round(done), round(total))

        with context.place("recover", json.dumps(mine, sort_keys=True)) as folder:
            measured = distil(self, model, context.original, pictures, folder, seed=context.seed, observe=show)
        context.measured.update(measured)
        return model


Recover.makes = RecoverPlan
