"""Figures of reports, each a pure function from numbers to SVG.

Colours are Okabe and Ito's, which people of any colour vision tell apart; what they say is said by shape or text too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from compress.search import runs_of

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#767676"
# text stays text, which scales and can be searched; the salt makes ids, and so the file, repeat
STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "fasthmr", "font.family": "sans-serif", "font.size": 10}


@dataclass(frozen=True)
class Point:
    """A model among others: what it costs and how wrong it is, with both ends of an interval (mm)."""

    name: str
    gmacs: float
    mm: float
    low: float
    high: float


def error_against_macs(points: Sequence[Point]) -> str:
    """Error over cost of the steps of one recipe, each under its number."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(points[0].mm, color=BLUE, lw=1, ls=":", zorder=1)
    axes.plot([p.gmacs for p in points], [p.mm for p in points], color=GREY, lw=1, zorder=1)
    for i, p in enumerate(points):
        colour = BLUE if i == 0 else ORANGE
        axes.errorbar(p.gmacs, p.mm, [[p.mm - p.low], [p.high - p.mm]], color=colour, capsize=4, zorder=2 + i)
        axes.plot(p.gmacs, p.mm, "o" if i == 0 else "s", color=colour, ms=15, mec="white", zorder=2 + i)
        axes.annotate(p.name, (p.gmacs, p.mm), color="white", weight="bold", ha="center", va="center", zorder=2 + i)
    axes.set_xlim(0, 1.08 * max(p.gmacs for p in points))
    low, high = min(p.low for p in points), max(p.high for p in points)
    middle, half = (low + high) / 2, max(1.0, 0.6 * (high - low))  # 2 mm at least: less is no difference worth a slope
    axes.set(xlabel="true GMACs per frame", ylabel="MPJPE, mm", ylim=(middle - half, middle + half))
    bare(axes)
    return svg(figure)


def layer_map(depth: int, windows: Sequence[tuple[int, int]]) -> str:
    """The blocks of the original, numbered, and under them those that are left; a merged run is one wide box."""
    figure = Figure(figsize=(9.6, 1.3), layout="constrained")
    axes = figure.add_subplot()
    for i in range(depth):
        box(axes, i, i, 1.1, str(i), BLUE)
    for low, high in runs_of(tuple(windows), depth):
        box(axes, low, high, 0, f"{low}–{high}" if low < high else str(low), ORANGE if low < high else BLUE)
    axes.set(xlim=(0, depth), ylim=(-0.05, 1.85), yticks=[0.35, 1.45], xticks=[])
    axes.set_yticklabels(["left", "original"])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return svg(figure)


def box(axes: matplotlib.axes.Axes, first: int, last: int, bottom: float, text: str, colour: str) -> None:
    """A block, or the one in the place of blocks `first` to `last`."""
    axes.add_patch(Rectangle((first + 0.06, bottom), last - first + 0.88, 0.7, facecolor=colour))
    middle = (first + last + 1) / 2
    axes.text(middle, bottom + 0.33, text, ha="center", va="center", color="white", weight="bold", fontsize=9)


def similarity_map(similarity: Tensor, windows: Sequence[tuple[int, int]] = ()) -> str:
    """Linear CKA (L, L) of the blocks' outputs, a frame around each run that was merged."""
    figure = Figure(figsize=(5.6, 4.4), layout="constrained")
    axes = figure.add_subplot()
    values = similarity.clamp(0, 1).numpy()
    low = min(0.9, math.floor(10 * float(values.min())) / 10)  # of a trained transformer, most lie near 1
    image = axes.imshow(values, cmap="cividis", vmin=low, vmax=1, origin="lower")
    for first, last in windows:
        side = last - first + 1
        axes.add_patch(Rectangle((first - 0.5, first - 0.5), side, side, fill=False, edgecolor=ORANGE, lw=2.5))
    axes.set(xlabel="block", ylabel="block")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, label="linear CKA of outputs")
    return svg(figure)


def error_against_depth(path: Sequence[tuple[int, float | None]], chosen: int) -> str:
    """The path of a search, (layers, error in mm or None where it is infinite); the depth that was chosen is marked.

    The axis ends at one and a half times the original's error: beyond, a model is broken, and how much does not matter.
    """
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    original = path[0][1] or 0.0
    finite = {n: mm for n, mm in path if mm is not None}
    errors = list(finite.values())
    axes.axhline(original, color=BLUE, lw=1, ls=":")
    axes.plot(list(finite), errors, "o-", color=GREY, ms=4, lw=1)
    axes.plot(chosen, finite[chosen], "s", color=ORANGE, ms=10, mec="white")
    axes.set(xlabel="layers left", ylabel="MPJPE on calib, mm", ylim=(0.97 * min(errors), 1.5 * original))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.invert_xaxis()
    bare(axes)
    return svg(figure)


def bare(axes: matplotlib.axes.Axes) -> None:
    """No frame but the two axes, and a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)


def svg(figure: Figure) -> str:
    """The <svg> element of a figure, to be put into a page."""
    stream = StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]
