"""Weights that two machines and two codes can agree on without sending them: a stream of their own for each key."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor


def seeded(shapes: Mapping[str, Iterable[int]]) -> dict[str, Tensor]:
    """A weight for each key and shape, of a size that keeps signals going; counters are zero."""
    return {key: torch.from_numpy(_weight(key, tuple(shape))) for key, shape in shapes.items()}


def _weight(key: str, shape: tuple[int, ...]) -> np.ndarray:
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    # RandomState, because its stream is frozen: numpy's newer generators may change theirs
    normal = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
    if key.endswith("running_var"):
        normal = 1 + 0.1 * np.abs(normal)
    elif key.endswith(("init_body_pose", "init_hand_pose")):  # near no rotation: two vectors far from parallel
        normal = 0.3 * normal + np.tile([1.0, 0, 0, 0, 1, 0], shape[1] // 6)
    elif len(shape) > 1 and not key.endswith("codebook"):
        normal = normal / math.sqrt(math.prod(shape[1:])) * (0.3 if re.search(r"\.dec\w+\.weight$", key) else 1)
    elif key.endswith("weight"):
        normal = 1 + 0.1 * normal
    else:
        normal = 0.1 * normal
    return normal.astype(np.float32)


def pictures(stored: np.ndarray) -> Tensor:
    """Pictures (B, h, w, 3) uint8 as networks take them (B, 3, 4h, 4w): four pixels a pixel, ImageNet-normalised."""
    large = torch.from_numpy(stored).repeat_interleave(4, 1).repeat_interleave(4, 2).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (large - mean) / std
