"""Strategies at equal depth for each operator of layer merging, and operators at equal depth."""

from __future__ import annotations

from compress.layers.search import Strategy
from compress.policies.merge_layers import MergeLayers, Operator
from experiments.paper.ablation import Table, TableRow
from experiments.paper.finding import lower

COMPARED: tuple[Operator, ...] = ("slm", "mean", "drop", "linear")
THRESHOLD_MM = 1.0


def rows(operator: Operator) -> list[TableRow]:
    """Alg. 1, and the other strategies down to the depth that it reaches."""
    window = TableRow(
        f"window, {operator}, {THRESHOLD_MM} mm", (MergeLayers(operator=operator, threshold_mm=THRESHOLD_MM),)
    )
    return [window, *(as_deep(strategy, operator, window) for strategy in ("cka", "greedy"))]


def as_deep(strategy: Strategy, operator: Operator, as_deep_as: TableRow) -> TableRow:
    """`layers` stands in for the depth that the other row reaches."""
    steps = (MergeLayers(strategy=strategy, operator=operator, layers=1),)
    return TableRow(f"{strategy}, {operator}, as deep as {as_deep_as.name}", steps, as_deep_as=as_deep_as.name)


STRATEGIES = {operator: rows(operator) for operator in COMPARED}
DROPPED = STRATEGIES["drop"][2].name
# At the depth that Alg. 1 reaches by leaving layers out, operators are told apart by the best search.
OPERATORS = [as_deep("greedy", operator, STRATEGIES["drop"][0]) for operator in ("slm", "mean", "linear")]
SUMMED = OPERATORS[0].name

TABLE = Table(
    name="operators",
    title="Strategies and operators at equal depth",
    question="Which search finds the layers that cost least, and which operator merges them best?",
    rows=(*(row for rows in STRATEGIES.values() for row in rows), *OPERATORS),
    finding=lower(
        "the paper's choice, that a run is merged better by slm than by leaving all but its lowest layer out,",
        "at equal depth slm is {} from drop in MPJPE",
        (SUMMED, DROPPED),
    ),
)
