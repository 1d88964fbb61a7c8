"""FastHMR Tab. 11: merging tokens with and without a person mask, before and after the decoder."""

from __future__ import annotations

from compress.policies.merge_tokens import MergeTokens
from experiments.paper.ablation import Row, Table
from experiments.paper.finding import lower
from experiments.paper.tables.tab6 import ECLM, MASK_TOME
from experiments.paper.trained import Figures, Trained


def emdb(pa_mpjpe: float, mpjpe: float, pve: float) -> Figures:
    return {"emdb": {"pa_mpjpe_mm": pa_mpjpe, "mpjpe_mm": mpjpe, "pve_mm": pve}}


BARE = Row("ECLM, ToMe", (ECLM, MergeTokens(protect="none", keep=90, per_layer=40)), paper=emdb(67.2, 98.1, 112.9))
MASKED = Row("ECLM, Mask-ToMe", (ECLM, MASK_TOME), paper=emdb(54.8, 84.0, 96.7))
BARE_DECODED, MASKED_DECODED = "ToMe + diffusion", "Mask-ToMe + diffusion"

TABLE = Table(
    name="tab11",
    title="Tab. 11, the person mask",
    question="What is it worth that no token of the person merges, and is it still, behind the decoder?",
    rows=(BARE, MASKED),
    finding=lower(
        "the paper's finding that sparing the person lowers the error, behind the decoder too",
        "the mask changes MPJPE by {}, and by {} once decoded",
        (MASKED.name, BARE.name),
        (MASKED_DECODED, BARE_DECODED),
    ),
    columns=(
        *("tokens", "frames_per_s", "times_faster", "pa_mpjpe_mm", "mpjpe_mm", "pve_mm", "mpjpe_rise_mm"),
        "protected_merged_share",
    ),
    trained=Trained(
        "protection",
        {
            "ToMe": BARE.paper,
            BARE_DECODED: emdb(51.0, 75.0, 84.2),
            "Mask-ToMe": MASKED.paper,
            MASKED_DECODED: emdb(46.7, 71.6, 82.4),
        },
        columns=("pa_mpjpe_mm", "mpjpe_mm", "pve_mm", "accel_mm_per_frame2", "mpjpe_rise_mm", "frames_per_s"),
    ),
)
