"""What one frame with one person costs a model: counted, and timed on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.cost.macs import Cost, cost, stack_costs
from compress.cost.timing import peak_memory, time_inside, timed
from hmr.models.families.camerahmr import IMAGE_SIDE

RUNS, WARMUP = 30, 3


def frame_cost(model: Any) -> Cost:
    """Parameters and multiply-accumulates of a model without a motion decoder, on its device or meta, the networks
    beside the backbone included."""
    return cost(model, *frame(model), beside=whole_images(model))


def frame(model: Any) -> tuple[Tensor, ...]:
    """A crop (1, 3, H, W), a mask (1, H, W) and where the model takes one a condition (1, 3), all zero: no cost depends
    on what they show."""
    height, width = model.crop_size
    shapes = [(1, 3, height, width), (1, height, width), *([(1, 3)] if model.needs_condition else [])]
    device = next(model.parameters()).device
    return tuple(torch.zeros(shape, device=device) for shape in shapes)


def whole_images(model: Any) -> Mapping[str, Tensor]:
    """What CameraHMR's field-of-view network sees once a frame (1, 3, H, W), by the network's name."""
    side, device = IMAGE_SIDE, next(model.parameters()).device
    return {"fov_net": torch.zeros(1, 3, side, side, device=device)} if hasattr(model, "fov_net") else {}


def frame_calls(model: Any) -> dict[str, tuple[int, Callable[[], object]]]:
    """By part, how many frames it takes at once, and that call on empty pictures; the networks beside the backbone are
    called too."""
    inputs, beside = frame(model), whole_images(model)

    def call() -> None:
        for name, image in beside.items():
            model.get_submodule(name)(image)
        model(*inputs)

    return {"frame": (1, call)}


def stack_rows(model: Any, latency_s: float | None = None) -> list[dict[str, Any]]:
    """Parameters and MACs of each stack of a model and of the rest, as JSON values, and where a frame's `latency_s` is
    known the share of time."""
    encoder = model.encoder
    given, spent = frame(encoder), {} if latency_s is None else stack_seconds(encoder)
    rows = [asdict(part) for part in stack_costs(encoder, *given, whole=model.cost())]
    whole = max(latency_s or 0.0, sum(spent.values()))  # on a busy machine parts may take longer than the whole did
    shares = {name: seconds / whole for name, seconds in spent.items()}
    shares |= {"rest": 1 - sum(shares.values())} if shares else {}
    return [{**row, "time_share": shares.get(row["name"])} for row in rows]


@torch.no_grad()
def stack_seconds(model: Any) -> dict[str, float]:
    """Median seconds of one frame in the blocks of each stack of a model."""
    crop, mask, *condition = frame(model)
    device, tokens = crop.device, model.encode(crop, mask)
    calls = {"embed": partial(model.stack.embed, crop), "encode": partial(model.encode, crop, mask)}
    seconds = {name: median(runs) for name, runs in timed(calls, RUNS, device, WARMUP).items()}
    late = {name: list(stack.blocks) for name, stack in model.stacks.items()}
    inside = time_inside(late, partial(model.read, tokens, *condition), RUNS, device)
    return {
        "encoder": max(0.0, seconds["encode"] - seconds["embed"]),
        **{name: median(runs) for name, runs in inside.items()},
    }


def measured_cost(model: Any) -> dict[str, Any]:
    """Latency in ms and peak memory in bytes of one frame, after warm-up; a motion decoder's clip is shared out among
    its frames."""
    device, calls = next(model.parameters()).device, model.calls()
    seconds = timed({name: call for name, (_, call) in calls.items()}, RUNS, device, WARMUP)
    per_frame = sum(np.array(seconds[name]) / frames for name, (frames, _) in calls.items())  # (RUNS,)
    median, p95 = (1000 * float(np.percentile(per_frame, q)) for q in (50, 95))

    def once() -> None:
        for _, call in calls.values():
            call()

    return {
        "latency_ms": {"median": median, "p95": p95, "runs": RUNS, "batch": 1},
        "peak_memory_bytes": peak_memory(once, device),
    }
