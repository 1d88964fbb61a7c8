"""What one frame with one person costs a model: counted, and timed on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.cost.macs import Cost, cost
from compress.cost.timing import peak_memory, timed
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
