"""`make campaign`: harm done to every command and file in all ways we know, counted in one table.

python -m tests.campaign --record FILE [--journal FILE]: each case is a line of the journal as soon as it is over, and
one that is there is not done again; the record is JSON, the table goes to standard output.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from compress.atomic import append_line, atomic_write
from compress.provenance import commit
from tests.campaign import damage, kills, strangers, system
from tests.campaign.apart import Defect

OUTCOMES = ("refused", "equal", "read", "defect")
Done = dict[tuple[str, int], str]
Row = tuple[str, int, Callable[[int], str]]  # its name, its cases, and what does one


def rows() -> Iterator[Iterator[Row]]:
    """The rows of each part of the campaign; the quick ones first."""
    for part in (strangers, damage, system, kills):
        yield part.rows()


def journalled(path: Path) -> Done:
    """(row, case) -> outcome of what is over, without those that showed a defect, which may be mended by now."""
    lines = path.read_text().splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("}")]
    return {(one["row"], one["case"]): one["outcome"] for one in found if one["outcome"] != "defect"}


def outcome(attempt: Callable[[int], str], case: int) -> tuple[str, str]:
    """How a case ends, and what is wrong."""
    try:
        return attempt(case), ""
    except Defect as error:
        return "defect", str(error)


def counted(row: str, cases: int, done: Done) -> dict[str, Any]:
    """A row of the table."""
    found = Counter(done[row, case] for case in range(cases) if (row, case) in done)
    return {"row": row, "cases": found.total(), **{name: found[name] for name in OUTCOMES}}


def table(found: list[dict[str, Any]]) -> str:
    """For people."""
    lines = [f"{'':44}{'cases':>7}" + "".join(f"{name:>9}" for name in OUTCOMES)]
    lines += [f"{one['row']:44}{one['cases']:7}" + "".join(f"{one[name]:9}" for name in OUTCOMES) for one in found]
    return "\n".join(lines) + "\n"


def total(found: list[dict[str, Any]]) -> dict[str, Any]:
    return {"row": "all", **{name: sum(one[name] for one in found) for name in ("cases", *OUTCOMES)}}


def in_turn(part: list[Row]) -> Iterator[tuple[int, Row]]:
    """The first case of each row, then the second of each, and so on: a campaign that is stopped has some of all."""
    for case in range(max((cases for _, cases, _ in part), default=0)):
        yield from ((case, row) for row in part if case < row[1])


def written(record: Path, parts: list[list[Row]], done: Done) -> list[dict[str, Any]]:
    """Write the record of what is done so far; returns its rows."""
    found = [counted(row, cases, done) for part in parts for row, cases, _ in part]
    found.append(total(found))
    atomic_write(record, json.dumps({"rows": found, "commit": commit()}, indent=1).encode())
    return found


def main() -> int:
    """The campaign; 1 where a case shows a defect."""
    asked = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    asked.add_argument("--record", type=Path, required=True)
    asked.add_argument("--journal", type=Path, default=Path("build/campaign.jsonl"))
    given = asked.parse_args()
    record, journal = given.record.absolute(), given.journal.absolute()
    torch.set_num_threads(1)
    os.environ |= {"OMP_NUM_THREADS": "1", "PIP_NO_INDEX": "1"}
    done, parts = journalled(journal), [list(part) for part in rows()]
    for part in parts:
        for case, (row, _, attempt) in in_turn(part):
            if (row, case) not in done:
                done[row, case], wrong = outcome(attempt, case)
                entry = {"row": row, "case": case, "outcome": done[row, case], "wrong": wrong}
                append_line(journal, json.dumps(entry))
                written(record, parts, done)
    found = written(record, parts, done)
    sys.stdout.write(table(found))
    return int(found[-1]["defect"] > 0)


if __name__ == "__main__":
    sys.exit(main())
