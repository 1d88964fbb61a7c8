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
    """Error over cost of the steps of one recipe, in their order."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([p.gmacs for p in points], [p.mm for p in points], color=GREY, lw=1, zorder=1)
    for i, p in enumerate(points):
        colour, marker = (BLUE, "o") if i == 0 else (ORANGE, "s")
        axes.errorbar(
            p.gmacs, p.mm, [[p.mm - p.low], [p.high - p.mm]], color=colour, marker=marker, capsize=3, zorder=2
        )
        above = i % 2 == 0
        axes.annotate(
            f"{i}  {p.name}",
            (p.gmacs, p.high if above else p.low),
            textcoords="offset points",
            xytext=(0, 6 if above else -6),
            ha="center",
            va="bottom" if above else "top",
        )
    axes.margins(x=0.18, y=0.2)
    axes.set_xlim(left=0)
    axes.set(xlabel="true GMACs per frame", ylabel="MPJPE, mm")
    bare(axes)
    return svg(figure)


def layer_map(depth: int, windows: Sequence[tuple[int, int]]) -> str:
    """The blocks of the original, numbered, and under them those that are left; a merged run is one wide box."""
    figure = Figure(figsize=(6.4, 1.3), layout="constrained")
    axes = figure.add_subplot()
    for i in range(depth):
        axes.add_patch(Rectangle((i + 0.06, 1.1), 0.88, 0.7, facecolor=BLUE, alpha=0.85))
        axes.text(i + 0.5, 1.45, str(i), ha="center", va="center", color="white", fontsize=7 if depth > 20 else 9)
    starts = dict(windows)
    place = 0
    while place < depth:
        last = starts.get(place, place)
        merged = last > place
        box = Rectangle(
            (place + 0.06, 0),
            last - place + 0.88,
            0.7,
            facecolor=ORANGE if merged else BLUE,
            alpha=1 if merged else 0.85,
            hatch="//" if merged else None,
            edgecolor="white",
            lw=0,
        )
        axes.add_patch(box)
        if merged:
            axes.text((place + last + 1) / 2, 0.35, "1", ha="center", va="center", color="black", fontsize=9,
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5})  # fmt: skip
        place = last + 1
    axes.set(xlim=(0, depth), ylim=(-0.05, 1.85), yticks=[0.35, 1.45], xticks=[])
    axes.set_yticklabels(["left", "original"])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return svg(figure)


def similarity_map(similarity: Tensor) -> str:
    """Linear CKA (L, L) of the blocks' outputs."""
    figure = Figure(figsize=(4.6, 3.9), layout="constrained")
    axes = figure.add_subplot()
    values = similarity.clamp(0, 1).numpy()
    low = min(0.9, math.floor(10 * float(values.min())) / 10)  # of a trained transformer, most lie near 1
    image = axes.imshow(values, cmap="cividis", vmin=low, vmax=1, origin="lower")
    axes.set(xlabel="block", ylabel="block")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, label="linear CKA of outputs")
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
