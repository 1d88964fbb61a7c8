"""python -m tests.golden.authors.multi_hmr MULTIHMR DINOV2: Multi-HMR's answers for the best patch of two pictures,
small, with random weights. Both arguments are clones."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.golden.authors.source import fetched, keep, stand_in
from tests.golden.seeds import filled, pictures, stored_pictures

COMMIT = "651fb411e1cbcc626aaa5f38805ecab9cc891f7a"
DINOV2 = "b8931f7bf91576930313be2c6d6af376033b35f0"


def dinov2(clone: str) -> Any:
    """The authors' backbone: two blocks 32 wide, whose positions were learned on 5 x 5 patches."""
    fetched(clone, DINOV2)
    vit = importlib.import_module("dinov2.models.vision_transformer").DinoVisionTransformer
    return vit(70, 14, embed_dim=32, depth=2, num_heads=2, init_values=1.0, block_chunks=0)


class NoBody(nn.Module):
    """In the place of the body, which is nobody's to copy."""

    def forward(self, *_given: Any, **_named: Any) -> dict[str, Any]:
        return {}


def network(clone: str, encoder: Any) -> Any:
    """The authors' network for 8 x 8 patches."""
    fetched(clone, COMMIT)
    stand_in("utils.render", "utils.training", "utils.color", "trimesh", "pyrender")
    np.load = lambda *_given, **_named: {"pose": np.zeros(144), "shape": np.zeros(10), "cam": np.zeros(3)}
    torch.hub.load = lambda *_given, **_named: encoder
    stand_in("blocks.smpl_layer")
    module = importlib.import_module("model")
    model = module.Model.__new__(module.Model)
    nn.Module.__init__(model)
    model.img_size, model.nearness, model.clip_dist, model.fovn = 112, True, (True,), 60
    model.num_betas, model.nrot, model.patch_size = 10, 53, 14
    model.backbone = module.Dinov2Backbone("small")
    model.camera = module.FourierPositionEncoding(n=3, num_bands=16, max_resolution=64)
    model.camera_embed_dim = 99
    model.mlp_classif, model.mlp_offset = (module.regression_mlp([32, 32, n]) for n in (1, 2))
    model.x_attention_head = module.HPH(
        num_body_joints=52, context_dim=32 + 99, dim=24, depth=2, heads=2, mlp_dim=40, dim_head=8, at_token_res=8
    )
    model.smpl_layer = nn.ModuleDict({"neutral_10": NoBody()})
    return filled(model)


def main(clone: str, clone_of_dinov2: str) -> None:
    load = np.load
    model = network(clone, dinov2(clone_of_dinov2))
    np.load = load
    stored = stored_pictures(28, 28)
    crops = pictures(stored)
    best = model.mlp_classif(model.backbone(crops))[..., 0].argmax(1)
    chosen = (torch.arange(2), best // 8, best % 8, torch.zeros(2, dtype=torch.long))
    focal = 112 / (2 * np.tan(np.radians(60) / 2))
    lens = torch.tensor([[[focal, 0, 56], [0, focal, 56], [0, 0, 1]]], dtype=torch.float32).repeat(2, 1, 1)
    said = model(crops, idx=chosen, K=lens, is_training=True)
    keep(
        "multi_hmr",
        f"naver/multi-hmr@{COMMIT}, facebookresearch/dinov2@{DINOV2}",
        pictures=stored,
        scores=said["scores"].flatten(1),
        place=said["loc"],
        rotations=said["rotmat"],
        betas=said["shape"],
        expression=said["expression"],
        depth=said["dist"],
    )


if __name__ == "__main__":
    main(*sys.argv[1:3])
