"""FastHMR Tab. 2: ECLM with growing thresholds."""

from __future__ import annotations

from compress.policies.merge_layers import MergeLayers
from experiments.paper.ablation import Table, TableRow
from experiments.paper.finding import NEGLIGIBLE_MM, Finding, Rows, below, difference, every, rise

# threshold in mm -> MPJPE in mm on EMDB and layers left of CameraHMR's 32
PAPER = {1.0: (74.7, 27), 0.5: (73.9, 26), 0.3: (73.7, 28), 0.2: (73.6, 27), 0.1: (73.1, 26)}
THRESHOLDS_MM = (0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)


def row(mm: float) -> TableRow:
    """The paper's strategy and operator; others stand in `operators`."""
    mpjpe, layers = PAPER.get(mm, (None, None))
    figures = {"emdb": {"mpjpe_mm": mpjpe, "layers": layers}} if mpjpe and layers else {}
    return TableRow(f"window, slm, {mm} mm", (MergeLayers(operator="slm", threshold_mm=mm),), paper=figures)


PAPERS_OWN = row(0.1).name


def fewer(rows: Rows) -> bool | None:
    """Whether the paper's threshold takes any layers."""
    return rows[PAPERS_OWN]["layers"] < rows["original"]["layers"]


def shows(rows: Rows) -> str:
    left, depth = (rows[name]["layers"] for name in (PAPERS_OWN, "original"))
    change = difference(rise(rows, PAPERS_OWN, "original"))
    return f"at 0.1 mm Alg. 1 leaves {left} of {depth} layers, which changes MPJPE by {change}"


TABLE = Table(
    name="tab2",
    title="Tab. 2, layers left at a threshold",
    question="How many layers does Alg. 1 take at a threshold on the calibration split, and at what error?",
    rows=tuple(row(mm) for mm in THRESHOLDS_MM),
    finding=Finding(
        claim=f"the paper's finding that a threshold of 0.1 mm takes layers for less than {NEGLIGIBLE_MM:g} mm on test",
        holds=lambda rows: every(fewer(rows), below(rise(rows, PAPERS_OWN, "original"), NEGLIGIBLE_MM)),
        shows=shows,
    ),
    columns=("layers", "macs_true", "macs_share", "times_faster", "mpjpe_mm", "mpjpe_rise_mm"),
    original=TableRow("original", paper={"emdb": {"mpjpe_mm": 73.3, "layers": 32}}),
)
