"""Rows of the paper's tables as people read them: headings and cells, and in words where they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from compress.card import counted

# a row's key -> heading, and the text of a value
COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "masks": ("masks", str),
    "layers": ("layers", str),
    "tokens": ("tokens", lambda n: str(n[-1])),
    "params_thop": ("M params, thop", lambda n: f"{n / 1e6:.1f}"),
    "macs_thop": ("GMACs, thop", lambda n: f"{n / 1e9:.1f}"),
    "macs_true": ("GMACs", lambda n: f"{n / 1e9:.3f}"),
    "macs_share": ("of MACs", lambda share: f"{share:.0%}"),
    "frames_per_s": ("frames/s", lambda n: f"{n:.1f}"),
    "times_faster": ("times as fast", lambda n: f"{n:.2f}"),
    "mpjpe_mm": ("MPJPE mm", lambda mm: f"{mm:.1f}"),
    "mpjpe_rise_mm": ("rise mm", lambda mm: f"{mm:+.1f}"),
    "pa_mpjpe_mm": ("PA-MPJPE mm", lambda mm: f"{mm:.1f}"),
    "pve_mm": ("PVE mm", lambda mm: f"{mm:.1f}"),
    "accel_mm_per_frame2": ("Accel mm/frame²", lambda mm: f"{mm:.1f}"),
    "protected_merged_share": ("person merged", lambda share: f"{share:.1%}"),
    "cka": ("CKA", lambda share: f"{share:.3f}"),
}


def grid(
    columns: Sequence[str], rows: Sequence[Mapping[str, Any]], paper_model: str
) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of rows; beside a figure of ours stand the mean over frames, where rows have it, and the
    paper's figure, where one of the rows has it."""
    over_frames = {key for row in rows for key in row.get("frames_mean") or ()}
    beside = {key for row in rows for key in row["paper"]}
    headings, cells = ["row"], [[row["name"]] for row in rows]
    for key in columns:
        heading, text = COLUMNS[key]
        headings += [heading, *([f"{heading}, mean over frames"] if key in over_frames else [])]
        headings += [f"{paper_model} in the paper"] if key in beside else []
        for row, line in zip(rows, cells, strict=True):
            line.append(cell(value(row, key), text))
            if key in over_frames:
                line.append(cell((row.get("frames_mean") or {}).get(key), text))
            if key in beside:
                line.append(cell(row["paper"].get(key), text))
    return headings, cells


def value(row: Mapping[str, Any], key: str) -> Any:
    """A figure of a row; `macs_true` and its like are a row's macs by how they were counted."""
    kind = key.removeprefix("macs_")
    return row["macs"][kind] if "macs" in row and kind in row["macs"] else row.get(key)


def cell(value: Any, text: Callable[[Any], str]) -> str:
    """A value, or an interval, for people."""
    if value is None or value == []:
        return "-"
    if isinstance(value, dict):
        ends = "" if value["lo"] is None else f" [{text(value['lo'])}, {text(value['hi'])}]"
        return text(value["mean"]) + ends
    return text(value)


def measured_on(source: dict[str, Any]) -> str:
    """The frames that results are reported on and that choices were made on, in words; nothing without frames."""
    data, calib = source["data"], source["calib"]
    reported = data and f"{data['name']}:{data['split']}, {counted(data)}, 95 % t intervals over recordings"
    decided = calib and f"choices made on {calib['frames']} frames of {calib['name']}:{calib['split']}"
    parts = [part for part in (reported, decided) if part]
    return "; ".join([*parts, f"commit {source['commit'][:12]}"]) if parts else ""
