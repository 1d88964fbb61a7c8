"""Which policies there are, by name: those of this package and those that others name under an entry point.

A policy of another package stands under the entry point group `fasthmr.policies`, as `diffusion`'s does (setup.cfg).
It is imported when it is first asked for, so that a package that is broken breaks its own policy alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny

from compress.choices import nearest
from compress.errors import BadInput
from compress.policy import Plan, Policy, misuse

GROUP = "fasthmr.policies"
OURS = (
    EntryPoint("merge_layers", "compress.policies.merge_layers:MergeLayers", GROUP),
    EntryPoint("prune_width", "compress.policies.prune_width:PruneWidth", GROUP),
    EntryPoint("merge_tokens", "compress.policies.merge_tokens:MergeTokens", GROUP),
    EntryPoint("reduce_rank", "compress.policies.reduce_rank:ReduceRank", GROUP),
    EntryPoint("recover", "compress.policies.recover:Recover", GROUP),
    EntryPoint("precision", "compress.policies.precision:Precision", GROUP),
)


@cache
def entries() -> dict[str, list[EntryPoint]]:
    """Every name with the packages' classes that claim it."""
    points: dict[str, list[EntryPoint]] = {}
    for point in (*OURS, *entry_points(group=GROUP)):
        others = points.setdefault(point.name, [])
        if all(point.value != other.value for other in others):
            others.append(point)
    return points


def names() -> list[str]:
    """The names of all policies."""
    return list(entries())


def policy(name: str) -> type[Policy]:
    """The policy called `name`.

    Raises BadInput where there is none, where two packages have one of this name, and where it cannot be imported.
    """
    points = entries().get(name, [])
    if not points:
        raise BadInput(f"there is no policy '{name}': {nearest(name, names())}")
    if len(points) > 1:
        raise BadInput(f"two packages have a policy '{name}': {points[0].value} and {points[1].value}; uninstall one")
    return loaded(points[0])


def loaded(point: EntryPoint) -> type[Policy]:
    """The class of an entry point; raises BadInput where it cannot be imported or is no policy."""
    try:
        found = point.load()
    except Exception as error:  # a stranger's module may fail in any way
        raise BadInput(f"the policy '{point.name}' of {point.value} cannot be imported ({error})") from error
    if not (isinstance(found, type) and issubclass(found, Policy) and isinstance(getattr(found, "makes", None), type)):
        raise BadInput(f"the policy '{point.name}' of {point.value} is not a Policy that names the Plan it makes")
    return found


def working() -> Iterator[type[Policy]]:
    """The policies that can be used here."""
    for name in names():
        try:
            yield policy(name)
        except BadInput:
            continue


def step_of(value: Any) -> Policy:
    """The policy that JSON values stand for; raises pydantic's errors where they are none."""
    if isinstance(value, Policy):
        return value
    name = value.get("policy", "") if isinstance(value, dict) else ""
    if not isinstance(name, str) or name not in entries():
        message = f"there is no policy '{name}'" if name else "a step is a mapping of keys that names its policy"
        raise misuse("policy" if isinstance(value, dict) else "", message, nearest(str(name), names()))
    try:
        kind = policy(name)
    except BadInput as error:
        raise misuse("policy", str(error)) from error
    return kind.model_validate_json(json.dumps(value))


def policy_in(values: Any) -> type[Policy] | None:
    """The policy whose fields the JSON values of a step are; None where they name none that works here."""
    try:
        return policy(values["policy"])
    except (KeyError, TypeError, BadInput):
        return None


def plan_of(value: Any) -> Plan:
    """The plan that JSON values stand for; raises ValueError where no policy here makes such a plan."""
    if isinstance(value, Plan):
        return value
    name = value.get("policy") if isinstance(value, dict) else None
    if not isinstance(name, str) or name not in entries():
        raise ValueError(f"there is no policy {name!r} here: install the package that has it")
    return policy(name).makes.model_validate_json(json.dumps(value))


Step = Annotated[SerializeAsAny[Policy], BeforeValidator(step_of)]
AnyPlan = Annotated[SerializeAsAny[Plan], BeforeValidator(plan_of)]
