"""One page of results, docs/results.html, and the same as JSON beside it: every table of the pages that is filled from
records, with the commands that make these, where they come from, and the smallest difference that each could show.

`python -m experiments.paper.fill` writes both. A row's anchor is its record and its place there, as in
`results.html#budgets-1`.
"""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from compress.atomic import atomic_write
from experiments.paper import fill
from experiments.paper.anew import RECORDS
from experiments.reports.compression import rendered

HTML, JSON = (fill.ROOT / "docs" / f"results.{kind}" for kind in ("html", "json"))
PAIRED = re.compile(r"rise|over_|paired")  # figures that are differences on the same frames
PARTS = ("model", "data", "body", "calib", "recover")  # of a record's provenance, as far as it has them


def results() -> dict[str, Any]:
    """All tables, as JSON values."""
    seen: set[str] = set()
    tables = [table for page in fill.PAGES for table in tables_of(page, seen)]
    used = dict.fromkeys(name for table in tables for name in table["records"])
    return {"schema": "fasthmr.results/1", "tables": tables, "records": {name: source(name) for name in used}}


def tables_of(page: Path, seen: set[str]) -> list[dict[str, Any]]:
    """The filled tables of a page; `seen` gets the anchors that are taken."""
    text, found = page.read_text(encoding="utf-8"), []
    for match in fill.TABLE.finditer(text):
        headings = re.findall(r"^#+ (.*)$", text[: match.start()], re.MULTILINE)
        columns = match[2].split()
        places = [place for choice in match[3].split() for place in fill.places_of(choice)]
        names = [cell.strip() for cell in match[1].splitlines()[1].strip("|").split("|")]
        kept = len(names) - len(columns)
        lines = [[cell.strip() for cell in line.strip("|").split("|")][:kept] for line in match[4].splitlines()]
        rows = [row(*place, line, columns, seen) for place, line in zip(places, lines, strict=True)]
        found.append(
            {
                "page": page.relative_to(fill.ROOT).as_posix(),
                "heading": headings[-1],
                "columns": names,
                "records": list(dict.fromkeys(one for one, _ in places))
                + [column.rpartition(".")[0] for column in columns if "." in column],
                "rows": rows,
                "detectable": detectable(rows),
            }
        )
        found[-1]["records"] = list(dict.fromkeys(found[-1]["records"]))
    return found


def row(record: str, place: int, names: list[str], columns: list[str], seen: set[str]) -> dict[str, Any]:
    """A row of a table, as it is shown and as it is."""
    anchor = f"{record}-{place}"
    values = {column: value(column, record, place) for column in columns}
    halves = {column: half for column, one in values.items() if (half := half_width(column, one)) is not None}
    first = anchor not in seen
    seen.add(anchor)
    return {
        "anchor": anchor,
        "first": first,
        "names": names,
        "cells": [fill.cell(column, record, place) for column in columns],
        "values": values,
        "detectable": halves,
    }


def value(column: str, record: str, place: int) -> Any:
    """What a record has in a row."""
    other, _, key = column.rpartition(".")
    return json.loads((fill.RECORDS / f"{other or record}.json").read_bytes())["rows"][place][key]


def half_width(column: str, found: Any) -> float | None:
    """Half of a paired interval's width: a difference beyond that would have been seen. None for any other figure, and
    for a row's difference from itself."""
    if not PAIRED.search(column) or not isinstance(found, dict) or found.get("lo") is None:
        return None
    return (found["hi"] - found["lo"]) / 2 or None


def detectable(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The smallest difference that a table's rows could show: (least, median, most) of each paired column, in its
    unit."""
    columns = dict.fromkeys(column for one in rows for column in one["detectable"])
    halves = {column: [one["detectable"][column] for one in rows if column in one["detectable"]] for column in columns}
    return {
        column: {"least": min(found), "median": median(found), "most": max(found)} for column, found in halves.items()
    }


def source(record: str) -> dict[str, Any]:
    """How a record is made, and what it says of where it comes from."""
    told = json.loads((fill.RECORDS / f"{record}.json").read_bytes())
    given = told.get("provenance", {})
    given = given.get("original", given)
    parts = {part: named(given[part]) for part in PARTS if given.get(part)}
    lines = RECORDS[record].lines if record in RECORDS else []  # which a test then asks for
    return {"commands": lines, "commit": given.get("commit", told.get("commit", "")), **parts}


def named(part: dict[str, Any]) -> dict[str, Any]:
    """What tells a model, a body or frames from others."""
    return {key: part[key] for key in ("name", "split", "frames", "clips", "sha256") if part.get(key) is not None}


# ---- the page


def written() -> dict[Path, str]:
    """Both files, by their place."""
    found = results()
    return {JSON: json.dumps(found, indent=1, allow_nan=False) + "\n", HTML: page(found)}


def write() -> None:
    for path, content in written().items():
        atomic_write(path, content.encode())


def page(found: dict[str, Any]) -> str:
    """The HTML, one file."""
    tables, records = found["tables"], found["records"]
    rows = sum(len(table["rows"]) for table in tables)
    shown = [{"says": says(table), "sources": [sourced(one, found) for one in table["records"]]} for table in tables]
    return rendered(
        "results.html",
        title="fasthmr: results",
        subtitle="Every table of the pages that is filled from a command's record, beside the command that makes it",
        headline=[(str(len(tables)), "tables"), (str(rows), "rows"), (str(len(records)), "records")],
        tables=[table | more for table, more in zip(tables, shown, strict=True)],
        provenance=json.dumps(records, indent=1),
    )


def says(table: dict[str, Any]) -> str:
    """The sentence about the smallest detectable difference."""
    if not table["detectable"]:
        return "Smallest detectable difference: not known, for no figure here has a paired interval."
    told = partial("{least:.1f} to {most:.1f}, median {median:.1f}, for {column}".format_map)
    parts = [told({**spread, "column": column}) for column, spread in table["detectable"].items()]
    what = "Smallest detectable difference, half of the width of the rows' 95 % paired intervals"
    return f"{what}: {'; '.join(parts)}."


def sourced(record: str, found: dict[str, Any]) -> dict[str, str]:
    """A record as the page shows it."""
    told = found["records"][record]
    frames = told.get("data", {})
    split = f":{frames['split']}" if "split" in frames else ""
    clips = f" of {frames['clips']} recordings" if "clips" in frames else ""
    data = f"{frames['name']}{split}, {frames['frames']} frames{clips}" if frames else ""
    facts = "; ".join(filter(None, [f"commit {told['commit'][:12]}", data]))
    return {"name": record, "commands": "\n".join(told["commands"]), "facts": facts}
