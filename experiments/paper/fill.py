"""Fill the tables of README.md and docs/ from JSON in records/, and write docs/results.html from all of them:
`python -m experiments.paper.fill`.

A record is what a command that measures printed with `--json`, whole. Above a table, a comment names the figures behind
the name of each row, and the rows of which records they are:

    <!-- mpjpe_mm mpjpe_rise_mm of decoder:0 decoder:2-11 -->

A figure of the row at the same place of another record has that one's name before it, as in `real.mpjpe_mm`.
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
TABLE = re.compile(r"(<!-- ([a-z0-9_.\- ]+) of ([a-z0-9:\- ]+) -->\n(?:\|.*\n){2})((?:\|.*\n)+)")


def filled(page: str) -> str:
    """A page with the figures of its tables; raises ValueError where a table has more or fewer rows than it names."""
    return TABLE.sub(lambda match: match[1] + table(match[4], match[2].split(), match[3].split()), page)


def table(body: str, columns: list[str], chosen: list[str]) -> str:
    """The rows of a table, each with its own name, and with the figures of the chosen rows of records."""
    places = [place for choice in chosen for place in places_of(choice)]
    lines = []
    for line, (record, row) in zip(body.splitlines(), places, strict=True):
        cells = line.strip("|").split("|")
        kept = cells[: len(cells) - len(columns)]
        lines.append("|".join(["", *kept, *(f" {cell(column, record, row)} " for column in columns), ""]) + "\n")
    return "".join(lines)


def places_of(choice: str) -> list[tuple[str, int]]:
    """The record and the number of each row that `RECORD:FIRST` or `RECORD:FIRST-LAST` names."""
    record, _, span = choice.partition(":")
    first, _, last = span.partition("-")
    return [(record, row) for row in range(int(first), int(last or first) + 1)]


def cell(column: str, record: str, row: int) -> str:
    """The figure of a column, `KEY` or `RECORD.KEY`."""
    other, _, key = column.rpartition(".")
    rows: list[dict[str, Any]] = json.loads((RECORDS / f"{other or record}.json").read_bytes())["rows"]
    return figure(key, rows[row][key])


def figure(key: str, value: Any) -> str:
    """An interval in mm, with its sign where it is a difference; a share; the last of some counts; a number; words."""
    if isinstance(value, dict):
        sign = "+" if "rise" in key or "over_" in key else ""
        digits = 2 if key == "coverage" else 1  # which is a share
        return "-" if sign and not any(value.values()) else formatted(value, f"{sign}.{digits}f")
    if isinstance(value, list):
        return figure(key, value[-1])
    if value is None:
        return "-"
    if key.endswith("_share"):
        return f"{value:.0%}"
    if key.endswith("_off_mm") and not isinstance(value, str):
        return f"{value:.2g}"  # between files that should give the same
    return str(value) if isinstance(value, int | str) else f"{value:.1f}"


def main() -> None:
    """Fill every page, and write the page of results."""
    from experiments.paper import results

    for path in PAGES:
        atomic_write(path, filled(path.read_text(encoding="utf-8")).encode())
    results.write()


if __name__ == "__main__":
    main()
