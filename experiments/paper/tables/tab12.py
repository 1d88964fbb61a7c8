"""FastHMR Tab. 12: parameters and multiply-accumulates of HMR2.0, as the paper counts, and of the model at hand."""

from __future__ import annotations

from dataclasses import replace

from compress.policy import Policy
from compress.recipe import Recipe
from experiments.paper.ablation import Figures, Table, TableRow
from experiments.paper.finding import Finding, Rows
from experiments.paper.grid import COLUMNS, value
from experiments.paper.tables.tab6 import LAYERS, MASK_TOME, MERGED

WINDOW = Recipe.load("fasthmr-hmr2").steps[0]  # four layers go, as the paper's search took; which, it does not say


def counts(params: float, macs: float) -> Figures:
    return {"any": {"params_thop": params, "macs_thop": macs}}


def hmr2(name: str, steps: tuple[Policy, ...], figures: Figures) -> TableRow:
    return TableRow(name, steps, model="hmr2", paper=figures)


HMR2 = (
    hmr2("HMR2.0", (), counts(670.2e6, 122.6e9)),
    hmr2("HMR2.0, ECLM", (WINDOW,), counts(591.5e6, 107.5e9)),
    hmr2("HMR2.0, ECLM, Mask-ToMe", (WINDOW, MASK_TOME), counts(591.5e6, 52.8e9)),
)
OWN = tuple(replace(row, paper={}) for row in (LAYERS, MERGED))  # their figures are CameraHMR's


def printed(rows: Rows) -> bool:
    """Whether HMR2.0's counts are the paper's to the digit that it prints."""
    pairs = [(value(rows[row.name], key), row.paper["any"][key], COLUMNS[key][1]) for row in HMR2 for key in KEYS]
    return all(text(ours) == text(theirs) for ours, theirs, text in pairs)


def shows(rows: Rows) -> str:
    before, after = (rows[row.name]["macs"]["thop"] / 1e9 for row in (HMR2[0], HMR2[-1]))
    share = rows.get(MERGED.name, rows[LAYERS.name])["macs_share"]
    return f"HMR2.0 goes from {before:.1f} to {after:.1f} GMACs, and the model at hand to {share:.0%} of its own"


KEYS = ("params_thop", "macs_thop")
TABLE = Table(
    name="tab12",
    title="Tab. 12, parameters and multiply-accumulates",
    question="What does a frame cost? (thop counts linear and convolution layers, and GMACs every product.)",
    rows=(*OWN, *HMR2),
    finding=Finding(
        claim="the paper's count, 122.6 GMACs down to 52.8, to every digit that it prints,", holds=printed, shows=shows
    ),
    columns=("layers", "tokens", *KEYS, "macs_true", "macs_share", "mpjpe_mm", "mpjpe_rise_mm"),
    paper_model="HMR2.0",
)
