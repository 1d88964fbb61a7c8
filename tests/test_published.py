"""Networks of `hmr.published` against their authors' own, and through the commands as a user has them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import roma
import torch
from PIL import Image
from smplx.lbs import batch_rigid_transform, blend_shapes, vertices2joints

import hmr
from compress.errors import BadInput
from compress.policies.merge_tokens import MergeTokens
from hmr.adapters.adapter import named
from hmr.adapters.check import checked
from hmr.models.own_model import OwnModel
from hmr.published.parts.dinov3 import DINOv3
from hmr.published.parts.encoder import Encoder
from hmr.published.parts.mhr import euler
from hmr.published.parts.places import WholePicture
from hmr.published.parts.sam_3d_body_decoder import PromptSizes
from hmr.published.parts.smplx_joints import SMPLXJoints
from hmr.published.sam_3d_body import SAM3DBody, SAM3DBodyNetwork
from tests.golden.seeds import pictures, smplx_body, stored_pictures
from tests.planning import planned
from tests.published import PUBLISHED, golden, import_hand

HERE = Path(__file__).parent


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Where a user works: a few pictures, an imported hand, and mine.py and mine.ckpt once they are written."""
    monkeypatch.setenv("FASTHMR_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for i, picture in enumerate(stored_pictures(64, 48, 6)):
        Image.fromarray(picture).save(tmp_path / "pictures" / f"{i}.png")
    import_hand(tmp_path)
    np.savez(tmp_path / "SMPLX_NEUTRAL.npz", **smplx_body())  # type: ignore[arg-type]  # numpy types ** as allow_pickle
    return tmp_path


def network_of(name, folder):
    return named(str(PUBLISHED[name].write(folder))).adapter.load()


def assert_near(ours, theirs, atol=1e-5):
    torch.testing.assert_close(ours, torch.from_numpy(theirs), atol=atol, rtol=1e-5)


@torch.no_grad()
def test_wilor_answers_as_its_authors_network(folder):
    stored, network = golden("wilor"), network_of("wilor", folder)
    crops = pictures(stored["pictures"])[:, :, :, 32:-32]
    said = network(crops)
    for name in ("rotations", "betas", "camera", "joints"):
        assert_near(said[name], stored[name])
    assert (torch.from_numpy(stored["rotations"]).std(0) > 1e-3).any()  # two pictures, two answers
    x = network.backbone(crops)
    blind = network.read(x[:, :18], torch.zeros(2, 32, 16, 12))  # the grid has its say
    assert (blind["rotations"] - said["rotations"]).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["body", "hand"])
@pytest.mark.parametrize("name, times, cut", [("sam_3d_body", 4, 0), ("sam_3d_body_vit", 32, 64)])
@torch.no_grad()
def test_sam_3d_body_answers_as_its_authors_network(folder, name, times, cut, kind):
    stored = golden(name)
    network = network_of(f"{name}_hand" if kind == "hand" else name, folder)
    crops = pictures(stored["pictures"], times)
    said = network(crops[:, :, :, cut : crops.shape[3] - cut])
    for mine, theirs in {"hand_boxes": "boxes", "hand_logits": "logits"}.items():
        assert_near(said[mine], stored[f"{kind}_{theirs}"])
    for part in ("keypoints", "camera", "place", "depth"):
        assert_near(said[part], stored[f"{kind}_{part}"])
    shown = torch.from_numpy(stored[f"{kind}_place"]).abs().amax(-1) < 0.5
    assert shown.any() and (torch.from_numpy(stored[f"{kind}_keypoints"]).std(0) > 1e-3).any()


def test_angles_about_a_right_angle():
    """Where y turns by a right angle, x and z turn the same way: z is 0."""
    down = torch.tensor([0.0, 0, -1, 0.6, 0.8, 0])
    about_x, about_y, about_z = euler(down)
    assert (about_y - torch.pi / 2).abs() < 1e-6 and about_z == 0
    c, s = about_x.cos(), about_x.sin()
    torch.testing.assert_close(torch.stack((s, c, torch.tensor(0.0))), down[3:])  # the second column of Ry(90) Rx


@torch.no_grad()
def test_multi_hmr_answers_as_its_authors_network(folder):
    stored, network = golden("multi_hmr"), network_of("multi_hmr", folder)
    said = network(pictures(stored["pictures"]))
    for name in ("scores", "place", "rotations", "betas", "expression", "depth"):
        assert_near(said[name], stored[name], atol=5e-5 if name == "rotations" else 1e-5)  # of near vectors in 6D
    assert len(set(stored["scores"].argmax(1))) == 2 and (torch.from_numpy(stored["rotations"]).std(0) > 1e-3).any()
    head, seen = said["joints"][:, 15], 56 / torch.tan(torch.tensor(torch.pi / 6))
    torch.testing.assert_close(56 + seen * head[:, :2] / head[:, 2:], said["place"], atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("kind", ["twoway", "cross-person"])
@torch.no_grad()
def test_prompt_hmr_answers_as_its_authors_network(folder, kind):
    stored = golden("prompt_hmr")
    network = network_of("prompt_hmr" if kind == "twoway" else "prompt_hmr_cross", folder)
    said = network(pictures(stored["pictures"]))
    for name in ("rotations", "betas", "place"):
        assert_near(said[name], stored[f"{kind}_{name}"])
    assert (torch.from_numpy(stored[f"{kind}_rotations"]).std(0) > 1e-3).any()


@torch.no_grad()
def test_camerahmr_for_smplx_answers_as_its_authors_network(folder):
    stored, network = golden("camerahmr_smplx"), network_of("camerahmr_smplx", folder)
    said = network(pictures(stored["pictures"])[:, :, :, 32:-32])
    for name in ("rotations", "betas", "camera"):
        assert_near(said[name], stored[name])
    assert (torch.from_numpy(stored["rotations"]).std(0) > 1e-3).any()


def test_joints_of_smplx_are_those_of_its_authors():
    arrays, draw = smplx_body(), torch.Generator().manual_seed(0)
    body = SMPLXJoints(arrays, 16)
    rotations = roma.special_procrustes(torch.randn(2, 55, 3, 3, generator=draw))
    betas, expression = (torch.randn(2, n, generator=draw) for n in (16, 10))
    directions = torch.from_numpy(arrays["shapedirs"]).float()
    shaped = torch.from_numpy(arrays["v_template"]).float() + blend_shapes(
        torch.cat((betas, expression), 1), torch.cat((directions[..., :16], directions[..., 300:310]), -1)
    )
    rest = vertices2joints(torch.from_numpy(arrays["J_regressor"]).float(), shaped)
    wanted, _ = batch_rigid_transform(rotations, rest, torch.tensor(body.parents))
    torch.testing.assert_close(body(rotations, betas, expression), wanted, atol=1e-4, rtol=1e-4)
    still = torch.eye(3).expand(2, 33, 3, 3)
    padded = body(torch.cat((rotations[:, :22], still), 1), betas)
    torch.testing.assert_close(body(rotations[:, :22], betas), padded)


@pytest.mark.parametrize("name", PUBLISHED)
def test_golden_files_are_small_and_say_whose_they_are(name):
    path = HERE / "golden" / f"{PUBLISHED[name].golden}.npz"
    assert path.stat().st_size < 100_000 and "@" in str(golden(path.stem)["upstream"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_file_of_a_few_lines_passes_the_check(folder, name):
    proved = checked(named(str(PUBLISHED[name].write(folder))))
    late = [] if name == "wilor" else ["stacks"]
    assert [*proved] == ["blocks", *late, "crops", "joints", "read", "order", "prefix", "grid", "batch"]


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in PUBLISHED if name not in ("wilor", "sam_3d_body")]


@pytest.mark.parametrize("name", ["wilor", "sam_3d_body", *SLOW])
def test_compressed_saved_and_loaded_it_answers_the_same(fasthmr, folder, name):
    PUBLISHED[name].write(folder)
    model = hmr.load("mine.py")
    patches = model.grid[0] * model.grid[1]
    Path("small.yaml").write_text(
        "schema_version: 1\nname: small\nsteps:\n  - {policy: merge_layers, strategy: greedy, layers: 1}\n"
        f"  - {{policy: merge_tokens, keep: {patches - patches // 4}, per_layer: {patches // 4}, protect: none}}\n"
        + "".join(
            f"  - {{policy: prune_width, head_ratio: 0.5, mlp_ratio: 0.5, stack: {stack}}}\n" for stack in model.stacks
        )
    )
    words = "compress small.yaml --model mine.py --data frames@pictures --label-free --out small"
    code, out, err = fasthmr(*words.split(), "--json")
    assert code == 0, err
    small, again = (hmr.load("small", adapter="mine.py") for _ in range(2))
    crops = torch.randn(2, 3, *model.crop_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert not torch.equal(small(crops).joints, model(crops).joints)
        assert torch.equal(small(crops).joints, again(crops).joints)
    rows = json.loads(out)["rows"]
    assert rows[0]["mpjpe_mm"]["mean"] == pytest.approx(0, abs=0.01) and rows[-1]["mpjpe_mm"]["mean"] > 0


def meta_rig(shape, parameters, face):
    return parameters.new_zeros(len(shape), 18439, 3), parameters.new_zeros(len(shape), 127, 8)


def test_sam_3d_body_has_the_keys_of_the_released_backbone():
    with torch.device("meta"):
        own = Encoder(DINOv3()).state_dict()
    wanted = json.loads((HERE / "manifests" / "sam3dbody_dinov3_backbone.json").read_text())
    assert {f"backbone.{key}": list(value.shape) for key, value in own.items()} == wanted


@pytest.mark.slow
def test_sam_3d_body_at_full_size_costs_what_it_does_part_by_part():
    with torch.device("meta"):
        network = SAM3DBodyNetwork(Encoder(DINOv3()), meta_rig, WholePicture(512, 512), PromptSizes()).eval()
    read = lambda own, tokens: own.read(tokens.to_grid())  # noqa: E731
    model = OwnModel(
        network, read, (512, 512), blocks="backbone.encoder.blocks", head_needs="grid", stacks=SAM3DBody.stacks
    ).eval()
    before = model.cost()
    tokens, dim, hidden = 1029, 1280, 5120
    block, attention = tokens * (4 * dim**2 + 3 * dim * hidden), 2 * tokens**2 * dim
    parts = {part.name: part.macs.true for part in before.parts}
    assert parts["module.backbone.encoder.blocks.31"] == block and before.layers == 32
    assert parts["other"] == 32 * attention  # queries with keys, weights with values: no module's own
    step = MergeTokens(policy="merge_tokens", keep=512, per_layer=64, protect="none")
    model = planned(step, model).shape(model)
    after = model.cost()
    model.stacks["decoder"].blocks = model.stacks["decoder"].blocks[:3]
    half = {part.name: part.macs.true for part in model.cost().parts}
    assert half["module.decoder"] == parts["module.decoder"] // 2
    slim = {part.name: part.macs.true for part in after.parts}
    assert after.tokens[-1] == 1029 - 512 and slim["module.backbone.encoder.blocks.31"] < 0.51 * block
    assert slim["module.decoder"] == parts["module.decoder"] > 0  # it reads the whole grid


def test_what_is_not_there_is_said(folder):
    path = PUBLISHED["wilor"].write(folder)
    state = torch.load("mine.ckpt")["state_dict"]
    for change, said in (
        ({"backbone.last_norm.weight": None}, "'backbone.last_norm.weight' is missing"),
        ({"backbone.more": torch.zeros(1)}, "'backbone.more' is too much"),
        ({"backbone.deccam.bias": torch.zeros(4)}, "'backbone.deccam.bias' has another shape"),
        ({"backbone.deccam.bias": torch.full((3,), torch.nan)}, "'backbone.deccam.bias' is not finite"),
    ):
        torch.save({key: value for key, value in {**state, **change}.items() if value is not None}, "mine.ckpt")
        with pytest.raises(BadInput, match=said):
            hmr.load(str(path))
    Path("mine.ckpt").unlink()
    with pytest.raises(BadInput, match=r"mine\.ckpt; looked at .* Get it from https"):
        hmr.load(str(path))


def test_a_class_itself_is_a_model_where_its_checkpoint_has_its_name(fasthmr, folder):
    (folder / "home" / "checkpoints").mkdir(parents=True)
    torch.save({"state_dict": PUBLISHED["wilor"].state()}, folder / "home" / "checkpoints" / "wilor_final.ckpt")
    code, out, err = fasthmr("cost", "hmr.published.wilor:WiLoR", "--json")
    assert code == 0, err
    assert json.loads(out)["tokens"][-1] == 18 + 192


def test_bodies_that_are_not_there_are_said(folder, monkeypatch):
    monkeypatch.setenv("FASTHMR_HOME", "nowhere")
    with pytest.raises(BadInput, match="fasthmr body import"):
        network_of("wilor", folder)
    (folder / "SMPLX_NEUTRAL.npz").unlink()
    for name in ("multi_hmr", "prompt_hmr", "camerahmr_smplx"):
        with pytest.raises(BadInput, match=r"no file SMPLX_NEUTRAL\.npz; .* https://smpl-x\.is\.tue\.mpg\.de"):
            network_of(name, folder)
    path = PUBLISHED["sam_3d_body"].write(folder)
    path.write_text(path.read_text().partition("def rig")[0].rstrip() + "\n")
    with pytest.raises(BadInput, match="pip install pymomentum-cpu mhr"):
        hmr.load(str(path))
