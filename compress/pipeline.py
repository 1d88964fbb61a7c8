"""From a recipe to a smaller model, in one loop: each step is planned, applied and measured.

Reading order: `compress.recipe` -> this file -> `compress.policies` -> `compress.artefact`. It knows no data set and no
command line: the frames that it is given measure, and an observer is called with progress.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from compress import artefact
from compress.card import card
from compress.context import Context, Observer, silent
from compress.errors import BadInput
from compress.frames import FrameSet, Scores
from compress.policy import ModelSize, Plan, Policy
from compress.provenance import commit, provenance, versions
from compress.recipe import Recipe


@dataclass(frozen=True)
class Compressed:
    """What a recipe made of a model.

    rows: one for the original and one for the model after each step, JSON values. model: the compressed one; `original`
    is as it was. plans: what was decided in each step.
    """

    original: Any
    model: Any
    recipe: Recipe
    plans: tuple[Plan, ...]
    rows: tuple[dict[str, Any], ...]
    provenance: dict[str, Any]
    context: Context

    @cached_property
    def result(self) -> dict[str, Any]:
        """The figures of all steps and where they come from, as JSON values."""
        return {"recipe_id": self.recipe.id, "rows": list(self.rows), "provenance": self.provenance}

    def save(self, folder: Path | str, more: Mapping[str, bytes] | None = None) -> str:
        """Write the artefact `folder`, whole or not at all, with the files of `more` in it; returns its id.

        Raises BadInput where there is something already, and `compress.errors.Unwritable`.
        """
        origin = artefact.Origin(base=self.original.base, seed=self.context.seed, commit=commit(), versions=versions())

        def beside(artefact_id: str) -> dict[str, bytes]:
            result = {"artefact": {"path": str(folder), "id": artefact_id}, **self.result}
            return {"result.json": artefact.canonical(result), **(more or {})}

        text = card(self.recipe, self.rows, self.provenance, origin.base.sizes.get("licence"))
        artefact_id = artefact.save(Path(folder), self.model, self.plans, origin, self.recipe.text, text, beside)
        self.context.forget("searches", "recover", "decoders")
        return artefact_id


def compress(
    model: Any,
    recipe: Recipe,
    *,
    calib: FrameSet | None = None,
    test: FrameSet | None = None,
    observer: Observer = silent,
) -> Compressed:
    """Do what `recipe` asks for to a copy of `model`.

    Choices are made on `calib`, results are reported on `test`; a recipe that chooses nothing on frames needs no
    `calib`, and without `test` the rows have costs only. Work that takes long keeps what it has in the cache of
    `calib` until `save`: a compression that was killed goes on from there.

    Raises BadInput, before anything is measured, where the recipe does not fit the model or the frames.
    """
    refuse_misfit(model, recipe.steps, calib, test)
    context = Context(model, calib, observer)
    original = None if test is None else test.measure(model, "original", observer)
    rows = [row("original", None, model, original, None)]
    smaller: Any = model
    for smaller in run_steps(model, recipe.steps, context):
        plan = context.plans[-1]
        now = None if test is None else test.measure(smaller, plan.label, observer)
        rows.append(row(plan.label, plan, smaller, now, original))
    source = result_provenance(context, test)
    return Compressed(model, smaller, recipe, tuple(context.plans), tuple(rows), source, context)


def run_steps(model: Any, steps: Sequence[Policy | Plan], context: Context) -> Iterator[Any]:
    """Yield the model after each step, each planned on the model before it and added to `context.plans`.

    Where a plan stands in the place of a policy, what it decided is done again. `model` stays as it is. Raises
    RuntimeError where a plan is not empty and yet changed nothing.
    """
    smaller = copy.deepcopy(model) if steps else model
    for step in steps:
        plan, before = step.plan(smaller, context), observable_state(smaller)
        context.measured.clear()
        smaller = plan.apply(smaller, context)
        if not plan.empty and observable_state(smaller) == before:
            raise RuntimeError(f"the plan of {plan.label} is not empty, and the model is as it was")
        context.plans.append(plan.model_copy(update={"measured": {**plan.measured, **context.measured}}))
        yield smaller


def run_all_steps(model: Any, steps: Sequence[Policy | Plan], context: Context) -> Any:
    """The model after all `steps`, as `run_steps`; `model` itself where there are none."""
    return deque(run_steps(model, steps, context), maxlen=1).pop() if steps else model


def refuse_misfit(model: Any, steps: Sequence[Policy], calib: FrameSet | None, test: FrameSet | None) -> None:
    """Raise BadInput where recipe, model and frames do not fit each other, before anything is measured."""
    if model.compressed:
        raise BadInput(f"{model.encoder.name} was compressed already: merges start from the original, so name that")
    size = ModelSize.of(model)
    for step in steps:
        step.check(model)
        size = step.fit(size)  # in the model that the steps before it leave
        if step.needs_calib and calib is None:
            raise BadInput(f"{step.policy} needs frames to make its choice on: give it calibration frames")
        for frames in (calib if step.needs_calib else None, test):
            if step.needs_masks and frames is not None and not frames.has_masks:
                raise BadInput(
                    f"{step.policy} protects the person and these pictures have no masks: give --masks, or masks="
                )


def observable_state(model: Any) -> tuple[object, ...]:
    """By what a changed model is recognised: its type, shapes and sums of its weights, schedule and mask threshold.

    Weights on the meta device have no sums.
    """
    state = model.state_dict()
    values = [value.double().sum() for value in state.values() if not value.is_meta]
    sums = torch.stack(values).tolist() if values else []
    return type(model), [(name, value.shape) for name, value in state.items()], sums, model.schedule, model.protect


def row(step: str, plan: Plan | None, model: Any, now: Scores | None, original: Scores | None) -> dict[str, Any]:
    """The figures after a step as JSON values; cost is per frame."""
    cost = asdict(model.cost())
    return {
        "step": step,
        "changed": plan is not None and not plan.empty,
        **{name: cost[name] for name in ("layers", "tokens", "params", "macs", "parts")},
        **({} if now is None else now.row(original)),
        "measured": plan.measured if plan else {},
    }


def result_provenance(context: Context, test: FrameSet | None) -> dict[str, Any]:
    """Where the rows come from; calib and recovery's pictures stand there where they were looked at."""
    used = context.memory
    device = next(context.original.parameters()).device
    return {
        **provenance("compress", context.original, device),
        **({} if test is None else test.provenance(context.original)),
        "calib": context.calib.provenance(context.original)["data"] if context.calib and "judge" in used else None,
        "recover": used["pictures"].provenance() if "pictures" in used else None,
    }
