"""Fill the tables of README.md and docs/ from JSON in records/: `python -m experiments.paper.fill`.

A record is what a command that measures printed with `--json`, whole. Above a table, a comment names the figures behind
the name of each row, and the rows of which records they are:

    <!-- mpjpe_mm mpjpe_rise_mm of decoder:0 decoder:2-11 -->
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from compress.atomic import atomic_write
from compress.card import formatted

ROOT = Path(__file__).resolve().parents[2]
RECORDS = Path(__file__).with_name("records")
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
TABLE = re.compile(r"(<!-- ([a-z0-9_ ]+) of ([a-z0-9:\- ]+) -->\n(?:\|.*\n){2})((?:\|.*\n)+)")


def filled(page: str) -> str:
    """A page with the figures of its tables; raises ValueError where a table has more or fewer rows than it names."""
    return TABLE.sub(lambda match: match[1] + table(match[4], match[2].split(), match[3].split()), page)


def table(body: str, columns: list[str], chosen: list[str]) -> str:
    """The rows of a table, each with its own name, and with the figures of the chosen rows of records."""
    rows = [row for choice in chosen for row in rows_of(choice)]
    lines = []
    for line, row in zip(body.splitlines(), rows, strict=True):
        cells = line.strip("|").split("|")
        kept = cells[: len(cells) - len(columns)]
        lines.append("|".join(["", *kept, *(f" {figure(key, row[key])} " for key in columns), ""]) + "\n")
    return "".join(lines)


def rows_of(choice: str) -> list[dict[str, Any]]:
    """The rows that `RECORD:FIRST` or `RECORD:FIRST-LAST` names."""
    name, _, span = choice.partition(":")
    first, _, last = span.partition("-")
    rows: list[dict[str, Any]] = json.loads((RECORDS / f"{name}.json").read_bytes())["rows"]
    return rows[int(first) : int(last or first) + 1]


def figure(key: str, value: Any) -> str:
    """An interval in mm, with its sign where it is a difference, or a number."""
    if not isinstance(value, dict):
        return "-" if value is None else f"{value:.1f}"
    sign = "+" if key in ("mpjpe_rise_mm", "over_decoder_mm") else ""
    return "-" if sign and not any(value.values()) else formatted(value, f"{sign}.1f")


if __name__ == "__main__":
    for path in PAGES:
        atomic_write(path, filled(path.read_text(encoding="utf-8")).encode())
