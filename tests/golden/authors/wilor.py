"""python -m tests.golden.authors.wilor CLONE: WiLoR's answers, small, with random weights."""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from yacs.config import CfgNode

from tests.golden.authors.source import fetched, keep, package, stand_in
from tests.golden.seeds import filled, hand, pictures, stored_pictures

COMMIT = "819369a764905a26a4e80aae04bbfa9c7e4f6512"


def network(folder: Any) -> Any:
    """The authors' network of two blocks 32 wide, without what it is trained by."""
    stand_in("pytorch_lightning", "pytorch_lightning.utilities", "timm", "timm.models", "timm.models.layers")
    sys.modules["timm.models.layers"].to_2tuple = lambda x: x if isinstance(x, tuple) else (x, x)  # type: ignore[attr-defined]
    sys.modules["timm.models.layers"].trunc_normal_ = torch.nn.init.trunc_normal_  # type: ignore[attr-defined]
    for name in ("wilor", "wilor.models", "wilor.utils"):
        package(name, folder / name.replace(".", "/"))
    stand_in("wilor.utils.pylogger", "wilor.models.discriminator", "wilor.models.losses")
    for name in ("SkeletonRenderer", "MeshRenderer"):
        setattr(sys.modules["wilor.utils"], name, None)
    mano = importlib.import_module("wilor.models.mano_wrapper").MANO
    sys.modules["wilor.models"].MANO = mano  # type: ignore[attr-defined]
    vit = importlib.import_module("wilor.models.backbones.vit").ViT
    refine = importlib.import_module("wilor.models.heads.refinement_net").RefineNet
    whole = importlib.import_module("wilor.models.wilor").WiLoR
    cfg = configuration(folder)
    model = whole.__new__(whole)
    torch.nn.Module.__init__(model)
    model.cfg = cfg
    model.backbone = vit((256, 192), 16, embed_dim=32, depth=2, num_heads=2, qkv_bias=True, cfg=cfg)
    model.refine_net = refine(cfg, feat_dim=32, upscale=3)
    filled(model)
    arrays = {**hand(), "hands_mean": np.zeros(45), "hands_components": np.eye(45)}
    model.mano = mano("", data_struct=SimpleNamespace(**arrays), use_pca=False)
    return model


def configuration(folder: Any) -> CfgNode:
    np.savez(folder / "mean.npz", cam=np.zeros(3), pose=np.zeros(96), shape=np.zeros(10))
    return CfgNode(
        {
            "MODEL": {"IMAGE_SIZE": 256, "MANO_HEAD": {}, "BACKBONE": {}},
            "MANO": {"NUM_HAND_JOINTS": 15, "MEAN_PARAMS": str(folder / "mean.npz")},
            "EXTRA": {"FOCAL_LENGTH": 5000},
        }
    )


def main(clone: str) -> None:
    model = network(fetched(clone, COMMIT))
    stored = stored_pictures(64, 64)
    said = model.forward_step({"img": pictures(stored)})
    params = said["pred_mano_params"]
    keep(
        "wilor",
        f"rolpotamias/WiLoR@{COMMIT}",
        pictures=stored,
        rotations=torch.cat((params["global_orient"], params["hand_pose"]), 1),
        betas=params["betas"],
        camera=said["pred_cam"],
        joints=said["pred_keypoints_3d"],
    )


if __name__ == "__main__":
    main(sys.argv[1])
