"""Figures of reports, each a pure function from numbers to SVG.

Colours are Okabe and Ito's, which people of any colour vision tell apart; what they mean is shown by shape or text too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox
from torch import Tensor

from compress.layers.search import runs_of

BROKEN = 100.0  # mm from the original's joints: a model that is broken
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#767676"
PURPLE, SKY, YELLOW = "#CC79A7", "#56B4E9", "#E69F00"
WIDE = 5.6  # inches: as wide as a phone shows with letters that can be read
# text stays text, which scales and can be searched; the salt makes ids, and so the file, repeat
STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "fasthmr", "font.family": "sans-serif", "font.size": 10}


@dataclass(frozen=True)
class Point:
    """A model among others: what it costs and how wrong it is, with both ends of its interval (mm) where it has one."""

    name: str
    gmacs: float
    mm: float
    low: float | None = None
    high: float | None = None


ERROR, FIDELITY = "MPJPE", "distance to the original"  # what is drawn with labels, and without


def error_against_macs(points: Sequence[Point], error: str = ERROR) -> str:
    """Error, or distance to the original, over cost of the steps of one recipe, each under its number."""
    figure, axes = framed(WIDE, 3.6)
    axes.axhline(points[0].mm, color=BLUE, lw=1, ls=":", zorder=1)
    axes.plot([p.gmacs for p in points], [p.mm for p in points], color=GREY, lw=1, zorder=1)
    for i, p in enumerate(points):
        colour = BLUE if i == 0 else ORANGE
        if p.low is not None and p.high is not None:
            axes.errorbar(p.gmacs, p.mm, [[p.mm - p.low], [p.high - p.mm]], color=colour, capsize=4, zorder=2 + i)
        axes.plot(p.gmacs, p.mm, "o" if i == 0 else "s", color=colour, ms=15, mec="white", zorder=2 + i)
        axes.annotate(p.name, (p.gmacs, p.mm), color="white", weight="bold", ha="center", va="center", zorder=2 + i)
    axes.set_xlim(0, 1.08 * max(p.gmacs for p in points))
    heights = [mm for p in points for mm in (p.mm, p.low, p.high) if mm is not None]
    low, high = min(heights), max(heights)
    middle, half = (low + high) / 2, max(1.0, 0.6 * (high - low))  # 2 mm at least: less is no difference worth a slope
    ends = (-0.06 * 2 * half, 1.88 * half) if error == FIDELITY else (middle - half, middle + half)
    axes.set(xlabel="true GMACs per frame", ylabel=f"{error}, mm", ylim=ends)
    bare(axes)
    return svg(figure)


def layer_map(depth: int, windows: Sequence[tuple[int, int]]) -> str:
    """The blocks of the original, numbered, and under them those that are left; a merged run is one wide box, and a
    map in the place of one block has the colour of merged ones."""
    figure, axes = framed(9.6, 1.3)
    for i in range(depth):
        box(axes, i, i, 1.1, str(i), BLUE)
    replaced = {(low, high) for low, high in windows}
    for low, high in runs_of(tuple(replaced), depth):
        colour = ORANGE if (low, high) in replaced else BLUE
        box(axes, low, high, 0, f"{low}–{high}" if low < high else str(low), colour)
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
    figure, axes = framed(5.6, 4.4)
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


def error_against_depth(path: Sequence[tuple[int, float | None]], chosen: int, error: str = ERROR) -> str:
    """The path of a search, (layers, error in mm or None where it is infinite); the depth that was chosen is marked.

    The axis ends at one and a half times the original's error, and for distances to the original at BROKEN: beyond, a
    model is broken, and how much does not matter.
    """
    figure, axes = framed(WIDE, 3.6)
    original = path[0][1] or 0.0
    finite = {n: mm for n, mm in path if mm is not None}
    errors = list(finite.values())
    axes.axhline(original, color=BLUE, lw=1, ls=":")
    axes.plot(list(finite), errors, "o-", color=GREY, ms=4, lw=1)
    axes.plot(chosen, finite[chosen], "s", color=ORANGE, ms=10, mec="white")
    bottom, top = 0.97 * min(errors), 1.5 * original
    if error == FIDELITY:  # the original's own is 0, but for rounding
        top = 1.1 * max(1.0, finite[chosen], min(BROKEN, max(errors)))
        bottom = -0.03 * top
    shown = [n for n, mm in finite.items() if mm <= top]
    axes.set(xlabel="layers left", ylabel=f"{error} on calib, mm", ylim=(bottom, top))
    axes.set_xlim(max(shown) + 0.5, max(1, min(shown) - 1) - 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    bare(axes)
    return svg(figure)


@dataclass(frozen=True)
class Kind:
    """How points of one kind look."""

    marker: str
    colour: str
    filled: bool = True
    joined: bool = False
    named: bool = False


KINDS = {
    "front": Kind("o", BLUE, joined=True, named=True),
    "dominated": Kind(".", GREY),
    "infeasible": Kind("x", GREY),
    "made by hand": Kind("s", YELLOW, filled=False, named=True),
    "other models": Kind("*", PURPLE, named=True),
    "recovered": Kind("^", GREEN, filled=False),
    "encoder alone": Kind("o", BLUE, joined=True, named=True),
    "with decoder": Kind("D", ORANGE, joined=True, named=True),
}


def trades(groups: Mapping[str, Sequence[Point]], cost: str, error: str) -> Figure:
    """Error over cost of points of each of KINDS; names stand where there is room for them."""
    figure, axes = framed(WIDE, 4.4)
    for kind, points in groups.items():
        look = KINDS[kind]
        x, y = [p.gmacs for p in points], [p.mm for p in points]
        if look.joined:
            stairs = staircase(points)
            axes.step([p.gmacs for p in stairs], [p.mm for p in stairs], where="post", color=look.colour, lw=1)
        face = look.colour if look.filled else "none"
        order = 2 + look.named
        drawn: dict[str, Any] = {"s": 34, "marker": look.marker, "linewidths": 1.4, "label": kind, "zorder": order}
        if look.marker == "x":
            axes.scatter(x, y, color=look.colour, **drawn)
        else:
            axes.scatter(x, y, edgecolors=look.colour, facecolors=face, **drawn)
    axes.margins(0.08)
    axes.set(xlabel=cost, ylabel=error)
    bare(axes)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    named = [p for kind, points in groups.items() if KINDS[kind].named for p in points]
    if named:
        cropped(axes, groups)
        name(axes, named, staircase(groups.get("front", ())))
    return figure


def staircase(points: Sequence[Point]) -> list[Point]:
    """Those that no cheaper one beats, cheapest first: what is a front on one split need not be one on another."""
    stairs: list[Point] = []
    for p in sorted(points, key=lambda p: (p.gmacs, p.mm)):
        if not stairs or p.mm < stairs[-1].mm:
            stairs.append(p)
    return stairs


def cropped(axes: matplotlib.axes.Axes, groups: Mapping[str, Sequence[Point]]) -> None:
    """Leave out what is far worse than all that has a name, and show how much that is."""
    named = [p.mm for kind, points in groups.items() if KINDS[kind].named for p in points]
    every = [p.mm for points in groups.values() for p in points]
    top = max(named) + 0.5 * (max(named) - min(named))
    above = sum(mm > top for mm in every)
    if above and top > min(every):
        axes.set_ylim(min(every) - 0.08 * (top - min(every)), top)
        axes.text(1, 1.01, f"{above} more above", transform=axes.transAxes, ha="right", va="bottom", fontsize=8)


PLACES = (  # of a name beside its point: points to the right and up, and which end is there
    (0, 7, "center"), (0, -15, "center"), (8, 2, "left"), (8, -11, "left"), (-8, -4, "right"), (-7, -12, "right"),
)  # fmt: skip


def name(axes: matplotlib.axes.Axes, points: Sequence[Point], line: Sequence[Point]) -> None:
    """Write the names of points beside them, the first ones first and off the line; what has no room goes without."""
    figure = axes.get_figure()
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[arg-type]  # the root figure
    figure.draw_without_rendering()  # type: ignore[union-attr]  # places everything
    dots, corners = (axes.transData.transform([(p.gmacs, p.mm) for p in some] or [(0, 0)]) for some in (points, line))
    marks = [axes.transData.transform(np.asarray(collection.get_offsets())) for collection in axes.collections]
    taken = [Bbox.from_extents(x - 3, y - 3, x + 3, y + 3) for some in marks for x, y in some]
    lines = [Bbox.from_extents(x0, y0 - 1, x1, y0 + 1) for (x0, y0), (x1, _) in pairwise(corners)]
    lines += [Bbox.from_extents(x1 - 1, y1, x1 + 1, y0) for (_, y0), (x1, y1) in pairwise(corners)]
    for p, dot in zip(points, dots, strict=True):
        for dx, dy, side in PLACES:
            text = axes.annotate(p.name, (p.gmacs, p.mm), (dx, dy), textcoords="offset points", ha=side, fontsize=8)
            box = text.get_window_extent(renderer)
            inside = all(axes.bbox.contains(x, y) for x, y in (box.min, box.max))
            others = [*lines, *(other for other in taken if not other.contains(*dot))]
            if inside and not any(box.overlaps(other) for other in others):
                taken.append(box)
                break
            text.remove()


def growth(volumes: Sequence[float]) -> Figure:
    """Hypervolume after each trial, as a share of the last."""
    figure, axes = framed(WIDE, 2.6)
    axes.step(range(1, len(volumes) + 1), [v / (volumes[-1] or 1) for v in volumes], where="post", color=BLUE)
    axes.set(xlabel="trials", ylabel="hypervolume", ylim=(0, 1.05))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    bare(axes)
    return figure


def bands(curves: Mapping[str, np.ndarray], times: np.ndarray) -> Figure:
    """Rise of error (repeats, times) of each sampler: the median, and a band from the lowest to the highest tenth."""
    figure, axes = framed(WIDE, 3.6)
    styles = ((GREY, ":"), (BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), (PURPLE, "-"))
    for (sampler, values), (colour, dash) in zip(curves.items(), styles, strict=False):
        low, median, high = np.percentile(values, [10, 50, 90], axis=0)
        axes.fill_between(times, low, high, color=colour, alpha=0.15, lw=0)
        axes.plot(times, median, dash, color=colour, label=sampler)
    axes.set(xlabel="seconds of one core", ylabel="rise of error at equal MACs in mm")
    axes.legend(loc="upper right", frameon=False)
    bare(axes)
    return figure


LOOKS = ((BLUE, ""), (YELLOW, "//"), (GREEN, ".."), (PURPLE, "xx"), (SKY, "--"), (GREY, "++"))  # of bars


def importances(shares: Mapping[str, Mapping[str, float]]) -> Figure:
    """How much each knob matters for each objective: a bar for each, adding up to 1 in an objective."""
    knobs = list(dict.fromkeys(knob for share in shares.values() for knob in share))
    figure, axes = framed(WIDE, 0.9 + 0.45 * len(knobs))
    high = 0.8 / len(shares)
    for i, ((objective, share), (colour, hatch)) in enumerate(zip(shares.items(), LOOKS, strict=False)):
        places = [j + (i - (len(shares) - 1) / 2) * high for j in range(len(knobs))]
        axes.barh(places, [share.get(k, 0) for k in knobs], high, color=colour, hatch=hatch, edgecolor="white",
                  label=objective)  # fmt: skip
    axes.set_xlim(0, 1)
    rows_named(figure, axes, knobs, "importance", len(shares))
    return figure


def split(rows: Mapping[str, Mapping[str, float]], unit: str) -> Figure:
    """What each part costs: a bar for each row, stacked of its parts."""
    parts = list(dict.fromkeys(part for row in rows.values() for part in row))
    figure, axes = framed(WIDE, 1.0 + 0.26 * len(rows))
    left = np.zeros(len(rows))
    for part, (colour, hatch) in zip(parts, LOOKS, strict=False):
        values = np.array([row.get(part, 0.0) for row in rows.values()])
        axes.barh(range(len(rows)), values, 0.75, left, color=colour, hatch=hatch, edgecolor="white", label=part)
        left += values
    rows_named(figure, axes, list(rows), unit, 3)
    return figure


def rows_named(figure: Figure, axes: matplotlib.axes.Axes, names: Sequence[str], unit: str, columns: int) -> None:
    """Names of horizontal bars, the first at the top, and the legend below."""
    axes.set(xlabel=unit)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    bare(axes)
    figure.legend(loc="outside lower center", ncols=columns, frameon=False)


def joints(rows: Mapping[str, Mapping[str, float]], label: str) -> Figure:
    """A value (mm) of each joint in each row, as a map with a joint in each line."""
    names = list(next(iter(rows.values())))
    values = np.array([[row[joint] for row in rows.values()] for joint in names])
    figure, axes = framed(WIDE, 0.9 + 0.2 * len(names))
    image = axes.imshow(values, cmap="cividis", aspect="auto")
    axes.set_xticks(range(len(rows)), list(rows), rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), [joint.replace("_", " ") for joint in names], fontsize=8)
    figure.colorbar(image, label=label, location="bottom", shrink=0.6)
    return figure


def framed(width: float, height: float) -> tuple[Figure, matplotlib.axes.Axes]:
    """An empty figure of so many inches, and its axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


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


def png(figure: Figure) -> bytes:
    """The figure as a picture, for where no page goes."""
    stream = BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(stream, format="png", dpi=160, metadata={"Software": None})
    return stream.getvalue()
