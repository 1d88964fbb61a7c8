"""Recipes for 60 % and 40 % of the reference model's multiply-accumulates, beside a smaller model that was trained."""

from __future__ import annotations

from compress.policies.merge_layers import MergeLayers
from compress.policies.merge_tokens import MergeTokens
from compress.policy import Policy
from experiments.paper.ablation import Row, Table
from experiments.paper.finding import Finding, Rows, below, difference, rise

# (layers left, tokens kept, tokens that a block merges): shares of the multiply-accumulates spent on either
BUDGETS = {
    60: ((16, 90, 40), (12, 130, 31), (8, 192, 1)),
    40: ((10, 90, 40), (8, 110, 41), (7, 130, 31)),
}


def row(percent: int, layers: int, keep: int, per_layer: int) -> Row:
    """Greedy search, down to so many layers, then tokens around the person."""
    steps: list[Policy] = []
    if layers < 16:
        steps.append(MergeLayers(strategy="greedy", operator="drop", layers=layers))
    if keep < 192:
        steps.append(MergeTokens(keep=keep, per_layer=per_layer, partition="unprotected"))
    return Row(f"{percent} %: {layers} layers, {keep} tokens", tuple(steps))


SMALL = Row("reference-small, as trained", model="reference-small")


def best(rows: Rows) -> str:
    """The name of the recipe for the larger budget that errs least: reference-small takes about as much."""
    names = [name for name in rows if name.startswith("60 %")]
    return min(names, key=lambda name: rows[name]["mpjpe_mm"]["mean"])


TABLE = Table(
    name="budgets",
    title="Recipes for a budget of multiply-accumulates",
    question="What does a budget of 60 % or 40 % cost, and would a smaller model have been the better way?",
    rows=(
        *(row(percent, *sizes) for percent, several in BUDGETS.items() for sizes in several),
        SMALL,
    ),
    finding=Finding(
        claim="the hope that compressing beats training a smaller model",
        holds=lambda rows: below(rise(rows, best(rows), SMALL.name)),
        shows=lambda rows: (
            f"{best(rows)}, the best of its budget, is {difference(rise(rows, best(rows), SMALL.name))} from "
            "reference-small in MPJPE"
        ),
    ),
)
