"""Planning and applying one step by itself, without frames."""

from __future__ import annotations

from typing import Any

from compress.context import Context
from compress.policy import Plan, Policy


def context(model: Any, judge: Any = None, **facts: Any) -> Context:
    """The context of a step on `model`, in which choices are made by `judge`."""
    made = Context(model, **facts)
    if judge is not None:
        made.memory["judge"] = judge
    return made


def planned(step: Policy, model: Any, judge: Any = None) -> Any:
    """What a step decides for `model`."""
    return step.plan(model, context(model, judge))


def applied(plan: Plan, model: Any) -> Any:
    """`model` after `plan`."""
    return plan.apply(model, context(model))


def stepped(step: Policy, model: Any, judge: Any = None, **facts: Any) -> tuple[Any, Any]:
    """What a step decides for `model`, and the model after it."""
    shared = context(model, judge, **facts)
    plan = step.plan(model, shared)
    return plan, plan.apply(model, shared)
