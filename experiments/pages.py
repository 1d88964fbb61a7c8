"""The tables of README.md and docs/ that records fill: `python -m experiments.pages` writes their figures anew.

Above such a table a comment says which figures stand behind the name of each row, and the rows of which records they
are of, a record's own order counted from 0:

    <!-- mpjpe_mm mpjpe_rise_mm of decoder:0 decoder:2-11 -->

Names of rows, headings and all words around a table are the page's own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from compress.atomic import atomic_write

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "experiments/paper/records"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
FILLED = re.compile(r"(<!-- ([a-z0-9_ ]+) of ([a-z0-9:\- ]+) -->\n(?:\|.*\n){2})((?:\|.*\n)+)")
SIGNED = ("mpjpe_rise_mm", "over_decoder_mm")  # differences


def filled(page: str) -> str:
    """A page with the figures of its tables as the records have them.

    Raises ValueError for a table that has another number of rows than its comment names.
    """
    return FILLED.sub(lambda match: match[1] + table(match[4], match[2].split(), match[3].split()), page)


def table(body: str, columns: list[str], chosen: list[str]) -> str:
    """The rows of a table, each with its own name, and with the figures of the rows that are chosen of records."""
    names = [line.removesuffix("|").split("|")[1:] for line in body.splitlines()]
    rows = [row for choice in chosen for row in rows_of(choice)]
    if len(names) != len(rows):
        raise ValueError(f"{' '.join(chosen)}: the table has {len(names)} rows, and its comment names {len(rows)}")
    lines = []
    for cells, row in zip(names, rows, strict=True):
        kept = cells[: len(cells) - len(columns)]
        lines.append("|".join(["", *kept, *(f" {figure(key, row[key])} " for key in columns), ""]) + "\n")
    return "".join(lines)


def rows_of(choice: str) -> Iterator[dict[str, Any]]:
    """The rows that `RECORD:FIRST` or `RECORD:FIRST-LAST` names."""
    name, _, span = choice.partition(":")
    first, _, last = span.partition("-")
    yield from record(name)["rows"][int(first) : int(last or first) + 1]


@cache
def record(name: str) -> dict[str, Any]:
    """The record of that name."""
    found: dict[str, Any] = json.loads((RECORDS / f"{name}.json").read_bytes())
    return found


def figure(key: str, value: Any) -> str:
    """An interval in the record's unit (mm, mm/frame²) or a number per second; a dash for what nobody knows,
    and for the difference to oneself."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}"
    numbers = [value[part] for part in ("mean", "lo", "hi")]
    if key in SIGNED and not any(numbers):
        return "-"
    sign = "+" if key in SIGNED else ""
    mean, lo, hi = (f"{number:{sign}.1f}" for number in numbers)
    return f"{mean} [{lo}, {hi}]"


if __name__ == "__main__":
    for path in PAGES:
        atomic_write(path, filled(path.read_text(encoding="utf-8")).encode())
