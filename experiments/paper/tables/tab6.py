"""FastHMR Tab. 6: what both merges do to speed and error, one after the other."""

from __future__ import annotations

from experiments.paper.ablation import Table, TableRow
from experiments.paper.finding import NEGLIGIBLE_MM, Finding, Rows, below, difference, every, rise
from experiments.search.study import PAPER

ECLM, MASK_TOME = PAPER
LAYERS = TableRow("ECLM", (ECLM,), paper={"emdb": {"frames_per_s": 83.3, "mpjpe_mm": 73.1}})  # speed: one RTX 3090
MERGED = TableRow("ECLM, Mask-ToMe", PAPER, paper={"emdb": {"frames_per_s": 176.5, "mpjpe_mm": 84.0}})


def faster(rows: Rows) -> bool | None:
    """Whether each merge made the model faster, by more than the original, timed as the others are, is off from 1."""
    if MERGED.name not in rows:  # ECLM left too few layers
        return None
    layers, both = (rows[row.name]["times_faster"] for row in (LAYERS, MERGED))
    gains, noise = (layers - 1, both - layers), abs(rows["original"]["times_faster"] - 1)
    return None if any(abs(gain) <= noise for gain in gains) else all(gain > 0 for gain in gains)


def shows(rows: Rows) -> str:
    last = rows.get(MERGED.name, rows[LAYERS.name])
    return (
        f"MPJPE changes by {difference(rise(rows, LAYERS.name, 'original'))} with ECLM, by "
        f"{difference(rise(rows, MERGED.name, 'original'))} with Mask-ToMe too, and merged "
        f"it runs {last['times_faster']:.2f} times as fast"
    )


TABLE = Table(
    name="tab6",
    title="Tab. 6, part after part",
    question="What do fewer layers and fewer tokens each do to speed and error?",
    rows=(LAYERS, MERGED),
    finding=Finding(
        claim="the paper's finding that both merges make it faster, the first at no error",
        holds=lambda rows: every(faster(rows), below(rise(rows, LAYERS.name, "original"), NEGLIGIBLE_MM)),
        shows=shows,
    ),
    original=TableRow("original", paper={"emdb": {"frames_per_s": 68.2, "mpjpe_mm": 73.3}}),
)
