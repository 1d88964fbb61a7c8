"""Each family against its authors' network, its conventions, and what the rest of the house asks of a model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compress.cost.macs import cost
from compress.errors import BadInput
from hmr.body.camera import FOCAL, bbox_info, focal_length, full_translation
from hmr.models.families import FAMILIES
from hmr.models.families.camerahmr import letterboxed
from hmr.models.model import build
from tests.golden.seeds import pictures, seeded
from tests.planning import applied, planned

HERE = Path(__file__).parent
SMALL = {"dim": 32, "depth": 2, "heads": 2, "mlp_dim": 128, "head_dim": 64, "head_depth": 2, "head_dim_head": 8,
         "head_mlp_dim": 48}  # fmt: skip
PUBLISHED = tuple(name for name in FAMILIES if name != "dinov2")  # whose weights we make ourselves: test_dinov2
SIZES = {
    "hmr2": SMALL,
    "camerahmr": {**SMALL, "fov_width": 4},
    "hamer": SMALL,
    "tokenhmr": {**SMALL, "head_dim": 1024, "codes": 32, "code_dim": 12, "decoder_dim": 16},
}
OUTPUTS = ("global_orient", "body_pose", "betas", "camera")


def golden(family):
    with np.load(HERE / "golden" / f"{family}.npz") as file:
        return dict(file)


def model_of(family, **sizes):
    """The small model whose weights the golden file was made with."""
    model = build(family, {**SIZES[family], **sizes})
    model.load_state_dict(seeded({key: value.shape for key, value in model.state_dict().items()}))
    return model.eval()


def condition_of(family, stored):
    if family != "camerahmr":
        return None
    center, side, size, focal = (torch.from_numpy(stored[key]) for key in ("center", "side", "size", "focal"))
    return bbox_info(center, side, size.flip(1), focal)


def assert_near(ours, theirs):
    torch.testing.assert_close(ours, torch.from_numpy(theirs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", PUBLISHED)
@torch.no_grad()
def test_answers_are_those_of_the_authors_network(family):
    stored = golden(family)
    output = model_of(family)(pictures(stored["pictures"])[:, :, :, 32:-32], None, condition_of(family, stored))
    for name in OUTPUTS:
        assert_near(getattr(output, name), stored[name])
    assert (torch.from_numpy(stored["body_pose"]).std(0) > 1e-3).any()  # two pictures, two answers
    if family != "camerahmr":  # whose camera is that of the whole image: see below
        scale, x, y = output.camera.unbind(1)  # of a crop of 256 pixels
        assert_near(torch.stack((x, y, 2 * FOCAL / (256 * scale)), 1), stored["translation"])
    assert (HERE / "golden" / f"{family}.npz").stat().st_size < 300_000
    assert "@" in str(stored["upstream"])


@pytest.mark.parametrize("family", ["hmr2", "hamer"])
@torch.no_grad()
def test_mean_shape_and_three_iterations(family):
    stored = golden(family)
    token_dim = max(FAMILIES[family].token_dims)
    output = model_of(family, token_dim=token_dim, iterations=3)(pictures(stored["pictures"])[:, :, :, 32:-32])
    for name in OUTPUTS:
        assert_near(getattr(output, name), stored[f"mean_shape_{name}"])


@pytest.mark.parametrize("family", ["hmr2", "hamer"])
@torch.no_grad()
def test_tokens_are_those_of_the_authors_backbone(family):
    stored = golden(family)
    assert_near(model_of(family).backbone(pictures(stored["pictures"])[:, :, :, 32:-32]), stored["tokens"])


@torch.no_grad()
def test_camera_of_the_whole_image_and_its_field_of_view():
    stored = golden("camerahmr")
    model = model_of("camerahmr")
    center, side, size = (torch.from_numpy(stored[key]) for key in ("center", "side", "size"))
    fov = model.fov_net(pictures(stored["pictures"]))
    assert_near(fov, stored["fov"])
    # from the stored angle: the tangent of a random one is so steep that the last bits of `fov`, which differ between
    # processors, moved the focal length by 3e-4
    focal = focal_length(torch.from_numpy(stored["fov"])[:, 1], size[:, 0])
    torch.testing.assert_close(focal, torch.from_numpy(stored["focal"]), atol=0, rtol=1e-5)
    output = model(pictures(stored["pictures"])[:, :, :, 32:-32], None, condition_of("camerahmr", stored))
    assert_near(model.head.keypoints(output.features), stored["keypoints"])
    where = full_translation(output.camera, center, side, size.flip(1), torch.from_numpy(stored["focal"]))
    torch.testing.assert_close(where, torch.from_numpy(stored["translation"]), atol=1e-5, rtol=1e-4)


def test_camerahmr_says_what_it_lacks():
    model = model_of("camerahmr")
    for condition in (None, torch.zeros(1, 3), torch.zeros(2, 4)):
        with pytest.raises(BadInput, match="bbox_info"):
            model(torch.zeros(2, 3, 256, 192), None, condition)


@torch.no_grad()
def test_focal_length_of_whole_images():
    """Through the white square, the network and the tangent; a wide picture and the same on its own white square."""
    net = model_of("camerahmr").fov_net
    image = torch.from_numpy(np.random.RandomState(0).randint(0, 256, (1, 128, 256, 3), np.uint8))
    square = torch.full((1, 256, 256, 3), 255, dtype=torch.uint8)
    square[:, 64:192] = image
    assert torch.equal(letterboxed(image), square.float())
    # the tangent of a random angle can be steep
    torch.testing.assert_close(net.focal_length(image) * 2, net.focal_length(square), atol=0, rtol=1e-3)


@pytest.mark.parametrize(("height", "width"), [(512, 768), (700, 300), (333, 257), (256, 256)])
def test_letterboxing_is_a_mean_over_areas(height, width):
    """Against pixels cut into as many equal parts as the square has, counted one by one."""
    image = torch.from_numpy(np.random.RandomState(1).randint(0, 256, (1, height, width, 3), np.uint8))
    found = letterboxed(image)
    assert found.shape == (1, 256, 256, 3)
    rows, columns = (256 * height // width, 256) if width > height else (256, 256 * width // height)
    top, left = (256 - rows) // 2, (256 - columns) // 2
    for row, column in ((0, 0), (rows // 2, columns // 3), (rows - 1, columns - 1)):
        down = np.floor((row + (np.arange(2000) + 0.5) / 2000) * height / rows).astype(int)
        across = np.floor((column + (np.arange(2000) + 0.5) / 2000) * width / columns).astype(int)
        wanted = image[0].double().numpy()[down].mean(0)[across].mean(0)
        assert np.abs(found[0, top + row, left + column].numpy() - wanted).max() < 0.7  # rounding, and 2000 parts
    border = torch.ones(256, 256, dtype=torch.bool)
    border[top : top + rows, left : left + columns] = False
    assert (found[0][border] == 255).all()


@given(st.floats(0.3, 2.5), st.floats(200, 4000))
def test_focal_length_and_field_of_view_are_inverse(fov, height):
    focal = focal_length(torch.tensor([fov]), torch.tensor([height]))
    torch.testing.assert_close(2 * torch.atan(height / 2 / focal), torch.tensor([fov]), atol=1e-4, rtol=1e-4)


@given(st.floats(0.3, 3), st.floats(-1, 1), st.floats(-1, 1), st.floats(100, 600), st.floats(-300, 300))
def test_whole_image_and_crop_agree_where_the_body_is_seen(scale, x, y, side, offset):
    """The point that the translation names projects into the box where the weak camera puts it."""
    camera = torch.tensor([[scale, x, y]])
    center, image, focal = (
        torch.tensor([[640 + offset, 360 - offset]]),
        torch.tensor([[1280.0, 720.0]]),
        torch.tensor([1500.0]),
    )
    where = full_translation(camera, center, torch.tensor([side]), image, focal)
    seen = focal * where[:, :2] / where[:, 2:] + image / 2
    wanted = center + side / 2 * scale * camera[:, 1:]
    torch.testing.assert_close(seen, wanted, atol=2e-2, rtol=1e-4)


@torch.no_grad()
def test_rows_of_tokenhmr_are_columns_of_the_others():
    pose = torch.randn(5, 6)
    found = {name: build(name, SIZES[name]).head.rotations(pose) for name in PUBLISHED}
    rows = found["tokenhmr"]
    assert all(torch.equal(said, rows if name == "tokenhmr" else rows.mT) for name, said in found.items())
    torch.testing.assert_close(rows[:, 0], torch.nn.functional.normalize(pose[:, :3]))


def expanded(width, height, aspect):
    """The box grown to an aspect ratio, one side at a time."""
    if height / width < aspect[1] / aspect[0]:
        return width, width * aspect[1] / aspect[0]
    return height * aspect[0] / aspect[1], height


@given(st.floats(10, 1000), st.floats(10, 1000))
def test_boxes(width, height):
    sides = {name: family.box.side(width, height) for name, family in FAMILIES.items()}
    assert sides["camerahmr"] == max(width, height)
    assert sides["hmr2"] == sides["tokenhmr"] == pytest.approx(max(expanded(width, height, (192, 256))))
    assert sides["hamer"] == pytest.approx(2 * sides["hmr2"])


@pytest.mark.parametrize("family", PUBLISHED)
def test_full_size_has_exactly_the_keys_and_shapes_of_the_released_weights(family):
    with torch.device("meta"):
        model = build(family)
    wanted = json.loads((HERE / "manifests" / f"{family}.json").read_text())
    wanted = {key: shape for key, shape in wanted.items() if key.startswith(model.family.prefixes)}
    for part in model.family.parts:
        theirs = json.loads((HERE / "manifests" / f"{family}_{part.argument}.json").read_text())
        wanted |= {f"{part.prefix}{key}": shape for key, shape in theirs.items()}
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == wanted
    counted = {"hmr2": 670.459e6, "camerahmr": 738.389e6}  # checkpoints.md
    if family in counted:
        assert sum(p.numel() for p in model.parameters()) == pytest.approx(counted[family], abs=500)


@pytest.mark.parametrize("family", PUBLISHED)
@torch.no_grad()
def test_merging_tokens_and_layers_as_of_any_model(family):
    """Steps that do nothing change no bit; Mask-ToMe leaves the tokens that it says, the person's own, and a body."""
    from compress.policies.merge_layers import MergeLayers
    from compress.policies.merge_tokens import MergeTokens

    stored = golden(family)
    crop, condition = pictures(stored["pictures"])[:, :, :, 32:-32], condition_of(family, stored)
    plain, model = model_of(family), model_of(family)
    mask = torch.zeros(2, 256, 192)
    mask[:, 64:192, 48:144] = 1
    for step in (MergeLayers(strategy="explicit", windows=()), MergeTokens(keep=192)):
        applied(planned(step, model), model)
    for name in (*OUTPUTS, "features"):
        assert torch.equal(*(getattr(one(crop, mask, condition), name) for one in (model, plain)))
    applied(planned(MergeLayers(strategy="explicit", windows=((0, 1),)), model), model)
    applied(planned(MergeTokens(keep=120, per_layer=72), model), model)
    tokens, person = model.encode(crop, mask), mask[:, ::16, ::16].flatten(1) > 0
    assert tokens.x.shape[1] == 120 and (tokens.size.sum(1) == 192).all()
    assert (tokens.size.gather(1, tokens.source)[person] == 1).all()
    output = model(crop, mask, condition)
    assert len(model.backbone.blocks) == 1
    assert output.rotations.shape == plain(crop, mask, condition).rotations.shape
    identity = output.rotations @ output.rotations.mT
    torch.testing.assert_close(identity, torch.eye(3).expand_as(identity), atol=1e-4, rtol=0)


def products(model, calls):
    """Multiply-accumulates of all linear and convolution layers while `calls` run, by their own formula."""
    total = [0]

    def count(module, given, output):
        reads = module.weight[0].numel()  # what each number of the output is made of
        total[0] += output.numel() * reads

    kinds = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d)
    hooks = [module.register_forward_hook(count) for module in model.modules() if isinstance(module, kinds)]
    with torch.no_grad():
        calls()
    for hook in hooks:
        hook.remove()
    return total[0]


@pytest.mark.parametrize("family", PUBLISHED)
def test_cost_counts_what_runs_with_and_without_weights(family):
    model = model_of(family)
    crop, image = torch.zeros(1, 3, 256, 192), torch.zeros(1, 3, 256, 256)
    rest = (None, torch.zeros(1, 3)) if family == "camerahmr" else ()
    beside = {"fov_net": image} if family == "camerahmr" else {}

    def calls():
        model(crop, *rest)
        for name, seen in beside.items():
            model.get_submodule(name)(seen)

    wanted = products(model, calls)
    mask = torch.zeros(1, 256, 192)
    given = (crop, mask, *rest[1:])
    found = cost(model, *given, beside=beside)
    assert found.macs.linear == wanted
    assert sum(part.macs.true for part in found.parts) == found.macs.true
    assert found.params == sum(p.numel() for p in model.parameters())
    with torch.device("meta"):
        empty = build(family, SIZES[family]).eval()
    meta = [value.to("meta") for value in given]
    assert cost(empty, *meta) == cost(model, *given)


@pytest.mark.slow
def test_recipe_of_camerahmr_removes_six_layers(fasthmr):
    code, out, _ = fasthmr("cost", "camerahmr", "--recipe", "fasthmr-camerahmr", "--json")
    found = json.loads(out)
    assert (code, found["layers"], found["tokens"]) == (0, 26, [152, 112, *[90] * 24])
    block = 12 * 1280**2 + 13 * 1280  # weights and biases of attention, MLP and norms
    assert found["params"] + 6 * block == pytest.approx(738.389e6, abs=500)  # checkpoints.md: with the FoV network
    assert [part["name"] for part in found["parts"]][-3:] == ["smpl_head", "fov_net", "other"]


def test_token_dim_belongs_to_the_family():
    for family, token_dim in (("hmr2", 160), ("camerahmr", 1), ("hamer", 157)):
        with pytest.raises(BadInput, match="token_dim"):
            build(family, {**SIZES[family], "token_dim": token_dim})
