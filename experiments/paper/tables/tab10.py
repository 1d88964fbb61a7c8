"""FastHMR Tab. 10: how many tokens a layer merges on the way to 90."""

from __future__ import annotations

from compress.policies.merge_tokens import MergeTokens
from experiments.paper.ablation import Table, TableRow
from experiments.paper.finding import lower
from experiments.paper.tables.tab6 import ECLM

# tokens that a layer merges -> MPJPE in mm on 3DPW and EMDB
PAPER = {10: (74.8, 85.3), 20: (74.7, 85.0), 40: (73.6, 84.0), 60: (73.1, 83.8), 80: (74.2, 85.3), 100: (80.2, 93.5)}
MOST = 96  # of 192: one matching takes half at most, so this is what the paper's 100 comes to


def row(per_layer: int) -> TableRow:
    """The rows went through ECLM too: 40 has the error that Tab. 6 has for both."""
    threedpw, emdb = PAPER[per_layer]
    able = min(per_layer, MOST)
    figures = {"3dpw": {"mpjpe_mm": threedpw}, "emdb": {"mpjpe_mm": emdb}}
    return TableRow(f"{able} a layer", (ECLM, MergeTokens(keep=90, per_layer=able)), paper=figures)


SLOW, CHOSEN, AT_ONCE = (row(per_layer).name for per_layer in (10, 40, 100))

TABLE = Table(
    name="tab10",
    title="Tab. 10, tokens that a layer merges",
    question="Is the way to 90 tokens better gone in few large steps or in many small ones?",
    rows=tuple(map(row, PAPER)),
    finding=lower(
        "the paper's finding that a few early steps beat both many small ones and a single one",
        f"merging {CHOSEN} is {{}} from {SLOW} and {{}} from {AT_ONCE} in MPJPE",
        (CHOSEN, SLOW),
        (CHOSEN, AT_ONCE),
    ),
    original=TableRow("original", paper={"3dpw": {"mpjpe_mm": 62.1}, "emdb": {"mpjpe_mm": 73.3}}),
)
