"""Weights that two machines and two codes can agree on without sending them: a stream of their own for each key."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn


def seeded(shapes: Mapping[str, Iterable[int]]) -> dict[str, Tensor]:
    """A weight for each key and shape, of a size that keeps signals going; counters are zero."""
    return {key: torch.from_numpy(_weight(key, tuple(shape))) for key, shape in shapes.items()}


INDICES = {"hand_joint_idxs_left": range(65, 92), "hand_joint_idxs_right": range(92, 119),
           "nonhand_param_idxs": (*range(65), *range(124, 204))}  # fmt: skip
FIXED = ("bias_mask", "periods")  # what no training changes


def filled(network: nn.Module) -> nn.Module:
    """The network in evaluation mode with such weights."""
    network.load_state_dict(weights_of(network.state_dict()))
    return network.eval()


def weights_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights for a network of that state: what no training changes stays, and indices are `INDICES`."""
    found = seeded({key: value.shape for key, value in state.items()})
    for key, value in state.items():
        if key.endswith(FIXED) or not value.is_floating_point():
            found[key] = torch.tensor(INDICES.get(key.split(".")[-1], value.tolist()), dtype=value.dtype)
    return found


class FakeRig(nn.Module):
    """Stands for MHR: 20 vertices and 127 joints in cm, with quaternions, that follow all of what it is told."""

    def forward(self, shape: Tensor, parameters: Tensor, face: Tensor) -> tuple[Tensor, Tensor]:
        told = torch.cat((shape, parameters.sin(), face), 1)
        draw = np.random.RandomState(0)
        maps = [
            torch.from_numpy(draw.normal(0, n**-0.5, (told.shape[1], n)).astype(np.float32)) for n in (60, 381, 508)
        ]
        vertices, place, turn = (told @ one for one in maps)
        turn = torch.nn.functional.normalize(turn.unflatten(1, (127, 4)), dim=-1)
        state = torch.cat((40 * place.unflatten(1, (127, 3)), turn, torch.ones_like(turn[..., :1])), -1)
        return 40 * vertices.unflatten(1, (20, 3)), state


def _weight(key: str, shape: tuple[int, ...]) -> np.ndarray:
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    # RandomState, because its stream is frozen: numpy's newer generators may change theirs
    normal = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
    if key.endswith("running_var"):
        normal = 1 + 0.1 * np.abs(normal)
    elif key.endswith(
        ("init_body_pose", "init_hand_pose", "smpl_decoder.init_pose")
    ):  # near no rotation: two vectors far from parallel
        normal = 0.3 * normal + np.tile([1.0, 0, 0, 0, 1, 0], shape[-1] // 6)
    elif key.endswith("smpl_decoder.init_depth"):  # of 10 m, inverse
        normal = 0.1 + 0.01 * normal
    elif key.endswith(("init_camera.weight", "init_camera_hand.weight")):  # of somebody who is before it
        normal = 0.1 * normal + [-0.9, 0, 0]
    elif len(shape) > 1 and not key.endswith("codebook"):
        near = re.search(
            r"\.dec\w+\.weight$|^head_camera\w*\.proj\.layers\.1\.weight$", key
        )  # what estimates add up to
        normal = normal / math.sqrt(math.prod(shape[1:])) * (0.3 if near else 1)
    elif key.endswith("weight"):
        normal = 1 + 0.1 * normal
    else:
        normal = 0.1 * normal
    return normal.astype(np.float32)


def stored_pictures(height: int, width: int, count: int = 2) -> np.ndarray:
    """Pictures (B, h, w, 3) of uint8, coarse, as `pictures` enlarges them."""
    return np.random.RandomState(0).randint(0, 256, (count, height, width, 3)).astype(np.uint8)


def pictures(stored: np.ndarray, times: int = 4) -> Tensor:
    """Pictures (B, h, w, 3) uint8 as networks take them, several pixels a pixel, ImageNet-normalised: (B, 3, H, W)."""
    large = torch.from_numpy(stored).repeat_interleave(times, 1).repeat_interleave(times, 2).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (large - mean) / std


def hand() -> dict[str, np.ndarray]:
    """Arrays of MANO's layout: 16 joints that lie where a hand's might, 778 vertices around them."""
    draw = np.random.RandomState(0)
    regressor = np.zeros((16, 778))
    for joint in range(16):
        regressor[joint, draw.choice(778, 20, replace=False)] = 1 / 20
    weights = draw.random_sample((778, 16)) ** 8
    parents = (2**32 - 1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)
    return {
        "v_template": draw.normal(0, 0.05, (778, 3)),
        "shapedirs": draw.normal(0, 0.005, (778, 3, 10)),
        "posedirs": draw.normal(0, 0.001, (778, 3, 135)),
        "J_regressor": regressor,
        "weights": weights / weights.sum(1, keepdims=True),
        "kintree_table": np.array([parents, range(16)], np.int64),
        "f": draw.randint(0, 778, (1538, 3)),
    }


SMPLX_PARENTS = (
    -1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 15, 15, 15, 20, 25, 26, 20, 28, 29, 20,
    31, 32, 20, 34, 35, 20, 37, 38, 21, 40, 41, 21, 43, 44, 21, 46, 47, 21, 49, 50, 21, 52, 53,
)  # fmt: skip


def smplx_body() -> dict[str, np.ndarray]:
    """Arrays of SMPL-X's layout, of 120 vertices."""
    draw = np.random.RandomState(0)
    regressor = draw.random_sample((55, 120)) ** 8
    return {
        "v_template": draw.normal(0, 0.5, (120, 3)),
        "shapedirs": draw.normal(0, 0.05, (120, 3, 400)),
        "J_regressor": regressor / regressor.sum(1, keepdims=True),
        "kintree_table": np.array([SMPLX_PARENTS, range(55)]).astype(np.uint32),
    }
