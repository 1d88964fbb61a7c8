"""Rows that had to be trained: `fasthmr decoders TABLE --out` wrote them into `records/TABLE.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

Figures = Mapping[str, Mapping[str, float]]  # by data set ("any": of none), by key of a measured row, in its unit
COLUMNS = ("mpjpe_mm", "pa_mpjpe_mm", "pve_mm", "accel_mm_per_frame2", "mpjpe_rise_mm", "frames_per_s")
RECORDS = Path(str(files("experiments").joinpath("paper", "records")))


@dataclass(frozen=True)
class Trained:
    """The rows of `decoders.TABLES[table]` that belong in a table, with the paper's figures of each."""

    table: str
    rows: Mapping[str, Figures]
    columns: tuple[str, ...] = COLUMNS

    def read(self) -> dict[str, Any] | None:
        """The rows as they were measured, with the paper's figures, their run, budget and provenance; None where
        nothing was trained yet."""
        path = RECORDS / f"{self.table}.json"
        if not path.is_file():
            return None
        record = json.loads(path.read_bytes())
        data = record["provenance"]["data"]["name"]
        rows = [
            {**row, "paper": figures(self.rows[row["name"]], data)}
            for row in record["rows"]
            if row["name"] in self.rows
        ]
        return {
            "table": self.table,
            "columns": list(self.columns),
            "rows": rows,
            **{key: record[key] for key in ("run", "budget", "provenance")},
        }


def figures(paper: Figures, data: str) -> dict[str, float]:
    """The paper's figures on a data set, and those that belong to none."""
    return {**paper.get("any", {}), **paper.get(data, {})}
