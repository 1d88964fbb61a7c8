"""What is found in a user's network by itself, what is asked for, and what is refused."""

# nn.Module hides what it has, and the blocks here are written as their authors write them, without types
# mypy: disable-error-code="operator,union-attr,arg-type,override"

from __future__ import annotations

import copy
import math
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from compress import artefact
from compress.errors import BadInput
from compress.policies.precision import Int8Linear, Precision
from compress.stack import encode
from hmr.models.own_model import OwnModel, stack_from
from tests.known_network import CROP
from tests.networks import DIM, FAMILIES, Block, MaskedBias, Timm, ViTPose
from tests.planning import applied, planned

images = FAMILIES["vitpose"].images


class RelativeBias(Block):
    def __init__(self) -> None:
        super().__init__()
        self.attn.rel_pos = nn.Parameter(torch.zeros(4, 4))


class Parallel(Block):
    """The weights of a pre-norm block, used side by side."""

    def forward(self, x: Tensor, rope: None = None) -> Tensor:
        return x + self.attn(self.norm1(x)) + self.mlp(self.norm2(x))


class Windowed(Block):
    def forward(self, x: Tensor, rope: None = None, *, window: int) -> Tensor:
        return super().forward(x)


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)


@pytest.mark.parametrize(
    "kind, words",
    [
        (RelativeBias, "RelativeBias blocks .* attn.rel_pos has no place"),
        (Parallel, "Parallel blocks do more than"),
        (Windowed, "Windowed blocks cannot be run on tokens alone .*window"),
        (Convolution, "Convolution blocks .* no norm1 .*; no attn.qkv .*; conv.weight has no place"),
    ],
)
def test_what_is_not_recognised_is_named(kind, words):
    module = ViTPose()
    module.blocks = nn.ModuleList(kind() for _ in range(2))
    with pytest.raises(BadInput, match=words):
        stack_from(module, "blocks")


def test_the_rest_of_a_backbone_is_asked_for_where_it_is_not_found():
    lone = nn.Module()
    lone.blocks = nn.ModuleList(Block() for _ in range(2))
    with pytest.raises(BadInput, match=r"has no 'backbone\.blocks'"):
        stack_from(lone)
    with pytest.raises(BadInput, match="give embed="):
        stack_from(lone, "blocks")
    known = {"embed": lambda crop: crop.flatten(2).transpose(1, 2)}
    with pytest.raises(BadInput, match="give patch="):
        stack_from(lone, "blocks", **known)
    with pytest.raises(BadInput, match="give norm="):
        stack_from(lone, "blocks", **known, patch=1)
    crop = torch.randn(1, DIM, 2, 3)
    tokens = encode(stack_from(lone, "blocks", **known, patch=1, norm=""), crop)
    x = crop.flatten(2).transpose(1, 2)
    for block in lone.blocks:
        x = block(x)
    torch.testing.assert_close(tokens.x, x, rtol=1e-5, atol=1e-5)
    lone.rope = SimpleNamespace()  # type: ignore[assignment]
    with pytest.raises(BadInput, match="Block blocks: rotary positions of rope"):
        stack_from(lone, "blocks", **known, patch=1, norm="")


def test_norms_without_weights_are_norms():
    module = ViTPose()
    for block in module.blocks:
        block.norm1, block.norm2 = (nn.LayerNorm(DIM, elementwise_affine=False) for _ in range(2))
    tokens = encode(stack_from(module.eval(), "blocks"), images())
    torch.testing.assert_close(tokens.x, module(images()), rtol=1e-5, atol=5e-5)


def test_blocks_of_several_kinds_are_refused():
    module = ViTPose()
    module.blocks[1] = Parallel()
    with pytest.raises(BadInput, match="several kinds, which cannot merge: Block, Parallel"):
        stack_from(module, "blocks")


def own(module: nn.Module, **asked) -> OwnModel:
    return OwnModel(module.eval(), lambda own, tokens: tokens, CROP, blocks="blocks", **asked)


class NormedFirst(ViTPose):
    """CLIP has a norm between its embedding and its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.pre_norm = nn.LayerNorm(DIM)

    def forward(self, crop: Tensor) -> Tensor:
        x = self.pre_norm(self.patch_embed(crop) + self.pos_embed[:, 1:] + self.pos_embed[:, :1])
        for block in self.blocks:
            x = block(x)
        return self.last_norm(x)


class Between(ViTPose):
    """A convolution after every second block, say."""

    def forward(self, crop: Tensor) -> Tensor:
        x = self.patch_embed(crop) + self.pos_embed[:, 1:] + self.pos_embed[:, :1]
        for block in self.blocks:
            x = block(x).roll(1, 1)
        return self.last_norm(x)


class Pooled(ViTPose):
    """The norm is of the mean."""

    def forward(self, crop: Tensor) -> Tensor:
        x = self.patch_embed(crop) + self.pos_embed[:, 1:] + self.pos_embed[:, :1]
        for block in self.blocks:
            x = block(x)
        return self.last_norm(x.mean(1))


@pytest.mark.parametrize(
    "kind, words", [(NormedFirst, "give embed="), (Between, "more between its blocks"), (Pooled, "give norm=")]
)
def test_a_network_that_does_more_than_its_parts_is_refused(kind, words):
    with pytest.raises(BadInput, match=f"{kind.__name__} .*{words}"):
        own(kind())


@torch.no_grad()
def test_a_norm_of_the_mean_is_left_to_the_reader_where_the_user_says_so():
    module = Pooled().eval()
    model = OwnModel(module, lambda own, tokens: own.last_norm(tokens.x.mean(1)), CROP, blocks="blocks", norm="")
    torch.testing.assert_close(model(images()), module(images()), rtol=1e-4, atol=1e-5)


def test_where_nothing_runs_on_a_crop_alone_it_says_that_nothing_was_compared():
    class Asking(ViTPose):
        def forward(self, crop: Tensor, box: Tensor) -> Tensor:
            return super().forward(crop)

    with pytest.warns(UserWarning, match="Asking does not run on a crop alone .*box"):
        own(Asking())


def test_more_tokens_than_the_module_counts_are_refused():
    """As where a picture was padded to whole patches, or patches overlap."""
    module = Timm()
    module.num_prefix_tokens = 2  # type: ignore[assignment]
    with pytest.raises(BadInput, match="49 tokens do not hold 8 x 6 patches and 2 before them"):
        own(module)


def test_a_crop_of_another_size_is_a_sentence():
    with pytest.raises(BadInput, match="ViTPose takes no crops of 40 x 24"):
        OwnModel(ViTPose(), lambda own, tokens: tokens, (40, 24), blocks="blocks")


def test_a_layer_that_computes_otherwise_than_a_linear_one_is_not_rounded():
    """DINOv3's projection has no bias for the keys; as any layer of its weights and bias, it would have one."""
    model = FAMILIES["dinov3"].own()
    applied(planned(Precision(dtype="int8"), model), model)
    layers = cast(Any, model.stack.blocks[0])
    assert isinstance(layers.attn.qkv, MaskedBias) and isinstance(layers.attn.proj, Int8Linear)


def test_weights_that_are_not_finite_are_named():
    module = ViTPose()
    with torch.no_grad():
        module.blocks[1].mlp.fc1.weight[0, 0] = math.nan
    with pytest.raises(BadInput, match=r"Block block gives numbers that are not finite; .* mlp\.fc1\.weight"):
        own(module)


def test_blocks_that_share_weights_are_refused():
    module = ViTPose()
    module.blocks = nn.ModuleList([module.blocks[0]] * 3)
    with pytest.raises(BadInput, match="the 3 blocks of ViTPose share weights"):
        own(module)


def test_weights_that_two_parts_share_are_saved_with_each(tmp_path):
    module = ViTPose()
    module.first, module.second = nn.Linear(DIM, 3), nn.Linear(DIM, 3)
    module.second.weight = module.first.weight
    model = own(module)
    origin = artefact.Origin(base=model.base, seed=0, commit="", versions={})
    artefact.save(tmp_path / "out", model, (), origin, "", "")
    again = artefact.load(tmp_path / "out", own(copy.deepcopy(module)))
    assert torch.equal(again.module.second.weight, module.first.weight)


@pytest.mark.parametrize("wrapper", [torch.compile, nn.DataParallel])
def test_wrappers_are_no_part_of_the_keys(wrapper):
    assert own(wrapper(ViTPose())).state_dict().keys() == own(ViTPose()).state_dict().keys()
