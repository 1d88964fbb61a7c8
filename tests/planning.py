"""Planning and applying one step by itself, without frames."""

from __future__ import annotations

from typing import Any

from compress.context import Context
from compress.policy import Plan, Policy


def context(model: Any, judge: Any = None) -> Context:
    """The context of a step on `model`, in which choices are made by `judge`."""
    made = Context(model)
    if judge is not None:
        made.memory["judge"] = judge
    return made


def planned(step: Policy, model: Any, judge: Any = None) -> Any:
    """What a step decides for `model`."""
    return step.plan(model, context(model, judge))


def applied(plan: Plan, model: Any) -> Any:
    """`model` after `plan`."""
    return plan.apply(model, context(model))
