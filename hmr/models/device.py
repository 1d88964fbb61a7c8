"""Where models run."""

from __future__ import annotations

import os

import torch

from compress.errors import BadInput


def best_device() -> torch.device:
    """The device that $FASTHMR_DEVICE names (`fasthmr --device`), else a CUDA device where there is one, else the CPU.

    Raises BadInput where torch cannot use the named device.
    """
    name = os.environ.get("FASTHMR_DEVICE")
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise BadInput(f"device '{name}': {str(error).splitlines()[0]}") from error
    if device.type == "meta":
        raise BadInput("device 'meta' holds no values: name cpu or cuda")
    return device
