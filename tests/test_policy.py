"""Plans know their model; and what stands in an artefact's id."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from compress import registry
from compress.artefact import read_plans
from compress.context import RECENT, Context
from compress.errors import BadInput
from compress.policies.merge_layers import LayerPlan, MergeLayers
from compress.policies.merge_tokens import MergeTokens, TokenPlan
from compress.policy import MadeFor, Plan
from hmr.models.model import build
from tests.planning import applied, context, planned

GRID = (16, 12)


def model(depth: int, dim: int = 64):
    with torch.device("meta"):
        return build("hmr2", {"depth": depth, "dim": dim, "heads": 2, "mlp_dim": 8})


def plans(depth: int) -> list[Plan]:
    steps = (MergeLayers(strategy="explicit", windows=((1, 2),)), MergeTokens(keep=90))
    return [planned(step, model(depth)) for step in steps]


def test_a_schedule_for_more_blocks_says_what_to_do():
    plan = planned(MergeTokens(keep=90), model(32))
    with pytest.raises(BadInput) as raised:
        applied(plan, model(28))
    assert str(raised.value) == (
        "schedule was made for 32 blocks, this model has 28: put merge_tokens after merge_layers"
    )


@pytest.mark.parametrize("act", ["shape", "apply"])
@pytest.mark.parametrize("plan", plans(5), ids=lambda plan: plan.policy)
@pytest.mark.parametrize(
    "other, words", [(model(6), "5 blocks, this model has 6"), (model(5, 32), "64 wide.* 32 wide")]
)
def test_a_plan_refuses_another_model_and_leaves_it_alone(plan, other, words, act):
    before = MadeFor.of(other)
    with pytest.raises(BadInput, match=words):
        plan.shape(other) if act == "shape" else applied(plan, other)
    assert MadeFor.of(other) == before and other.protect is None


@pytest.mark.parametrize("plan", plans(5), ids=lambda plan: plan.policy)
def test_plans_come_back_from_json(plan):
    (again,) = read_plans(Path(), f"[{plan.model_dump_json()}]".encode())
    assert again == plan and type(again) is type(plan)


def test_what_was_measured_is_not_what_was_decided():
    made = MadeFor(depth=4, dim=8, grid=GRID)
    one, two = (LayerPlan(made_for=made, windows=((1, 2),), measured={"error_mm": e}) for e in (1.0, 2.0))
    assert one != two and one.decided() == two.decided()
    assert one.decided() != LayerPlan(made_for=made, windows=((0, 1),)).decided()


@pytest.mark.parametrize(
    "change", [{"made_for": {"depth": 4.0, "dim": 8, "grid": GRID}}, {"coverage": "0"}, {"coverage": 1.0}, {"cover": 0}]
)
def test_plans_are_strict(change):
    said = {"made_for": {"depth": 4, "dim": 8, "grid": GRID}, "schedule": {"merges": []}, "coverage": None}
    TokenPlan.model_validate_json(json.dumps(said))
    with pytest.raises(ValidationError):
        TokenPlan.model_validate_json(json.dumps({**said, **change}))


@pytest.mark.parametrize("name", registry.names())
def test_every_policy_makes_a_plan_of_its_name(name):
    kind = registry.policy(name)
    assert kind.model_fields["policy"].default == kind.makes.model_fields["policy"].default == name
    assert issubclass(kind.makes, Plan)


def test_a_plan_in_the_place_of_a_policy_decides_nothing_again():
    (layers, _) = plans(5)
    assert layers.plan(model(7), context(model(7))) is layers


def test_plans_describe_themselves():
    layers, tokens = plans(5)
    assert layers.describe() == "Blocks 1 to 2 became one block, by operator slm."
    assert tokens.describe() == "Tokens merge outside of the person mask in blocks 0 to 2: 192 → 152 → 112 → 90."


@pytest.mark.parametrize(
    "content",
    [b"", b"[", b"\xff", b"7", b"{}", b"[1]", b"[{}]", b'["policy"]', b'[{"policy": "fold"}]', b'[{"policy": []}]'],
)
def test_what_is_no_list_of_plans_is_told(content):
    with pytest.raises(BadInput, match=r"plan\.json: not a list of plans"):
        read_plans(Path(), content)


def test_what_is_remembered_for_plans_is_bounded_and_what_is_for_all_stays():
    every, made = Context(None), []

    def ask(key: str, plan: int | None) -> int:
        mine: Any = every.fresh()
        mine.plans[:] = [] if plan is None else [SimpleNamespace(decided=lambda: plan)]

        def make() -> int:
            made.append((key, plan))
            return len(made)

        return mine.remembered(key, make)

    first = ask("scores", None)
    for plan in range(3 * RECENT):
        assert ask("units", plan) == ask("units", plan)
        ask("units", 0)  # what is asked for again and again stays
    assert made == [("scores", None), *(("units", plan) for plan in range(3 * RECENT))]
    assert ask("scores", None) == first and len(every.memory) == RECENT + 1
    ask("units", 1)
    assert made[-1] == ("units", 1)  # forgotten, so made again
