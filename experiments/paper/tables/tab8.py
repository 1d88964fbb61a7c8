"""FastHMR Tab. 8: the decoder with and without merging before it."""

from __future__ import annotations

from experiments.paper.ablation import Table
from experiments.paper.finding import lower
from experiments.paper.trained import Trained

MERGED, ALONE = "+ diffusion decoder", "decoder without merging"
ROWS = {
    MERGED: {"3dpw": {"mpjpe_mm": 62.2}, "emdb": {"mpjpe_mm": 71.6}},
    ALONE: {"3dpw": {"mpjpe_mm": 60.3}, "emdb": {"mpjpe_mm": 72.6}},
}
LITTLE_MM = 2.0  # the paper's worse case, 3DPW, is 1.9 mm

TABLE = Table(
    name="tab8",
    title="Tab. 8, the decoder with and without merging",
    question="What does merging still cost, where the decoder comes after it?",
    finding=lower(
        f"the paper's finding that behind the decoder merging costs less than {LITTLE_MM:g} mm",
        "behind the decoder merging costs {} in MPJPE",
        (MERGED, ALONE, LITTLE_MM),
    ),
    trained=Trained("decoder", ROWS),
)
