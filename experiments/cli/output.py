"""What every command needs around its work: results on stdout, progress on stderr, a free place for --out."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from compress.atomic import occupied, refuse_unwritable
from compress.errors import BadInput

LINE_SECONDS = 30.0  # between lines of progress where stderr is no terminal
ERRORS = {  # heading of each
    "mpjpe_mm": "MPJPE mm",
    "pa_mpjpe_mm": "PA-MPJPE mm",
    "pve_mm": "PVE mm",
    "accel_mm_per_frame2": "Accel mm/frame²",
}


def print_result(result: dict[str, Any], as_json: bool, table: Callable[[dict[str, Any]], Table]) -> None:
    """A result on stdout: one JSON object, or a table for people."""
    if as_json:
        sys.stdout.write(json.dumps(result, allow_nan=False) + "\n")
        return
    # rich takes 80 columns where stdout is no terminal, and would fold the cells
    Console(width=None if sys.stdout.isatty() else 140).print(table(result))


def result_table(title: str, caption: str, headings: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    """A table for people: the first column left, the others right; brackets are no markup."""
    shown = Table(title=title, caption=escape(caption))
    for i, heading in enumerate(headings):
        shown.add_column(heading, justify="right" if i else "left")
    for row in rows:
        shown.add_row(*map(escape, row))
    return shown


def measurement_table(
    source: dict[str, Any],
    headings: Iterable[str],
    rows: Iterable[Iterable[str]],
    *,
    above: str = "",
    speed: str = "",
    intervals: str = "95 % t intervals over recordings",
) -> Table:
    """A table whose title and caption name what was measured, the lines of `above` first."""
    from compress.card import counted, machine

    data = source["data"]
    caption = f"{above}{counted(data)}; {intervals}\n{speed}{machine(source)}; seed {source['seed']}, "
    title = f"{source['model']['name']} on {data['name']}:{data['split']}"
    return result_table(title, f"{caption}commit {source['commit'][:12]}", headings, rows)


def progress_bar() -> Progress:
    """A bar on stderr, and nothing where stderr is no terminal."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    # Time left follows from the last hour: one trial of a search can take longer than rich's half a minute.
    console = Console(stderr=True)
    return Progress(*columns, console=console, speed_estimate_period=3600, disable=not sys.stderr.isatty())


def progress_callback(bar: Progress) -> Callable[[str, str, int, int], None]:
    """callback(task, detail, done, total), which updates `bar`.

    Where stderr is no terminal it writes a line every half a minute instead, so that a log shows the progress.
    """
    tasks: dict[str, TaskID] = {}
    last_line = time.monotonic()

    def update(task: str, detail: str, done: int, total: int) -> None:
        nonlocal last_line
        if bar.disable:
            if time.monotonic() - last_line > LINE_SECONDS:
                last_line = time.monotonic()
                sys.stderr.write(f"{task} {detail} {done} of {total}\n")
            return
        if task not in tasks:
            tasks[task] = bar.add_task(task)
        bar.update(tasks[task], description=escape(f"{task} {detail}"), completed=done, total=total)

    return update


def refuse_existing(out: Path) -> None:
    """Raise BadInput where `out` is a file or folder with something in it, or nothing could be written."""
    if occupied(out):
        if out.is_dir():
            raise BadInput(f"--out {out}: the folder is not empty; name another one")
        if out.stat().st_size:
            raise BadInput(f"--out {out}: the file exists; name another one or remove it")
    refuse_unwritable(out)
