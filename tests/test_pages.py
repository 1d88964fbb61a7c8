"""Figures in the pages are those of the records, and nothing else."""

from __future__ import annotations

import re

import pytest

from experiments.pages import FILLED, PAGES, figure, filled

TABLE = """<!-- mpjpe_mm mpjpe_rise_mm of decoder:0 decoder:2-3 -->
| row | kind | MPJPE mm | over it |
|---|---|--:|--:|
| the original | as it is | 1.0 [1.0, 1.0] | +2.0 [+2.0, +2.0] |
| merged | `a` | 0 | 0 |
| decoded | b |  | ? |

| another | table |
|---|---|
| stays | 12.3 |
"""


def test_tables_are_as_the_records_have_them():
    pages = [path.read_text(encoding="utf-8") for path in PAGES]
    comments = sum(len(re.findall("<!-- .* of .* -->", page)) for page in pages)
    assert sum(len(FILLED.findall(page)) for page in pages) == comments >= 8
    for path, page in zip(PAGES, pages, strict=True):
        assert filled(page) == page, f"{path.name}: run python -m experiments.pages"


def test_figures_are_replaced_and_names_stay():
    lines = filled(TABLE).splitlines()
    assert lines[:3] + lines[6:] == TABLE.splitlines()[:3] + TABLE.splitlines()[6:]
    assert [line.split(" | ")[:2] for line in lines[3:6]] == [
        ["| the original", "as it is"],
        ["| merged", "`a`"],
        ["| decoded", "b"],
    ]
    assert lines[3].endswith("] | - |")  # the original beside itself
    assert all("[+" in line or "[-" in line for line in lines[4:6])


def test_a_table_of_other_rows_than_it_says_is_refused():
    with pytest.raises(ValueError, match="3 rows, and its comment names 2"):
        filled(TABLE.replace("2-3", "2"))


def test_figures_of_each_kind():
    assert figure("frames_per_s", 34.6) == "35"
    assert figure("pve_mm", None) == "-"
    assert figure("mpjpe_mm", {"mean": 1.26, "lo": 0.0, "hi": 2.0}) == "1.3 [0.0, 2.0]"
    assert figure("mpjpe_rise_mm", {"mean": 1.26, "lo": -0.3, "hi": 2.0}) == "+1.3 [-0.3, +2.0]"
