"""Videos shared out by Ray Data, on one machine or on a cluster that is there already (`$RAY_ADDRESS`)."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compress.errors import BadInput
from hmr.video.jobs.job import RunJob, do, network_of, report_refused

WORKERS = 2  # on one machine without GPUs
ALONE = {  # settings of a Ray that is started here
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # 127.0.0.1 is the only address that it has, on whatever system
    "RAY_AUTH_TOKEN": secrets.token_hex(32),  # else it writes one to the user's home
}


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
    """As `do_all` of `hmr.video.jobs.job`, on a worker for each GPU, or on WORKERS where there is none. A Ray that is
    started here listens on 127.0.0.1 alone and reports to nobody.

    Raises BadInput where Ray is not installed, and as `do_all`.
    """
    address = os.environ.get("RAY_ADDRESS")
    for name, value in {} if address else ALONE.items():
        os.environ.setdefault(name, value)  # before it is imported
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise BadInput("--engine ray: Ray is not installed: pip install 'fasthmr[ray]'") from error
    started = not ray.is_initialized()
    if started:
        ray.init(address=address, log_to_driver=False, include_dashboard=None if address else False)
    try:
        gpus = int(ray.cluster_resources().get("GPU", 0))
        size = min(len(videos), gpus or WORKERS)
        rows = [{"video": str(path.absolute()), "out": str(out.absolute())} for path, out in videos]
        found = (
            ray.data.from_items(rows, override_num_blocks=len(rows))
            .map(
                Worker,
                fn_constructor_args=(job.model_dump_json(),),
                compute=ray.data.ActorPoolStrategy(size=size),
                num_gpus=1 if gpus else 0,
                num_cpus=0,  # else workers could take all, and nobody would hand them rows
            )
            .take_all()
        )
    finally:
        if started:
            ray.shutdown()
    found.sort(key=lambda row: row["name"])
    refused = {row["name"]: row["refusal"] for row in found if row["refusal"]}
    return report_refused([json.loads(row["result"]) for row in found if not row["refusal"]], refused)
