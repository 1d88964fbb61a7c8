"""The table of how far exported files are from their models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compress.errors import BadInput
from experiments.paper.deployment import parity as table
from experiments.paper.deployment.parity import EMPTY, FILES, ParityRecord, measure, parities
from tests.exported import small


def exported(model: Any, folder: Path, seen: Any, *, form: str, precision: str, **more: Any) -> dict[str, Any]:
    """What an export gives, made up."""
    assert not folder.exists() and more["calib"] == ["calib"] and seen == ["test"]
    if precision == "float16":
        raise BadInput("too far off")
    batches = [{"worst_mm": 0.01, "flipped": []}, {"worst_mm": 0.02, "flipped": ["a#1"]}]
    parity = {"batches": batches}
    return {"parity": parity, "rise_mm": None, "rounding": None, "decoder": {"parity": parity}}


def test_a_table_has_a_row_for_every_file_and_says_why_there_is_none(monkeypatch):
    monkeypatch.setattr(table, "export", exported)
    rows: Any = list(parities("small", small(), FILES, ["test"], ["calib"]))  # type: ignore[list-item]
    assert [(row["format"], row["precision"]) for row in rows] == list(FILES)
    assert {(row["worst_mm"], row["decoder_mm"]) for row in rows if row["precision"] != "float16"} == {(0.02, 0.02)}
    assert [row["flipped"] for row in rows if row["reason"] is None] == [1] * 4
    assert [row["reason"] for row in rows if row["worst_mm"] is None] == ["too far off"]


def test_a_row_is_written_at_once_and_none_is_made_twice(tmp_path, monkeypatch):
    asked: list[tuple[str, str]] = []

    def some(name: str, model: Any, files: Any, *more: Any) -> Any:
        for form, precision in files:
            asked.append((form, precision))
            if len(asked) == 3:
                raise KeyboardInterrupt
            yield {"model": name, "format": form, "precision": precision, **EMPTY, "worst_mm": 0.01}

    monkeypatch.setattr(table, "parities", some)
    monkeypatch.setattr(table, "pictures", lambda *given: [[], []])
    monkeypatch.setitem(table.MADE, "small", small)
    with pytest.raises(KeyboardInterrupt):
        measure(ParityRecord(tmp_path / "parity.json", 4), "small", lambda *told: None)
    assert len(json.loads((tmp_path / "parity.json").read_text())["files"]) == 2
    measure(ParityRecord(tmp_path / "parity.json", 4), "small", lambda *told: None)
    assert asked == [*FILES[:3], *FILES[2:]]
    measure(ParityRecord(tmp_path / "parity.json", 4), "small", lambda *told: pytest.fail("it was there"))
    assert ParityRecord(tmp_path / "parity.json", 8).missing("small") == list(FILES)


def test_a_model_that_cannot_be_made_has_rows_that_say_so(tmp_path):
    record = ParityRecord(tmp_path / "parity.json", 4)
    measure(record, "mine=./missing.safetensors", lambda *told: None)
    assert {row["model"] for row in record.files} == {"mine"} and len(record.files) == len(FILES)
    assert all("there is no such file" in row["reason"] for row in record.files)


def test_a_model_has_one_row_of_all_its_files(tmp_path):
    record = ParityRecord(tmp_path / "parity.json", 4)
    for i, (form, precision) in enumerate(FILES):
        file = {"model": "small", "format": form, "precision": precision, **EMPTY, "worst_mm": 0.01 * i, "flipped": i}
        record.add({**file, "decoder_mm": 0.02 * i, "rise_mm": {"mean": 1.0}}, {})
    record.add({"model": "other", "format": "onnx", "precision": "float32", **EMPTY, "reason": "too far off"}, {})
    first, second = json.loads((tmp_path / "parity.json").read_text())["rows"]
    offs = {name: first[f"{name}_off_mm"] for name in ("onnx", "openvino", "torch", "float16", "decoder")}
    assert offs == {"onnx": 0.0, "openvino": 0.01, "torch": 0.02, "float16": 0.03, "decoder": 0.08}
    assert first["flipped"] == 3 and first["int8_rise_mm"] == {"mean": 1.0} and first["frames"] == 4
    assert second == {**dict.fromkeys(first), "model": "other", "onnx_off_mm": "refused", "flipped": 0, "frames": 4}
