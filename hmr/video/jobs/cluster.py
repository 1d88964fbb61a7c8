"""Videos shared out among the workers of a cluster, or of this machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compress.errors import BadInput
from hmr.cluster import shared_out
from hmr.video.jobs.job import RunJob, do, network_of, report_refused


class Worker:
    """One process with its own copy of the model, which does video after video."""

    def __init__(self, job: str) -> None:
        self.job = RunJob.model_validate_json(job, strict=False)
        self.network = network_of(self.job)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row with video and out -> name, and its result or why there is none, as JSON."""
        result, refusal = None, ""
        try:
            result = do(self.job, self.network, Path(row["video"]), Path(row["out"]))
        except BadInput as error:
            refusal = str(error)
        return {"name": Path(row["video"]).name, "result": json.dumps(result), "refusal": refusal}


def on_ray(job: RunJob, videos: Sequence[tuple[Path, Path]]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """As `do_all` of `hmr.video.jobs.job`, shared out. Raises as `shared_out` and `do_all`."""
    rows = [{"video": str(path.absolute()), "out": str(out.absolute())} for path, out in videos]
    found = shared_out(Worker, job.model_dump_json(), rows)
    found.sort(key=lambda row: row["name"])
    refused = {row["name"]: row["refusal"] for row in found if row["refusal"]}
    return report_refused([json.loads(row["result"]) for row in found if not row["refusal"]], refused)
