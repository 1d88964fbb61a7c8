"""python -m tests.golden.authors.prompt_hmr CLONE: PromptHMR's answers for a box in each of two pictures, small, with
random weights."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.golden.authors.source import fetched, keep, package, stand_in
from tests.golden.seeds import filled, pictures, stored_pictures

COMMIT = "ea85d0abc71d7cb3f92bd63d09b6f96dfca15a8e"
SIDE = 112


def attention(q: Tensor, k: Tensor, v: Tensor, **_named: Any) -> Tensor:
    """As xformers' for (B, N, H, d)."""
    return F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)


def imported(clone: str) -> Any:
    """Imports a module of the authors' by its name below `prompt_hmr.models`."""
    folder = fetched(clone, COMMIT)
    stand_in("pytorch_lightning", "xformers", "xformers.ops", "prompt_hmr.smpl_family", "cv2", "torchvision")
    sys.modules["xformers.ops"].memory_efficient_attention = attention  # type: ignore[attr-defined]
    for name in ("prompt_hmr", "prompt_hmr.models", "prompt_hmr.models.components", "prompt_hmr.utils"):
        package(name, folder / name.replace(".", "/"))
    stand_in("prompt_hmr.smpl_family")
    components: Any = sys.modules["prompt_hmr.models.components"]
    components.ImageEncoder = components.PromptEncoder = components.SMPLDecoder = nn.Module
    return lambda name: importlib.import_module(f"prompt_hmr.models.{name}")


def bare(kind: Any) -> Any:
    """A module of a class whose own `__init__` is not run."""
    made = kind.__new__(kind)
    nn.Module.__init__(made)
    return made


def network(clone: str, kind: str) -> Any:
    """The authors' network for 8 x 8 patches, 32 wide, with their decoder of one kind."""
    of = imported(clone)
    image, norm = of("components.image_encoder"), of("components.common").LayerNorm2d
    vit, block = of("dinov2.vision_transformer").DinoVisionTransformer, of("dinov2.layers").NestedTensorBlock
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    model, encoder = bare(of("phmr").PHMR), bare(image.ImageEncoder)
    encoder.backbone = bare(image.Dinov2Backbone)
    encoder.backbone.encoder = vit(70, 14, **sizes, init_values=1.0, block_chunks=0, block_fn=block)
    encoder.neck = nn.Sequential(nn.Conv2d(32, 32, 1, bias=False), norm(32))
    model.image_encoder, model.cam_encoder = encoder, of("components.camera_embed").CameraEncoder(14, SIDE)
    model.cam_encoder.conv, model.cam_encoder.norm = nn.Conv2d(32 + 99, 32, 1, bias=False), norm(32)
    model.prompt_encoder = of("components.prompt_encoder").PromptEncoder(
        32, (8, 8), (SIDE, SIDE), None, mask_prompt=True
    )
    layers = of("components.twoway_transformer").TwoWayTransformer(2, 32, 8, 40, attention_block=kind)
    model.smpl_decoder = of("components.smpl_decoder").SMPLDecoder(
        transformer_dim=32, transformer=layers, smpl_head_depth=2, smpl_head_hidden_dim=32, inverse_depth=True
    )
    model.is_train, model.process_output = False, lambda said, _hands: said
    return filled(model)


def main(clone: str) -> None:
    stored = stored_pictures(28, 28)
    crops, focal = pictures(stored), 2**0.5 * SIDE
    lens = torch.tensor([[[focal, 0, SIDE / 2], [0, focal, SIDE / 2], [0, 0, 1]]])
    box = torch.tensor([[0.1 * SIDE, 0.1 * SIDE, 0.9 * SIDE, 0.9 * SIDE, 1]])
    kept: dict[str, Tensor] = {}
    for kind in ("twoway", "cross-person"):
        model = network(clone, kind)
        said = model([{"image": crop, "cam_int": lens, "boxes": box} for crop in crops])
        to_matrix = sys.modules["prompt_hmr.utils.rotation_utils"].rotation_6d_to_matrix
        pose = torch.cat([one["pose"] for one in said]).reshape(-1, 22, 6)
        kept[f"{kind}_rotations"] = to_matrix(pose)
        kept[f"{kind}_betas"], kept[f"{kind}_place"] = (
            torch.cat([one[k] for one in said]) for k in ("betas", "transl")
        )
    keep("prompt_hmr", f"yufu-wang/PromptHMR@{COMMIT}", pictures=stored, **kept)


if __name__ == "__main__":
    main(sys.argv[1])
