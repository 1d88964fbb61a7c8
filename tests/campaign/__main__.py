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


def rows() -> Iterator[tuple[str, int, Callable[[int], str]]]:
    """(row, cases, what does one) of the whole campaign; the quick ones first."""
    for part in (strangers, damage, system, kills):
        yield from part.rows()


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


def main() -> int:
    """The campaign; 1 where a case shows a defect."""
    asked = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    asked.add_argument("--record", type=Path, required=True)
    asked.add_argument("--journal", type=Path, default=Path("build/campaign.jsonl"))
    given = asked.parse_args()
    record, journal = given.record.absolute(), given.journal.absolute()
    torch.set_num_threads(1)
    os.environ |= {"OMP_NUM_THREADS": "1", "PIP_NO_INDEX": "1"}
    done, found = journalled(journal), list[dict[str, Any]]()
    for row, cases, attempt in rows():
        for case in range(cases):
            if (row, case) not in done:
                done[row, case], wrong = outcome(attempt, case)
                entry = {"row": row, "case": case, "outcome": done[row, case], "wrong": wrong}
                append_line(journal, json.dumps(entry))
        found.append(counted(row, cases, done))
        sys.stderr.write(table(found[-1:]).splitlines()[1] + "\n")
        content = {"rows": [*found, total(found)], "commit": commit()}
        atomic_write(record, json.dumps(content, indent=1).encode())
    sys.stdout.write(table([*found, total(found)]))
    return int(total(found)["defect"] > 0)


if __name__ == "__main__":
    sys.exit(main())
