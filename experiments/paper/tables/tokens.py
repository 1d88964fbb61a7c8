"""Token policies at about equal MACs, with masks as segmenters get them wrong (FastHMR Tab. 10, 11)."""

from __future__ import annotations

from compress.policies.merge_tokens import MergeTokens
from experiments.paper.ablation import USUAL, Table, TableRow
from experiments.paper.finding import lower
from hmr.data.mask_errors import MASKS

# tokens kept -> tokens that a block merges, and tokens to keep where the rest goes at the input for as many MACs
SCHEDULES = {130: (31, 135), 90: (40, 100), 60: (44, 75)}
CLAIMED = (130, 90)  # at 60 a person often covers more patches than are kept


def rows(keep: int, per_layer: int, dropped_to: int) -> list[TableRow]:
    """ToMe, Mask-ToMe with both partitions and dropped background, each on every kind of mask that it looks at."""
    policies = {
        f"Mask-ToMe {keep}": MergeTokens(keep=keep, per_layer=per_layer),
        f"Mask-ToMe {keep}, even": MergeTokens(keep=keep, per_layer=per_layer, partition="unprotected"),
        f"drop to {dropped_to}": MergeTokens(mode="drop", keep=dropped_to),
    }
    tome = TableRow(f"ToMe {keep}", (MergeTokens(protect="none", keep=keep, per_layer=per_layer),))  # looks at no mask
    return [tome, *(TableRow(name, (policy,), masks) for name, policy in policies.items() for masks in MASKS)]


TABLE = Table(
    name="tokens",
    title="Token policies",
    question="Is a token budget better spent around the person, and what does a wrong mask cost?",
    rows=tuple(row for keep, (per_layer, dropped_to) in SCHEDULES.items() for row in rows(keep, per_layer, dropped_to)),
    columns=("masks", *USUAL),
    finding=lower(
        "the paper's finding that tokens are better spent on the person",
        f"an exact mask changes MPJPE by {{}} and {{}} at {CLAIMED[0]} and {CLAIMED[1]} tokens",
        *((f"Mask-ToMe {keep}", f"ToMe {keep}") for keep in CLAIMED),
    ),
)
