"""The laws of test_stacks over the networks of timm: small ones, of random weights.

`make test-zoo` runs it in a venv of its own, since timm needs a torchvision that goes with its torch.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import timm
import torch
from torch import Tensor, nn

from compress.errors import BadInput
from hmr.adapters.adapter import named
from hmr.adapters.check import checked
from hmr.models.own_model import OwnModel
from tests import test_stacks
from tests.known_network import PATCH, Network
from tests.networks import DEPTH, DIM, HEADS
from tests.test_zoo import SIDE, loud

globals().update({name: law for name, law in vars(test_stacks).items() if name.startswith("test_")})

SMALL = {"depth": DEPTH, "embed_dim": DIM, "num_heads": HEADS, "img_size": SIDE, "patch_size": PATCH, "num_classes": 7}


def features(module: nn.Module, crop: Tensor) -> Tensor:
    return cast(Any, module).forward_features(crop)


def of(name: str, prefix: int, *, runs_narrow: bool = True, sums_units: bool = True) -> Network:
    made = Network(lambda: loud(timm.create_model(name, **SMALL)), "blocks", prefix, (SIDE, SIDE), PATCH, features)
    return replace(made, runs_narrow=runs_narrow, sums_units=sums_units)


# An EvaBlock's own forward takes as many features from its heads as a token has.
ZOO = {
    "ViT": of("vit_tiny_patch16_224", 1),
    "ViT of SigLIP": of("vit_base_patch16_siglip_224", 0),
    "ViT of CLIP": of("vit_base_patch16_clip_224", 1),
    "DeiT": of("deit_tiny_patch16_224", 1),
    "DeiT distilled": of("deit_tiny_distilled_patch16_224", 2),
    "DeiT III": of("deit3_small_patch16_224", 1),
    "DINOv2": of("vit_small_patch14_dinov2", 1),
    "DINOv2 with registers": of("vit_small_patch14_reg4_dinov2", 5),
    "DINOv2 giant": of("vit_giant_patch14_dinov2", 1),
    "EVA": of("eva_giant_patch14_224", 1, runs_narrow=False),
    "EVA02": of("eva02_tiny_patch14_224", 1, runs_narrow=False),
    "EVA02 with norms": of("eva02_base_patch14_224", 1, runs_narrow=False, sums_units=False),
    "RoPE-ViT": of("vit_small_patch16_rope_224", 1),
    "DINOv3": of("vit_small_patch16_dinov3", 5, runs_narrow=False),
    "DINOv3 7B": of("vit_7b_patch16_dinov3", 5, runs_narrow=False),
}


@pytest.fixture(params=ZOO)
def family(request) -> Network:
    return ZOO[request.param]


@pytest.fixture(params=["EVA02", "RoPE-ViT", "DINOv3"])
def rotary(request) -> Network:
    return ZOO[request.param]


@pytest.mark.parametrize(
    "name, words",
    [
        ("vit_small_patch16_rope_mixed_224", "a RotaryEmbeddingMixed, are none of those known"),
        ("beit_base_patch16_224", "attn.relative_position_bias_table has no place"),
        ("samvit_base_patch16", "attn.rel_pos_h has no place"),
    ],
)
def test_what_a_block_does_beside_is_named(name, words):
    module = timm.create_model(name, **SMALL)
    with pytest.raises(BadInput, match=words):
        OwnModel(module, lambda own, tokens: tokens, (SIDE, SIDE), blocks="blocks")


@torch.no_grad()
def test_every_timm_vit_as_it_is_made():
    """The input of the report: full size, blocks in an nn.Sequential."""
    net = timm.create_model("vit_tiny_patch16_224").eval()
    model = OwnModel(net, lambda own, tokens: own.forward_head(tokens.x), crop=(224, 224), blocks="blocks")
    crop = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(model(crop), net(crop), rtol=1e-4, atol=1e-5)


def test_a_picture_that_is_padded_to_whole_patches_is_refused():
    """timm pads by itself; how many patches there are is then not the picture's size divided."""
    module = timm.create_model("vit_tiny_patch16_224", dynamic_img_size=True, dynamic_img_pad=True, **SMALL)
    with pytest.raises(BadInput, match="name patch= or embed=, or another size of crop"):
        OwnModel(module, lambda own, tokens: tokens, (SIDE - 1, SIDE), blocks="blocks")


def smallest(name: str) -> nn.Module | None:
    """A network of timm made small, where it can be."""
    for sizes in (SMALL, {key: SMALL[key] for key in ("depth", "embed_dim", "num_heads", "num_classes")}):
        try:
            return loud(timm.create_model(name, **(sizes | {"depth": 2}))).eval()
        except (TypeError, AssertionError, RuntimeError, ValueError):  # it takes no such sizes
            continue
    return None


@torch.no_grad()
def test_every_vit_of_timm_is_the_networks_own_or_refused():
    """Nothing in between, whatever a block does beside: of about 330 that can be made small, two thirds are taken."""
    taken, refused = [], []
    modules = ("vision_transformer", "eva", "deit", "beit", "cait", "vision_transformer_relpos", "naflexvit", "xcit")
    for name in [name for module in modules for name in timm.list_models(module=module)]:
        if (module := smallest(name)) is None:
            continue
        crop = tuple(getattr(getattr(module, "patch_embed", None), "img_size", None) or (SIDE, SIDE))
        try:
            model = OwnModel(module, lambda own, tokens: tokens.x, crop, blocks="blocks").eval()
        except BadInput:
            refused.append(name)
            continue
        picture = torch.randn(1, 3, *crop)
        torch.testing.assert_close(model(picture), features(module, picture), rtol=1e-3, atol=1e-3, msg=name)
        taken.append(name)
    assert len(taken) > 200 and len(refused) > 50


def test_the_adapter_of_the_page_holds(tmp_path, monkeypatch, fasthmr):
    """docs/your-own-model.md, as a reader copies it, to a Pareto front."""
    page = (Path(__file__).resolve().parents[1] / "docs" / "your-own-model.md").read_text()
    (text,) = re.findall(r"^```python vit_timm.py\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "vit_timm.py").write_text(text)
    proved = checked(named(str(tmp_path / "vit_timm.py")))
    assert "17 joints" in proved["joints"] and "1 tokens before 196 patches" in proved["prefix"]
    (study,) = re.findall(r"^```yaml vit_study.yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    lines = [line for line in (text + study).splitlines() if line.strip()]
    assert len(lines) + len(["search", "report"]) <= 30
    monkeypatch.setenv("FASTHMR_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    fewer = re.sub(r"(calib|val|test): \d+", r"\1: 4", study.replace("vit_pose.py", "vit_timm.py"))
    fewer = fewer.replace("keep: 32, per_layer: 8", "keep: 100, per_layer: 24")
    (tmp_path / "vit_study.yaml").write_text(fewer)
    for command in ("search vit_study.yaml --trials 2 --label-free", "report vit_study.yaml --out vit-front"):
        code, _, err = fasthmr(*command.split(), "--json")
        assert code == 0, f"{command}: {err}"
    assert (tmp_path / "vit-front" / "report.html").is_file()


HEADED = """
from torch import nn

from hmr.published.timm_vit import TimmViT


class Head(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.out = nn.Linear(dim, 15)

    def forward(self, tokens):
        return self.out(tokens[:, 0])


class Mine(TimmViT):
    network, pretrained, size = "{name}", False, ({side}, {side})
    options = {{"img_size": {side}, "depth": 2, "embed_dim": 48, "num_heads": 2}}

    def head(self, dim):
        return Head(dim)

    def joints(self, outputs):
        return outputs.unflatten(1, (5, 3))
"""


@pytest.mark.parametrize(
    "name, side",
    [("vit_small_patch16_224", 64), ("vit_small_patch16_dinov3", 64), ("vit_small_patch14_reg4_dinov2", 56)],
)
@torch.no_grad()
def test_a_network_with_a_head_of_the_users(tmp_path, name, side):
    (tmp_path / "mine.py").write_text(HEADED.format(name=name, side=side))
    torch.manual_seed(0)
    mine = named(str(tmp_path / "mine.py"))
    network, crops = cast(Any, mine.adapter.load()), torch.randn(2, 3, side, side)
    wanted = network.head(network.vit.forward_features(crops))
    torch.testing.assert_close(network(crops), wanted)
    assert "5 joints" in checked(mine)["joints"]
