"""python -m tests.golden.authors.camerahmr_smplx CLONE: answers of CameraHMR for SMPL-X, small, with random weights."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.golden.authors.source import fetched, keep, package, stand_in
from tests.golden.seeds import filled, pictures, stored_pictures

COMMIT = "65d11a0640d23c60f55ec82ae54298e9e7e549e0"


def network(clone: str) -> Any:
    """The authors' network of two blocks 32 wide."""
    folder = fetched(clone, COMMIT)
    stand_in("pytorch_lightning", "timm", "timm.models", "timm.models.layers")
    layers: Any = sys.modules["timm.models.layers"]
    layers.to_2tuple = lambda x: x if isinstance(x, tuple) else (x, x)
    layers.trunc_normal_ = nn.init.trunc_normal_
    for name in ("core", "core.utils", "core.heads"):
        package(name, folder / name.replace(".", "/"))
    stand_in("core.cam_model")
    constants: Any = importlib.import_module("core.constants")
    constants.TRANSFORMER_DECODER |= {
        "dim": 24, "depth": 2, "heads": 2, "mlp_dim": 40, "dim_head": 8, "context_dim": 32,
    }  # fmt: skip
    load = np.load
    np.load = lambda *_given, **_named: {"pose": np.zeros(144), "shape": np.zeros(10), "cam": np.zeros(3)}
    vit: Any = importlib.import_module("core.backbones.vit")
    head: Any = importlib.import_module("core.heads.smplx_head_cliff_with_hands")
    whole: Any = importlib.import_module("core.camerahmr_model").CameraHMR
    model = whole.__new__(whole)
    nn.Module.__init__(model)
    model.model_type = "smplx"
    model.backbone = vit.ViT((256, 192), 16, embed_dim=32, depth=2, num_heads=2, qkv_bias=True)
    model.smplx_head = head.build_smplx_head()
    np.load = load
    return filled(model)


def main(clone: str) -> None:
    model, stored = network(clone), stored_pictures(64, 64)
    side, focal = 256.0, 2**0.5 * 256
    lens = torch.tensor([[[focal, 0, side / 2], [0, focal, side / 2], [0, 0, 1]]]).repeat(2, 1, 1)
    batch = {
        "img": pictures(stored),
        "box_center": torch.full((2, 2), side / 2),
        "box_size": torch.full((2,), side),
        "img_size": torch.full((2, 2), side),
        "cam_int": lens,
    }
    params, camera, _ = model(batch)
    names = ("global_orient", "body_pose", "left_hand_pose", "right_hand_pose")
    keep(
        "camerahmr_smplx",
        f"pixelite1201/CameraHMR@{COMMIT}",
        pictures=stored,
        rotations=torch.cat([params[name] for name in names], 1),
        betas=params["betas"],
        camera=camera,
    )


if __name__ == "__main__":
    main(sys.argv[1])
