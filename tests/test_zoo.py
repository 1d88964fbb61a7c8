"""The laws of test_stacks over the networks of transformers themselves: small ones, of random weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
import transformers
from torch import Tensor, nn

from compress.context import Context
from compress.errors import BadInput
from compress.policies.prune_width import PruneWidth
from compress.stack import Schedule
from hmr.models.own_model import OwnModel
from tests import test_stacks
from tests.known_network import PATCH, Network
from tests.networks import DEPTH, DIM, HEADS

pytestmark = pytest.mark.slow
globals().update({name: law for name, law in vars(test_stacks).items() if name.startswith("test_")})

SIDE = 8 * PATCH
SIZES: dict[str, Any] = {"hidden_size": DIM, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS}
SQUARE = {**SIZES, "image_size": SIDE, "patch_size": PATCH}


def loud(module: nn.Module) -> nn.Module:
    """With weights so large that every part counts, and no part is another's double."""
    for value in module.parameters():
        nn.init.normal_(value, std=0.3) if value.ndim > 1 else nn.init.uniform_(value, 0.5, 1.5)
    return module


def last_hidden(module: nn.Module, crop: Tensor) -> Tensor:
    return module(crop).last_hidden_state


def of(kind: str, blocks: str, prefix: int, **asked: Any) -> Network:
    """A network of transformers for square pictures, whose code is imported where it is made."""

    def make() -> nn.Module:
        model, config = (getattr(transformers, f"{kind}{end}") for end in ("Model", "Config"))
        return loud(model(config(**SQUARE, **asked)))

    return Network(make, blocks, prefix, (SIDE, SIDE), PATCH, last_hidden)


def vitpose() -> nn.Module:
    """Patches of 8 pixels, since it pads pictures by two: with patches of 4 there would be one more."""
    backbone = transformers.VitPoseBackboneConfig(**SIZES, image_size=(64, 48), patch_size=(8, 8), mlp_ratio=2)
    return loud(transformers.VitPoseForPoseEstimation(transformers.VitPoseConfig(backbone_config=backbone)))


def vitpose_tokens(module: nn.Module, crop: Tensor) -> Tensor:
    """Its backbone's own forward picks features by the number of blocks that it was made with."""
    backbone = cast(Any, module).backbone
    return backbone.layernorm(backbone.encoder(backbone.embeddings(crop)).last_hidden_state)


def vitdet() -> nn.Module:
    """Two blocks of windows and two without."""
    config = transformers.VitDetConfig(
        **SQUARE, pretrain_image_size=SIDE, window_block_indices=[0, 2], window_size=4, mlp_ratio=2
    )
    return loud(transformers.VitDetModel(config))


def vitdet_tokens(module: nn.Module, crop: Tensor) -> Tensor:
    return last_hidden(module, crop).flatten(2).transpose(1, 2)


ZOO = {
    "Dinov2": of("Dinov2", "encoder.layer", 1),
    "Dinov2 SwiGLU": of("Dinov2", "encoder.layer", 1, use_swiglu_ffn=True),
    "Dinov2WithRegisters": of("Dinov2WithRegisters", "encoder.layer", 5, num_register_tokens=4),
    "DINOv3ViT": of("DINOv3ViT", "model.layer", 5, num_register_tokens=4, intermediate_size=48),
    "DINOv3ViT gated": of("DINOv3ViT", "model.layer", 5, num_register_tokens=4, use_gated_mlp=True),
    "ViT": of("ViT", "layers", 1, intermediate_size=48),
    "SiglipVision": of("SiglipVision", "encoder.layers", 0, intermediate_size=48),
    # norms of queries and keys of all heads together, and an attention that takes as many as it had
    "InternVLVision": replace(
        of("InternVLVision", "encoder.layer", 1, intermediate_size=48, use_qk_norm=True),
        runs_narrow=False,
        sums_units=False,
    ),
    "Aimv2Vision": of("Aimv2Vision", "encoder.layers", 0, intermediate_size=48),
    "Sapiens2": of("Sapiens2", "model.layer", 9, intermediate_size=48, num_key_value_heads_per_layer=[HEADS] * DEPTH),
    "VitDet": Network(vitdet, "encoder.layer", 0, (SIDE, SIDE), PATCH, vitdet_tokens, known={"norm": ""}),
    "VitPose": Network(vitpose, "backbone.encoder.layer", 0, (64, 48), 8, vitpose_tokens, pickles=False),
}


@pytest.fixture(params=ZOO)
def family(request) -> Network:
    return ZOO[request.param]


@pytest.fixture(params=["DINOv3ViT", "Sapiens2"])
def rotary(request) -> Network:
    return ZOO[request.param]


@torch.no_grad()
def test_vitpose_reads_its_heatmaps_from_the_grid():
    """As its own forward does, from backbone to heatmaps."""
    family = ZOO["VitPose"]
    module = family.module()
    model = OwnModel(
        module,
        lambda own, tokens: own.head(tokens.to_grid()),
        family.crop,
        blocks=family.blocks,
        head_needs="grid",
    )
    torch.testing.assert_close(model(family.images()), module(family.images()).heatmaps, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_clip_is_refused_until_its_embedding_is_given():
    """It has a norm before its blocks, and the one after them is of the class token alone."""
    config = transformers.CLIPVisionConfig(**SQUARE, intermediate_size=48)
    module: Any = loud(transformers.CLIPVisionModel(config)).eval()
    crop, blocks = torch.randn(2, 3, SIDE, SIDE), "encoder.layers"

    def wrapped(**asked: Any) -> OwnModel:
        return OwnModel(module, lambda own, tokens: tokens.x, (SIDE, SIDE), blocks=blocks, **asked)

    with pytest.raises(BadInput, match="give embed="):
        wrapped()
    known = wrapped(embed=lambda crop: module.pre_layrnorm(module.embeddings(crop)), norm="")
    torch.testing.assert_close(known(crop), module(crop).last_hidden_state, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_dinov3_in_bfloat16_is_taken():
    """Its blocks take sines and cosines of the type of the tokens alone."""
    family = ZOO["DINOv3ViT"]
    module = family.module().bfloat16()
    model = OwnModel(module, lambda own, tokens: tokens.x, family.crop, blocks=family.blocks)
    crop = family.images().bfloat16()
    found, wanted = model(crop).float(), last_hidden(module, crop).float()
    assert (found - wanted).norm() < 0.02 * wanted.norm()


@torch.no_grad()
def test_heads_may_share_keys_and_values():
    """As in the middle blocks of Sapiens2: q has more features than k and v, and no head goes alone."""
    family = of("Sapiens2", "model.layer", 9, intermediate_size=48, num_key_value_heads_per_layer=[2, 1, 1, 2])
    module, crop = family.module(), family.images()
    model = OwnModel(module, lambda own, tokens: tokens.x, family.crop, blocks=family.blocks).eval()
    torch.testing.assert_close(model(crop), last_hidden(module, crop), rtol=1e-4, atol=1e-4)
    model.schedule = Schedule((0, 16, 8))
    assert model(crop).shape == (3, 9 + 40, DIM)
    with pytest.raises(BadInput, match="share keys and values"):
        PruneWidth(mlp_ratio=0.5).plan(model, Context(model))
