"""`fasthmr cost`: parameters, multiply-accumulates, time and memory of a model per frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from compress.cost import cost, peak_memory, timed
from compress.policy import Policy
from experiments.models import resolve_model
from experiments.provenance import provenance
from hmr.model import HMRModel
from hmr.vit import PATCH

RUNS, WARMUP = 30, 3


def model_cost(name: str, steps: Sequence[Policy] = ()) -> dict[str, Any]:
    """What `fasthmr cost NAME --json` prints, after `steps`; nothing is measured where there are no weights.

    Raises BadInput for a name that is no model and for steps that do not fit it or have to look at data.
    """
    resolved = resolve_model(name, weightless=True)
    shaped(resolved.model, steps)
    device = next(resolved.model.parameters()).device
    if device.type != "meta" and torch.cuda.is_available():
        device = torch.device("cuda")
        resolved.model.to(device)
    measured = {"latency_ms": None, "peak_memory_bytes": None}
    if device.type != "meta":
        measured = measurements(resolved.model, device)
    return {
        **asdict(cost(resolved.model, *frame(resolved.model, device))),
        **measured,
        "provenance": provenance("cost", resolved, None, None, None, device),
    }


def shaped(model: HMRModel, steps: Sequence[Policy]) -> None:
    """Give `model`, maybe on the meta device, the structure that `steps` lead to; raises BadInput as their plans."""
    for step in steps:
        step.plan(model).shape(model)


def frame(model: HMRModel, device: torch.device) -> tuple[Tensor, Tensor]:
    """A crop (1, 3, H, W) and a mask (1, H, W) that show nothing: no cost depends on what they show."""
    height, width = (n * PATCH for n in model.grid)
    return torch.zeros(1, 3, height, width, device=device), torch.zeros(1, height, width, device=device)


def measurements(model: HMRModel, device: torch.device) -> dict[str, Any]:
    """Latency in ms and peak memory in bytes of one frame, after warm-up."""
    crop, mask = frame(model, device)
    seconds = timed({"frame": lambda: model(crop, mask)}, RUNS, device, WARMUP)["frame"]
    median, p95 = (1000 * float(np.percentile(seconds, q)) for q in (50, 95))
    return {
        "latency_ms": {"median": median, "p95": p95, "runs": RUNS, "batch": len(crop)},
        "peak_memory_bytes": peak_memory(lambda: model(crop, mask), device),
    }


def cost_table(result: dict[str, Any]) -> Table:
    """The costs as people read them."""
    latency, memory = result["latency_ms"], result["peak_memory_bytes"]
    tokens = " → ".join(str(n) for n, _ in groupby(result["tokens"]))
    caption = f"per frame; {result['layers']} layers; tokens {tokens}"
    if latency:
        caption += f"\n{latency['median']:.1f} ms (median of {latency['runs']}; 95th percentile {latency['p95']:.1f})"
        caption += f", {result['provenance']['device']}, {result['provenance']['threads']} threads"
    if memory:
        caption += f"; peak memory {memory / 2**20:.0f} MiB"
    shown = Table(title=f"cost of {result['provenance']['model']['name']}", caption=caption)
    shown.add_column("part")
    for heading in ("parameters", "MACs", "linear, conv", "thop"):
        shown.add_column(heading, justify="right")
    whole = {"name": "whole model", "params": result["params"], "macs": result["macs"]}
    for part in (*result["parts"], whole):
        shown.add_row(part["name"], f"{part['params']:,}", *(f"{n:,}" for n in part["macs"].values()))
    return shown
