"""Work shared out by Ray Data, on one machine or on a cluster that is there already (`$RAY_ADDRESS`)."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from typing import Any

from compress.errors import BadInput

WORKERS = 2  # on one machine without GPUs
ALONE = {  # settings of a Ray that is started here
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # 127.0.0.1 is the only address that it has, on whatever system
    "RAY_AUTH_TOKEN": secrets.token_hex(32),  # else it writes one to the user's home
}


def shared_out(worker: type, asked: str, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What workers make of rows, in any order: a `worker(asked)` for each GPU, or WORKERS where there is none.

    `worker` has `__call__(row)`, which returns a row. A Ray that is started here listens on 127.0.0.1 alone and
    reports to nobody. Raises BadInput where Ray is not installed.
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
        found: list[dict[str, Any]] = (
            ray.data.from_items(list(rows), override_num_blocks=len(rows))
            .map(
                worker,
                fn_constructor_args=(asked,),
                compute=ray.data.ActorPoolStrategy(size=min(len(rows), gpus or WORKERS)),
                num_gpus=1 if gpus else 0,
                num_cpus=0,  # else workers could take all, and nobody would hand them rows
            )
            .take_all()
        )
    finally:
        if started:
            ray.shutdown()
    return found
