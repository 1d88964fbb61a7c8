"""python -m tests.golden.authors.sam_3d_body SAM3DBODY DINOV3: answers of SAM 3D Body's decoders, small, with random
weights, on a crop that is a whole picture.

Both arguments are clones. MHR has a stand-in, and `.cuda()` does nothing.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from tests.golden.authors.source import fetched, keep, package, stand_in
from tests.golden.seeds import FakeRig, filled, pictures, stored_pictures

COMMIT = "b5c765a0d89d789985e186d396315e7590887b94"
DINOV3 = "6876159a11b4df116f30f667f8c9888617df0751"


def configuration(backbone: str, side: int) -> CfgNode:
    """The released settings with smaller numbers."""
    decoder = {
        "TYPE": "sam", "DIM": 24, "DEPTH": 3, "HEADS": 2, "MLP_DIM": 40, "DIM_HEAD": 8, "LAYER_SCALE_INIT": 0.0,
        "DROP_RATE": 0.0, "ATTN_DROP_RATE": 0.0, "DROP_PATH_RATE": 0.0, "FFN_TYPE": "origin", "ENABLE_TWOWAY": False,
        "REPEAT_PE": True, "FROZEN": False, "CONDITION_TYPE": "cliff", "USE_INTRIN_CENTER": True,
        "DO_INTERM_PREDS": True, "DO_KEYPOINT_TOKENS": True, "DO_HAND_DETECT_TOKENS": True,
        "KEYPOINT_TOKEN_UPDATE": "v2", "DO_KEYPOINT3D_TOKENS": True,
    }  # fmt: skip
    prompts = {"ENABLE": True, "MAX_NUM_CLICKS": 2, "PROMPT_KEYPOINTS": "mhr70", "MASK_EMBED_TYPE": "v2",
               "MASK_PROMPT": "v1", "KEYPOINT_SAMPLER": {}}  # fmt: skip
    model = {
        "IMAGE_SIZE": [side, side], "IMAGE_MEAN": [0.485, 0.456, 0.406], "IMAGE_STD": [0.229, 0.224, 0.225],
        "BACKBONE": {"TYPE": backbone, "DROP_PATH_RATE": 0.0}, "DECODER": decoder, "PROMPT_ENCODER": prompts,
        "PERSON_HEAD": {"POSE_TYPE": "mhr", "CAMERA_TYPE": "perspective"},
        "MHR_HEAD": {"MLP_DEPTH": 2, "MLP_CHANNEL_DIV_FACTOR": 1, "MHR_MODEL_PATH": ""},
        "CAMERA_HEAD": {"MLP_DEPTH": 2, "MLP_CHANNEL_DIV_FACTOR": 1, "DEFAULT_SCALE_FACTOR_HAND": 10.0},
    }  # fmt: skip
    return CfgNode({"MODEL": model, "TRAIN": {"USE_FP16": False}})


def imported(clone: str, dinov3: str) -> Any:
    """The authors' class, without what it draws, reads and trains by."""
    folder = fetched(clone, COMMIT)
    fetched(dinov3, DINOV3)
    stand_in("cv2", "omegaconf", "timm", "timm.models", "timm.models.layers")
    layers: Any = sys.modules["timm.models.layers"]
    layers.to_2tuple = lambda x: x if isinstance(x, tuple) else (x, x)
    layers.trunc_normal_ = nn.init.trunc_normal_
    for name in ("sam_3d_body", "sam_3d_body.models", "sam_3d_body.data", "sam_3d_body.utils"):
        package(name, folder / name.replace(".", "/"))
    sys.modules["sam_3d_body.utils"].recursive_to = None  # type: ignore[attr-defined]
    stand_in("sam_3d_body.utils.logging", "sam_3d_body.data.utils", "sam_3d_body.data.utils.prepare_batch")
    stand_in("sam_3d_body.models.meta_arch.base_lightning_module")
    sys.modules["sam_3d_body.models.meta_arch.base_lightning_module"].BaseLightningModule = Bare  # type: ignore[attr-defined]
    torch.jit.load = lambda *_args, **_named: FakeRig()
    Tensor.cuda = lambda self, *_args: self  # type: ignore[method-assign]
    return importlib.import_module("sam_3d_body.models.meta_arch.sam3d_body").SAM3DBody


class Bare(nn.Module):
    """In the place of Lightning's module."""

    def save_hyperparameters(self, **_named: Any) -> None:
        """Nothing."""


def of_dinov3(kind: Any) -> Any:
    """A network on DINOv3 of two blocks 32 wide, on 64 x 64 pixels."""
    vit = importlib.import_module("dinov3.models.vision_transformer").DinoVisionTransformer
    encoder = vit(
        patch_size=16, pos_embed_rope_base=100, pos_embed_rope_normalize_coords="separate", pos_embed_rope_dtype="fp32",
        pos_embed_rope_rescale_coords=2, embed_dim=32, depth=2, num_heads=2, ffn_ratio=6.0, qkv_bias=True,
        layerscale_init=1e-5, norm_layer="layernormbf16", ffn_layer="swiglu", n_storage_tokens=4, mask_k_bias=True,
    )  # fmt: skip
    encoder.init_weights()
    torch.hub.load = lambda *_args, **_named: encoder
    return ready(kind(configuration("dinov3_vith16plus", 64)))


def of_vit(kind: Any) -> Any:
    """A network on ViTPose's ViT of two blocks 32 wide, on the middle 384 columns of 512 x 512 pixels."""
    module: Any = importlib.import_module("sam_3d_body.models.backbones.vit")
    module.vit512_384 = lambda _cfg: module.ViT(
        (512, 384), 16, embed_dim=32, depth=2, num_heads=2, qkv_bias=True, norm_layer=module.LayerNorm32
    )
    model = kind.__new__(kind)
    module.ViT.embed_dim = 32
    model.__init__(configuration("vit_hmr_512_384", 512))
    return ready(model)


def ready(model: Any) -> Any:
    for head in (model.head_pose, model.head_pose_hand):
        head.keypoint_mapping = nn.Parameter(torch.zeros(308, 20 + 127), requires_grad=False)
    return filled(model)


def batch_of(crops: Tensor) -> dict[str, Tensor]:
    """Normalised crops (B, 3, S, S) as whole pictures, one person each."""
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    count, side = len(crops), crops.shape[-1]
    half, focal = side / 2, (2 * side**2) ** 0.5
    each = {
        "img": crops * std + mean,
        "bbox_center": torch.full((count, 2), half),
        "bbox_scale": torch.full((count, 2), float(side)),
        "ori_img_size": torch.full((count, 2), float(side)),
        "img_size": torch.full((count, 2), float(side)),
        "affine_trans": torch.eye(3)[:2].repeat(count, 1, 1),
        "mask": torch.zeros(count, 1, side, side),
        "mask_score": torch.zeros(count),
        "person_valid": torch.ones(count),
    }
    lens = torch.tensor([[[focal, 0, half], [0, focal, half], [0, 0, 1]]])
    return {**{key: value[None] for key, value in each.items()}, "cam_int": lens}


def answers(model: Any, crops: Tensor, kind: str) -> dict[str, Tensor]:
    batch = batch_of(crops)
    model._initialize_batch(batch)
    said = model.forward_step(batch, kind)["mhr" if kind == "body" else "mhr_hand"]
    names = {"keypoints": "pred_keypoints_3d", "camera": "pred_cam", "place": "pred_keypoints_2d_cropped",
             "depth": "pred_keypoints_2d_depth", "boxes": "hand_box", "logits": "hand_logits"}  # fmt: skip
    return {f"{kind}_{ours}": said[theirs] for ours, theirs in names.items()}


def main(clone: str, dinov3: str) -> None:
    kind = imported(clone, dinov3)
    upstream = f"facebookresearch/sam-3d-body@{COMMIT}, facebookresearch/dinov3@{DINOV3}"
    for name, model, times in (("sam_3d_body", of_dinov3(kind), 4), ("sam_3d_body_vit", of_vit(kind), 32)):
        stored = stored_pictures(16, 16)
        crops = pictures(stored, times)
        said = {**answers(model, crops, "body"), **answers(model, crops, "hand")}
        keep(name, upstream, pictures=stored, **said)


if __name__ == "__main__":
    main(*sys.argv[1:3])
