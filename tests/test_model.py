"""Laws of the reference model: HMR2.0's keys and arithmetic, at any size."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from compress.errors import BadInput
from hmr.checkpoints.files import load, save
from hmr.models.head import rotations_from_6d, sixd_from_rotations
from hmr.models.model import build
from hmr.models.vit import Block, PatchEmbed, ViT, attention, thinned
from tests import sizes

MANIFEST = Path(__file__).parent / "manifests" / "hmr2.json"
ASSETS = Path(__file__).parents[1] / "hmr" / "assets"
TINY = {**sizes.TINY, "head_depth": 2, "head_mlp_dim": 40}


@pytest.fixture(params=["reference", "hmr2"])
def model(request):
    torch.manual_seed(0)
    return build(request.param, TINY).eval()


def crops(batch, height=224, width=168):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_full_size_has_exactly_the_keys_and_shapes_of_the_released_weights():
    with torch.device("meta"):
        model = build("hmr2")
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == json.loads(MANIFEST.read_text())
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(670.459e6, abs=500)  # checkpoints.md


def test_the_reference_models_have_the_sizes_of_dinov2_vit_s():
    with torch.device("meta"):
        models = {name: build(name) for name in ("reference", "reference-small")}
    count = {name: sum(p.numel() for p in model.backbone.parameters()) for name, model in models.items()}
    # 12 blocks of 12 x 384^2 products, 14 x 384 other weights and LayerScale's 2 x 384; the embedding and the last norm
    block, around = 12 * 384**2 + 13 * 384 + 2 * 384, 3 * 14**2 * 384 + 384 + 194 * 384 - 384 + 2 * 384 + 384
    assert count == {"reference": 12 * block + around, "reference-small": 6 * block + around}
    large, small = (model.state_dict() for model in models.values())
    cut = {key for key in large if any(key.startswith(f"backbone.blocks.{i}.") for i in range(6, 12))}
    assert large.keys() - small.keys() == cut and small.keys() <= large.keys()


def test_families_share_the_keys_of_the_head():
    with torch.device("meta"):
        hmr2, reference = (build(name, TINY).smpl_head.state_dict() for name in ("hmr2", "reference"))
    assert hmr2.keys() == reference.keys()


def test_output_is_a_body(model):
    with torch.no_grad():
        output = model(crops(2))
    assert output.global_orient.shape == (2, 1, 3, 3)
    assert output.body_pose.shape == (2, 23, 3, 3)
    assert output.betas.shape == (2, 10)
    assert output.camera.shape == (2, 3)
    assert output.features.shape == (2, TINY["head_dim"])
    identity = output.rotations @ output.rotations.mT
    torch.testing.assert_close(identity, torch.eye(3).expand_as(identity), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(output.rotations), torch.ones(2, 24))


def test_output_does_not_depend_on_the_rest_of_the_batch(model):
    with torch.no_grad():
        together, alone = model(crops(3)), model(crops(3)[1:2])
    for name in ("rotations", "betas", "camera", "features"):
        torch.testing.assert_close(getattr(together, name)[1:2], getattr(alone, name), atol=1e-5, rtol=0)


def test_new_model_starts_near_the_mean(model):
    mean = rotations_from_6d(model.smpl_head.init_body_pose.view(24, 6))
    with torch.no_grad():
        assert (model(crops(1)).rotations[0] - mean).abs().max() < 0.1


@pytest.mark.parametrize("half", [1, 2])
def test_both_resolutions_give_a_token_a_patch(model, half):
    (height, width), prefix = model.crop_size, model.architecture == "reference"
    with torch.no_grad():
        crop = crops(1, height // half, width // half)
        assert model.backbone(crop).shape == (1, prefix + 192 // half**2, TINY["dim"])
        assert model(crop).betas.isfinite().all()


def test_positions_of_the_smaller_grid_are_means_of_two_by_two():
    backbone = build("hmr2", TINY).backbone
    full = backbone.positions((16, 12)).view(8, 2, 6, 2, TINY["dim"])
    torch.testing.assert_close(backbone.positions((8, 6)).view(8, 6, -1), full.mean((1, 3)))


def test_patch_embedding_is_padded_by_two():
    proj = PatchEmbed(4)
    image = torch.zeros(1, 3, 256, 192)
    empty = proj(image)
    for row, token in ((13, 0), (14, 1)):  # 16 wide, starting at -2
        touched = image.clone()
        touched[0, :, row, 0] = 1
        changed = (proj(touched) - empty).abs().amax((0, 1, 3)).nonzero().flatten()
        assert changed.tolist() == [token]


def test_block_is_torchs_pre_norm_encoder_layer():
    torch.manual_seed(0)
    block = Block(32, heads=4, hidden=64).eval()
    theirs = nn.TransformerEncoderLayer(32, 4, 64, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True).eval()
    theirs.load_state_dict(
        {
            "self_attn.in_proj_weight": block.attn.qkv.weight,
            "self_attn.in_proj_bias": block.attn.qkv.bias,
            "self_attn.out_proj.weight": block.attn.proj.weight,
            "self_attn.out_proj.bias": block.attn.proj.bias,
            "linear1.weight": block.mlp.fc1.weight,
            "linear1.bias": block.mlp.fc1.bias,
            "linear2.weight": block.mlp.fc2.weight,
            "linear2.bias": block.mlp.fc2.bias,
            **{f"norm{i}.{k}": v for i in (1, 2) for k, v in getattr(block, f"norm{i}").state_dict().items()},
        }
    )
    x = torch.randn(2, 7, 32)
    torch.testing.assert_close(block(x), theirs(x), atol=1e-5, rtol=0)


def test_block_is_the_sum_of_its_two_updates():
    block, x = Block(32, 4, 64, drop=0.5).eval(), torch.randn(2, 7, 32)
    update, keys = block.attend(x)
    assert keys.shape == (2, 4, 7, 8)  # 4 heads of 8
    after = x + update
    torch.testing.assert_close(block(x), after + block.feed(after))


def test_attention_with_gradient_equals_attention_without():
    q, k, v = (torch.randn(2, 3, n, 8) for n in (5, 9, 9))
    torch.testing.assert_close(attention(q.clone().requires_grad_(), k, v), attention(q, k, v), atol=1e-5, rtol=0)


def test_stochastic_depth_keeps_the_mean_and_draws_fairly():
    torch.manual_seed(0)
    x = torch.zeros(8, 2)
    kept = torch.stack([x + thinned(x, torch.ones_like, 0.3) for _ in range(2000)])  # (draws, B, 2)
    torch.testing.assert_close(kept.sum(1), torch.full((2000, 2), 8.0))  # every draw has the mean of no drop
    torch.testing.assert_close((kept > 0).float().mean(0), torch.full((8, 2), 6 / 8), atol=0.05, rtol=0)


def test_stochastic_depth_computes_only_what_it_keeps():
    seen = []

    def update(kept):
        seen.append(len(kept))
        return kept

    thinned(torch.zeros(8, 2), update, 0.75)
    thinned(torch.zeros(1, 2), update, 0.9)
    assert seen == [2, 1]


def test_drop_path_grows_with_depth_and_acts_only_in_training():
    torch.manual_seed(0)
    backbone = ViT(32, 4, 2, 48, drop_path=0.6)
    assert [block.drop for block in backbone.blocks] == pytest.approx([0, 0.2, 0.4, 0.6])
    x = crops(6)
    with torch.no_grad():
        assert torch.equal(backbone.eval()(x), backbone(x))
        assert not torch.equal(backbone.train()(x), backbone(x))


def test_6d_holds_the_columns():
    quarter_turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    assert sixd_from_rotations(quarter_turn).tolist() == [0, 1, 0, -1, 0, 0]
    torch.testing.assert_close(rotations_from_6d(torch.tensor([0.0, 2, 0, -3, 1, 0])), quarter_turn)


@pytest.mark.parametrize("sizes", [{"token_dim": 157}, {"token_dim": 157, "iterations": 3}, {"iterations": 2}])
def test_variants_of_the_query_token(sizes):
    model = build("hmr2", {**TINY, **sizes}).eval()
    assert model.smpl_head.transformer.to_token_embedding.in_features == sizes.get("token_dim", 1)
    with torch.no_grad():
        assert model(crops(1)).rotations.isfinite().all()


def test_saved_and_loaded_model_gives_equal_outputs(model, tmp_path):
    with torch.no_grad():
        model.backbone.pos_embed.mul_(3)  # something that no fresh model has
    exact = load(save(model, tmp_path / "exact.safetensors"))
    half = load(save(model, tmp_path / "half.safetensors", dtype=torch.float16))
    again = load(save(half, tmp_path / "again.safetensors"))
    with torch.no_grad():
        outputs = [m(crops(2)) for m in (model, exact, half, again)]
    for name in ("rotations", "betas", "camera", "features"):
        original, same, near, same_as_near = (getattr(output, name) for output in outputs)
        assert torch.equal(original, same) and torch.equal(near, same_as_near)
        torch.testing.assert_close(original, near, atol=2e-2, rtol=0)
    assert not exact.training and exact.sizes == model.sizes


def test_weights_that_half_precision_cannot_hold_are_not_written(model, tmp_path):
    with torch.no_grad():
        model.backbone.pos_embed.fill_(1e6)
    with pytest.raises(ValueError, match="pos_embed"):
        save(model, tmp_path / "model.safetensors", dtype=torch.float16)
    assert not list(tmp_path.iterdir())


def test_broken_and_foreign_files_are_refused(model, tmp_path):
    path = save(model, tmp_path / "model.safetensors")
    with pytest.raises(BadInput, match=r"blocks\.3"):
        load(path, depth=4)
    (tmp_path / "short.safetensors").write_bytes(path.read_bytes()[:1000])
    (tmp_path / "pickle.safetensors").write_bytes(b"\x80\x04." * 100)
    for name in ("short", "pickle", "missing"):
        with pytest.raises(BadInput, match=f"{name}.safetensors"):
            load(tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"sizes": "{"}, "'sizes' in its header is not JSON"),
        ({"sizes": '[["dim", 8]]'}, "'sizes' in its header is not a JSON object"),
        ({"sizes": '{"dim": "wide"}'}, "dim"),
        ({"sizes": '{"dim": 96000000}'}, "keys or shapes"),
        ({"architecture": "hmr3"}, "hmr3"),
    ],
)
def test_headers_that_describe_no_such_model_are_refused(header, words, model, tmp_path):
    path = save(model, tmp_path / "model.safetensors", header)
    with pytest.raises(BadInput, match=rf"model\.safetensors: .*{words}"):
        load(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value, model, tmp_path):
    path = save(model, tmp_path / "model.safetensors")
    state, header = load_file(path), {"architecture": model.architecture, "sizes": model.sizes.model_dump_json()}
    state["smpl_head.decpose.bias"][3] = value
    save_file(state, path, header)
    with pytest.raises(BadInput, match=r"model\.safetensors: 'smpl_head\.decpose\.bias' holds"):
        load(path)


@pytest.mark.parametrize(
    ("architecture", "sizes", "words"),
    [
        ("hmr3", {}, "reference-small"),
        ("reference", {"heads": 5}, "384 does not divide into 5"),
        ("reference", {"depth": "8"}, "depth"),
        ("reference", {"width": 8}, "width"),
    ],
)
def test_impossible_sizes_are_refused_with_a_reason(architecture, sizes, words):
    with pytest.raises(BadInput, match=words):
        build(architecture, sizes)


def test_the_shipped_weights_are_small_enough_to_be_committed():
    weights = sorted(ASSETS.glob("*.safetensors"))
    largest = {"reference-small": 33e6, "reference": 55e6}
    assert [path.stem for path in weights] == list(largest)
    assert all(path.stat().st_size <= largest[path.stem] for path in weights)
