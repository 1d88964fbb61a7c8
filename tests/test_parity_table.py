"""The table of how far exported files are from their models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compress.errors import BadInput
from experiments.paper import parity as table
from tests.exported import small


def test_a_table_has_a_row_for_every_file_and_says_why_there_is_none(monkeypatch):
    def exported(model: Any, folder: Path, seen: Any, *, form: str, precision: str, **more: Any) -> dict[str, Any]:
        assert not folder.exists() and more["calib"] == ["calib"] and seen == ["test"]
        if precision == "float16":
            raise BadInput("too far off")
        batches = [{"worst_mm": 0.01, "flipped": []}, {"worst_mm": 0.02, "flipped": ["a#1"]}]
        return {"parity": {"batches": batches}, "rise_mm": None}

    monkeypatch.setattr(table, "export", exported)
    rows: Any = table.parities(small(), ["test"], ["calib"])  # type: ignore[list-item]
    assert [(row["format"], row["precision"]) for row in rows] == list(table.FILES)
    assert {row["worst_mm"] for row in rows if row["precision"] != "float16"} == {0.02}
    assert [row["flipped"] for row in rows if row["reason"] is None] == [1] * 4
    assert [row["reason"] for row in rows if row["worst_mm"] is None] == ["too far off"]
