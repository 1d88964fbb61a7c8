"""ECLM with each operator and Mask-ToMe, alone and together, beside a smaller model that was trained."""

from __future__ import annotations

from compress.policies.merge_layers import MergeLayers, Operator
from compress.policies.merge_tokens import MergeTokens
from experiments.paper.ablation import Table, TableRow
from experiments.paper.finding import Finding, Rows, below, difference, rise

COMPARED: tuple[Operator, ...] = ("slm", "mean", "drop", "linear")
THRESHOLD_MM = 5.0  # at 0.1 mm, for 32 blocks trained with stochastic depth, none of 12 without it can go
TOKENS = MergeTokens(keep=90, per_layer=40, dilate=1)
SMALL = TableRow("reference-small, as trained", model="reference-small")


def rows(operator: Operator) -> list[TableRow]:
    """Alg. 1 with an operator, without and with fewer tokens."""
    layers = MergeLayers(operator=operator, threshold_mm=THRESHOLD_MM)
    name = f"{operator} at {THRESHOLD_MM:g} mm"
    return [TableRow(name, (layers,)), TableRow(f"{name}, {TOKENS.keep} tokens", (layers, TOKENS))]


MEASURED = (TableRow(f"{TOKENS.keep} tokens", (TOKENS,)), *(row for op in COMPARED for row in rows(op)))


def best(rows: Rows) -> str:
    """The row that errs least of those that take at most the smaller model's multiply-accumulates, or else of all."""
    found = [row.name for row in MEASURED if row.name in rows] or [MEASURED[0].name]
    limit = rows[SMALL.name]["macs_share"] if SMALL.name in rows else 1.0
    cheap = [name for name in found if name in rows and rows[name]["macs_share"] <= limit]
    return min(cheap, key=lambda name: rows[name]["mpjpe_mm"]["mean"]) if cheap else found[0]


TABLE = Table(
    name="budgets",
    title="Layers, tokens and a smaller model",
    question="What do fewer layers and fewer tokens cost, and would a smaller model have been the better way?",
    rows=(*MEASURED, SMALL),
    finding=Finding(
        claim="the hope that compressing beats training a smaller model",
        holds=lambda rows: below(rise(rows, best(rows), SMALL.name)),
        shows=lambda rows: (
            f"{best(rows)} is {difference(rise(rows, best(rows), SMALL.name))} from reference-small in MPJPE"
        ),
    ),
)
