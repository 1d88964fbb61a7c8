"""`fasthmr paper all`: every table of the paper on one comparison, and one page that shows them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from compress.atomic import atomic_folder
from compress.card import machine
from compress.errors import BadInput
from experiments.paper.ablation import Comparison, Table, ablate, named
from experiments.paper.finding import VERDICTS
from experiments.paper.grid import grid, measured_on
from experiments.reports import plots
from experiments.reports.compression import rendered

FRAMES, CALIB_FRAMES = 512, 128  # where none are named: every table within half an hour on two cores


def ablate_all(tables: Sequence[Table], comparison: Comparison, recover_minutes: float | None = None) -> dict[str, Any]:
    """What `fasthmr paper all --json` prints. A table that cannot be made has in its place what is missing; where that
    is every table, BadInput is raised."""
    results = []
    for table in tables:
        try:
            results.append(ablate(table, comparison, recover_minutes))
        except BadInput as error:
            results.append(absent(table, str(error)))
    if all("missing" in table for table in results):
        raise BadInput(results[0]["missing"])
    return {"tables": results, "provenance": comparison.source()}


def absent(table: Table, missing: str) -> dict[str, Any]:
    """A table of which nothing was measured."""
    sentence = f"Nothing was measured: {table.finding.claim} {VERDICTS[None]}."
    return {**named(table), "missing": missing, "holds": None, "sentence": sentence}


def write(result: dict[str, Any], out: Path) -> None:
    """Write the folder `out`, whole or not at all: the page and its figures."""
    contents = {"paper.json": json.dumps(result, indent=1, allow_nan=False), "paper.html": page(result)}
    with atomic_folder(out) as folder:
        for name, content in contents.items():
            (folder / name).write_text(content, encoding="utf-8")


def page(result: dict[str, Any]) -> str:
    """The HTML, one file."""
    tables, source = result["tables"], result["provenance"]
    verdicts = [table["holds"] for table in tables]
    return rendered(
        "paper.html",
        title=f"FastHMR's tables on {source['model']['name']}",
        subtitle=f"{measured_on(source)}; {machine(source)}",
        headline=[(str(verdicts.count(verdict)), f"of {len(tables)} {words}") for verdict, words in COUNTED.items()],
        tables=[section(table) for table in tables],
        provenance=json.dumps(source, indent=1),
    )


COUNTED = {True: "findings hold here", False: "do not hold here", None: "are inconclusive"}


def section(table: dict[str, Any]) -> dict[str, Any]:
    """What the page shows of a table."""
    shown = {key: table[key] for key in ("table", "title", "question", "sentence")}
    shown["says"] = VERDICTS[table["holds"]]
    shown["verdict"] = {True: "holds", False: "fails", None: "open"}[table["holds"]]
    if "missing" in table:
        return shown | {"missing": table["missing"]}
    shown["impossible"] = table["impossible"]
    shown["grid"] = grid(table["columns"], table["rows"], table["paper_model"])
    if "similarity" in table:
        shown["figure"] = plots.similarity_map(torch.tensor(table["similarity"]))
    return shown
