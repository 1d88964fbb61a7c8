"""The part of a study's page about decoders: its front on videos, encoders alone and with their decoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compress.card import formatted
from experiments.reports import plots

COLUMNS = ("point", "GMACs", "decoded", "frames/s", "decoded", "mm", "decoded", "change", "Accel", "decoded")
BOTH = ("alone", "decoded")


def section(points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the page's template is given: drawings, a table and a sentence, empty where there are no points."""
    if not points:
        return {"decoded": []}
    source = points[0]["provenance"]["data"]
    how = points[0]["decoder"]
    budget = how["train"]
    spent = f"{budget['steps']} steps" if budget["steps"] else f"{budget['minutes']} minutes"
    return {
        "decoded": [line(point) for point in points],
        "decoded_columns": COLUMNS,
        "decoded_macs": drawn(points, "macs"),
        "decoded_speed": drawn(points, "frames_per_s"),
        "decoded_on": f"{source['name']}:{source['split']}, {source['frames']} frames of {source['clips']} videos; "
        f"decoders of kind {how['kind']}, {'computed' if how['kind'] == 'linear' else f'trained for {spent}'} each",
    }


def drawn(points: Sequence[dict[str, Any]], cost: str) -> str:
    """Both fronts: error over MACs, or over the time of a frame, so that on both the best is on the lower left."""

    def value(figures: dict[str, Any]) -> float:
        return figures["macs"]["true"] / 1e9 if cost == "macs" else 1000 / figures["frames_per_s"]

    names = dict(zip(BOTH, ("encoder alone", "with decoder"), strict=True))
    groups = {
        names[which]: [plots.Point(f"{p['number']}", value(p[which]), p[which]["mpjpe_mm"]["mean"]) for p in points]
        for which in BOTH
    }
    return plots.svg(plots.trades(groups, "GMACs per frame" if cost == "macs" else "ms per frame", "MPJPE, mm"))


def line(point: dict[str, Any]) -> tuple[str, ...]:
    """A row of the table."""
    one, two = (point[which] for which in BOTH)
    return (
        str(point["number"]),
        *(f"{each['macs']['true'] / 1e9:.3f}" for each in (one, two)),
        *(f"{each['frames_per_s']:.1f}" for each in (one, two)),
        *(formatted(each["mpjpe_mm"]) for each in (one, two)),
        formatted(two["mpjpe_rise_mm"], "+.1f"),
        *(formatted(each["accel_mm_per_frame2"]) for each in (one, two)),
    )
