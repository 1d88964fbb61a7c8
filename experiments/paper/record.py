"""Rows that had to be trained and do not ship: what `fasthmr decoders TABLE` wrote of them, kept in the repository."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

Figures = Mapping[str, Mapping[str, float]]  # by data set ("any": of none), by key of a measured row, in its unit
STEPS = 1000  # of a training that nobody has done yet
COLUMNS = ("mpjpe_mm", "pa_mpjpe_mm", "pve_mm", "accel_mm_per_frame2", "mpjpe_rise_mm", "frames_per_s")


@dataclass(frozen=True)
class Trained:
    """The rows of a record that belong in a table, each with the paper's figures of it.

    `table` is one of `experiments.paper.decoders.TABLES`; `vae_steps` says that its rows need VAEs of their own.
    """

    table: str
    rows: Mapping[str, Figures]
    vae_steps: bool = False
    columns: tuple[str, ...] = COLUMNS


def place(table: str) -> Path:
    """The file of a record."""
    return Path(str(files("experiments").joinpath("paper", "records", f"{table}.json")))


def read_record(trained: Trained, model: str) -> dict[str, Any]:
    """The rows with their run, budget and provenance, and the command to train them again.

    Without a record there are no rows, and `missing` says what to do; else that is None.
    """
    path = place(trained.table)
    if not path.is_file():
        how = command(trained, {}, model)
        missing = f"Not trained yet: there is no {path}; it is written, in a checkout, by `{how}`"
        return {
            "record": trained.table,
            "command": how,
            "missing": missing,
            "columns": list(trained.columns),
            "rows": [],
        }
    record = json.loads(path.read_bytes())
    data = record["provenance"]["data"]["name"]
    rows = [{**row, "paper": figures(trained.rows[row["name"]], data)} for row in record["rows"]
            if row["name"] in trained.rows]  # fmt: skip
    return {
        "record": trained.table,
        "command": command(trained, record, record["provenance"]["model"]["name"]),
        "missing": None,
        "columns": list(trained.columns),
        "rows": rows,
        **{key: record[key] for key in ("run", "budget", "provenance")},
    }


def figures(paper: Figures, data: str) -> dict[str, float]:
    """The paper's figures on a data set, and those that belong to none."""
    return {**paper.get("any", {}), **paper.get(data, {})}


def command(trained: Trained, record: Mapping[str, Any], model: str) -> str:
    """How to train rows, in a checkout: as the record was, or as nobody has yet."""
    budget = record.get("budget", {"steps": STEPS, "vae_steps": STEPS * trained.vae_steps})
    words = [f"fasthmr decoders {trained.table} --model {model} --steps {budget['steps']}"]
    if budget["vae_steps"]:
        words.append(f"--vae-steps {budget['vae_steps']}")
    if record:
        source = record["provenance"]
        words.append(f"--data {source['data']['name']}:{source['data']['split']} --recipe {source['recipe']}")
        words.append(f"--batch {budget['batch']} --precision {budget['precision']}")
    if record.get("train_frames"):
        words.append(f"--train-frames {record['train_frames']}")
    return " ".join([*words, f"--out experiments/paper/records/{trained.table}.json"])
