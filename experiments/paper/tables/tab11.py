"""FastHMR Tab. 11: merging tokens with and without a person mask."""

from __future__ import annotations

from compress.policies.merge_tokens import MergeTokens
from experiments.paper.ablation import Figures, Table, TableRow
from experiments.paper.finding import lower
from experiments.paper.tables.tab6 import ECLM, MASK_TOME


def emdb(pa_mpjpe: float, mpjpe: float, pve: float) -> Figures:
    return {"emdb": {"pa_mpjpe_mm": pa_mpjpe, "mpjpe_mm": mpjpe, "pve_mm": pve}}


BARE = TableRow("ECLM, ToMe", (ECLM, MergeTokens(protect="none", keep=90, per_layer=40)), paper=emdb(67.2, 98.1, 112.9))
MASKED = TableRow("ECLM, Mask-ToMe", (ECLM, MASK_TOME), paper=emdb(54.8, 84.0, 96.7))

TABLE = Table(
    name="tab11",
    title="Tab. 11, the person mask",
    question="What is it worth that no token of the person merges?",
    rows=(BARE, MASKED),
    finding=lower(
        "the paper's finding that sparing the person lowers the error",
        "the mask changes MPJPE by {}",
        (MASKED.name, BARE.name),
    ),
    columns=(
        *("tokens", "frames_per_s", "times_faster", "pa_mpjpe_mm", "mpjpe_mm", "pve_mm", "mpjpe_rise_mm"),
        "protected_merged_share",
    ),
)
