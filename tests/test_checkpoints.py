"""Laws of reading checkpoints: whatever the wrapping, the same model comes out, equal to the bit."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from yacs.config import CfgNode

from compress.errors import BadInput
from hmr.checkpoints.files import inspect, load, save
from tests.checkpoint_files import SIZES, TOKENIZER, equal, made, prefixed, upstream

WRAPPINGS = {
    "plain": lambda state: state,
    "parallel": lambda state: prefixed("module.", state),
    "compiled": lambda state: {"state_dict": prefixed("model._orig_mod.", state)},
    "network": lambda state: {"network": prefixed("module.", state), "epoch": 3},
    "model_state_dict": lambda state: {"model_state_dict": state, "optimizer": {"state": {}}},
    "nested": lambda state: {"model": {"state_dict": state}},
    "ema": lambda state: {"state_dict": {k: torch.zeros_like(v) for k, v in state.items()}, "state_dict_ema": state},
    "ema_keys": lambda state: {
        "state_dict": {**prefixed("model.", {k: torch.zeros_like(v) for k, v in state.items()}),
                       **prefixed("ema_model.", state)}
    },
    "yacs": lambda state: {"state_dict": state, "hyper_parameters": {"cfg": CfgNode({"MODEL": {"IMAGE_SIZE": 256}})}},
    "parameters": lambda state: {"state_dict": {k: torch.nn.Parameter(v) if v.is_floating_point() else v
                                                for k, v in state.items()}, "cfg": CfgNode({"A": 1})},
}  # fmt: skip


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_every_wrapping_holds_the_same_model(wrapping, tmp_path):
    model = made("hmr2")
    torch.save(WRAPPINGS[wrapping](upstream(model)), tmp_path / "model.ckpt")
    assert equal(load(tmp_path / "model.ckpt", heads=2), model)


@pytest.mark.parametrize("architecture", SIZES)
def test_every_family_is_recognised_by_its_keys(architecture, tmp_path):
    model = made(architecture)
    torch.save({"state_dict": upstream(model)}, tmp_path / "model.ckpt")
    files = {}
    if architecture == "tokenhmr":
        state = model.state_dict()
        net = {key.removeprefix(TOKENIZER): value for key, value in state.items() if key.startswith(TOKENIZER)}
        net["encoder.encoder.0.weight"] = torch.zeros(3)
        torch.save({"net": net, "hparams": CfgNode({"ARCH": {"WIDTH": 16}})}, tmp_path / "tokenizer.pth")
        files["tokenizer"] = tmp_path / "tokenizer.pth"
    found = load(tmp_path / "model.ckpt", heads=2, **files)
    assert equal(found, model)
    ours = found.sizes.model_dump(exclude={"head_heads", "head_dim_head"})
    assert ours == model.sizes.model_dump(exclude={"head_heads", "head_dim_head"})


def test_camera_model_comes_from_its_own_file(tmp_path):
    model = made("camerahmr", fov_width=2)
    torch.save({"state_dict": upstream(model)}, tmp_path / "model.ckpt")
    net = {key.removeprefix("fov_net."): value for key, value in model.state_dict().items() if "fov_net." in key}
    torch.save({"state_dict": prefixed("model.", net)}, tmp_path / "cam.ckpt")
    assert equal(load(tmp_path / "model.ckpt", heads=2, cam_model=tmp_path / "cam.ckpt"), model)
    assert load(tmp_path / "model.ckpt", heads=2).sizes.model_dump()["fov_width"] == 0
    with pytest.raises(BadInput, match="hmr2 has no cam_model"):
        load(tmp_path / "model.ckpt", "hmr2", cam_model=tmp_path / "cam.ckpt")


def test_tokenizer_is_asked_for(tmp_path):
    torch.save(upstream(made("tokenhmr")), tmp_path / "model.ckpt")
    with pytest.raises(BadInput, match="tokenizer=FILE"):
        load(tmp_path / "model.ckpt", heads=2)
    with pytest.raises(BadInput, match=r"model\.ckpt: no tokenizer"):
        load(tmp_path / "model.ckpt", heads=2, tokenizer=tmp_path / "model.ckpt")


@pytest.mark.parametrize("architecture", SIZES)
def test_saved_and_loaded_twice_is_equal_to_the_bit(architecture, tmp_path):
    model = made(architecture)
    once = load(save(model, tmp_path / "once.safetensors"))
    twice = load(save(once, tmp_path / "twice.safetensors"))
    assert equal(once, model) and equal(twice, model)
    assert twice.sizes == model.sizes


def test_single_and_sharded_safetensors(tmp_path):
    model = made("hmr2")
    state = upstream(model)
    save_file(prefixed("model.", state), tmp_path / "single.safetensors")
    keys = sorted(state)
    shards = {"model-1-of-2.safetensors": keys[::2], "model-2-of-2.safetensors": keys[1::2]}
    for name, some in shards.items():
        save_file({key: state[key] for key in some}, tmp_path / name)
    index = {"metadata": {}, "weight_map": {key: name for name, some in shards.items() for key in some}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    for path in (tmp_path / "single.safetensors", tmp_path / "model.safetensors.index.json", tmp_path):
        assert equal(load(path, heads=2), model)
    index["weight_map"]["smpl_head.more"] = "model-1-of-2.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BadInput, match=r"smpl_head\.more"):
        load(tmp_path, heads=2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype, tmp_path):
    state = {
        key: value.to(dtype) if value.is_floating_point() else value for key, value in upstream(made("hmr2")).items()
    }
    torch.save(state, tmp_path / "model.pt")
    found = load(tmp_path / "model.pt", heads=2).state_dict()
    assert all(torch.equal(found[key], value.float()) for key, value in state.items())


def test_what_no_shape_tells_comes_from_the_configuration_and_gives_way_to_the_user(tmp_path):
    state = upstream(made("hmr2", token_dim=157, head_heads=2, head_dim_head=4))
    settings = {"MODEL": {"SMPL_HEAD": {"IEF_ITERS": 3, "TRANSFORMER_DECODER": {"heads": 2}}}}
    torch.save({"state_dict": state, "hyper_parameters": {"cfg": CfgNode(settings)}}, tmp_path / "model.ckpt")
    told = load(tmp_path / "model.ckpt", heads=2).sizes
    assert (told.iterations, told.head_heads, told.head_dim_head, told.token_dim) == (3, 2, 4, 157)
    asked = load(tmp_path / "model.ckpt", heads=4, iterations=1, head_heads=1).sizes
    assert (asked.iterations, asked.heads, asked.head_heads, asked.head_dim_head) == (1, 4, 1, 8)
    with pytest.raises(BadInput, match="depth: "):
        load(tmp_path / "model.ckpt", depth=-1)
    with pytest.raises(BadInput, match=r"blocks\.2"):
        load(tmp_path / "model.ckpt", heads=2, depth=3)


def test_omegaconf_configuration_is_read_without_omegaconf(tmp_path):
    """As its containers pickle: a class and a state whose `_content` holds nodes with a `_val`."""
    from tests.hostile_checkpoints import Call, archive

    def container(**content):
        return Call("omegaconf.dictconfig", "DictConfig", state={"_content": content})

    leaf = Call("omegaconf.nodes", "AnyNode", state={"_val": 2})
    settings = container(MODEL=container(SMPL_HEAD=container(IEF_ITERS=leaf)))
    content = {"state_dict": upstream(made("hmr2")), "hyper_parameters": {"cfg": settings}}
    archive(tmp_path / "model.ckpt", content)
    assert load(tmp_path / "model.ckpt", heads=2).sizes.iterations == 2
    assert "omegaconf.dictconfig.DictConfig" in inspect(tmp_path / "model.ckpt")["unknown_globals"]


def test_containers_of_every_kind_are_read_beside_what_is_not_run(tmp_path):
    """Dicts of protocol 0 and 1, sets, frozen and not; a stub that is given entries keeps them."""
    from hmr.checkpoints.safe_torch import entry, read_torch
    from tests.hostile_checkpoints import Raw, archive

    content = {
        "old": Raw(b"(Va\nK\x01Vb\nK\x02d"),
        "many": Raw(b"}(K\x01K\x02NK\x03u"),
        "set": Raw(b"\x8f(K\x01Va\n\x90"),
        "frozen": Raw(b"(K\x01Va\n\x91"),
        "stub": Raw(b"cyacs.config\nCfgNode\n)RVa\nK\x05s"),
    }
    archive(tmp_path / "model.ckpt", content)
    found = read_torch(tmp_path / "model.ckpt")
    assert found.stubbed == ("yacs.config.CfgNode",)
    stub = found.content.pop("stub")
    assert entry(stub, "a") == 5
    assert found.content == {"old": {"a": 1, "b": 2}, "many": {1: 2, None: 3}, "set": {1, "a"}, "frozen": {1, "a"}}


def test_strict_inside_the_prefixes_and_only_there(tmp_path, caplog):
    state = upstream(made("hmr2"))
    torch.save(
        {**state, "discriminator.weight": torch.zeros(2), "initialized": torch.tensor(True)}, tmp_path / "more.pt"
    )
    with caplog.at_level("INFO", "hmr.checkpoints.files"):
        load(tmp_path / "more.pt", heads=2)
    assert "discriminator.weight, initialized" in caplog.text
    assert inspect(tmp_path / "more.pt")["ignored_keys"] == ["discriminator.weight", "initialized"]
    for key in ("backbone.more.weight", "smpl_head.more"):
        torch.save({**state, key: torch.zeros(2)}, tmp_path / "odd.pt")
        with pytest.raises(BadInput, match=rf"odd\.pt: .*{key}"):
            load(tmp_path / "odd.pt", heads=2)
        assert inspect(tmp_path / "odd.pt")["unexpected"] == [key]
    state.pop("smpl_head.decshape.bias")
    torch.save(state, tmp_path / "less.pt")
    with pytest.raises(BadInput, match=r"1 missing \(first 'smpl_head\.decshape\.bias'\)"):
        load(tmp_path / "less.pt", heads=2)
    assert inspect(tmp_path / "less.pt")["missing"] == ["smpl_head.decshape.bias"]


@pytest.mark.parametrize(
    "odd", [torch.zeros(3, dtype=torch.complex64), torch.eye(3).to_sparse(), torch.zeros(3).to(torch.float8_e4m3fn)]
)
def test_odd_tensors_are_left_out_where_no_model_needs_them(odd, tmp_path):
    model = made("hmr2")
    torch.save({**upstream(model), "smpl.odd": odd}, tmp_path / "beside.pt")
    assert equal(load(tmp_path / "beside.pt", heads=2), model)
    state = upstream(model)
    state["smpl_head.decshape.bias"] = torch.zeros(10).to(odd.dtype) if odd.layout == torch.strided else odd
    torch.save(state, tmp_path / "inside.pt")
    with pytest.raises(BadInput, match=r"smpl_head\.decshape\.bias"):
        load(tmp_path / "inside.pt", heads=2)


def spoil_integers(state):
    key = "backbone.blocks.0.attn.qkv.weight"
    return {**state, key: state[key].to(torch.int8)}


def spoil_classes(state):
    key = next(name for name in state if name.endswith("class_pred_layer.weight"))
    return {**state, key: state[key][:, :0].clone()}


def spoil_decoder(state):
    return {**state, f"{TOKENIZER}decoder.decoder.0.weight": torch.zeros(5)}


@pytest.mark.parametrize(
    ("architecture", "spoil", "words"),
    [
        ("hmr2", spoil_integers, r"qkv\.weight' holds torch\.int8, which is no weight"),
        ("tokenhmr", spoil_classes, "not a complete tokenhmr: shapes give no sizes"),
        ("tokenhmr", spoil_decoder, "not a complete tokenhmr: shapes give no sizes"),
    ],
)
def test_weights_that_make_no_model_are_one_sentence(architecture, spoil, words, tmp_path):
    path = tmp_path / "odd.safetensors"
    save_file(spoil(dict(made(architecture).state_dict())), path)
    with pytest.raises(BadInput, match=words):
        load(path)


def test_an_index_that_names_no_file_is_refused(tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"backbone.pos_embed": 5}}))
    with pytest.raises(BadInput, match="lies in no file"):
        load(path)


def test_weights_that_share_memory_in_the_file_do_not_in_the_model(tmp_path):
    state = upstream(made("hmr2"))
    state["backbone.blocks.1.norm1.weight"] = state["backbone.blocks.0.norm1.weight"]
    torch.save(state, tmp_path / "shared.pt")
    model = load(tmp_path / "shared.pt", heads=2)
    first, second = (model.get_parameter(f"backbone.blocks.{i}.norm1.weight") for i in (0, 1))
    assert torch.equal(first, second)
    with torch.no_grad():
        first.fill_(7)
    assert not second.eq(7).any()


def test_a_changed_model_does_not_change_its_file(tmp_path):
    torch.save(upstream(made("hmr2")), tmp_path / "model.pt")
    before = (tmp_path / "model.pt").read_bytes()
    with torch.no_grad():
        load(tmp_path / "model.pt", heads=2).backbone.pos_embed.fill_(7)
    assert (tmp_path / "model.pt").read_bytes() == before


def test_a_flipped_bit_in_a_file_of_torch_is_found_by_its_checksums(tmp_path):
    model = made("hmr2")
    for sums in (True, False):
        torch.serialization.set_crc32_options(sums)
        torch.save(upstream(model), tmp_path / "model.pt")
        torch.serialization.set_crc32_options(True)
        assert equal(load(tmp_path / "model.pt", heads=2), model)  # sums that are left out are not looked at
        content = bytearray((tmp_path / "model.pt").read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / "model.pt").write_bytes(content)
        if sums:
            with pytest.raises(BadInput, match=r"model\.pt: damaged"):
                load(tmp_path / "model.pt", heads=2)


def test_files_from_before_torch_1_6(tmp_path):
    model = made("hmr2")
    torch.save(upstream(model), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert equal(load(tmp_path / "old.pt", heads=2), model)


def test_inspect_and_convert(fasthmr, tmp_path):
    model = made("hmr2", heads=16)
    content = {"state_dict": upstream(model), "hyper_parameters": {"cfg": CfgNode({"A": 1})}}
    torch.save(content, tmp_path / "model.ckpt")
    (tmp_path / "LICENSE").write_text("Do as you like.")
    code, out, _ = fasthmr("inspect", tmp_path / "model.ckpt", "--json")
    found = json.loads(out)
    assert (code, found["family"], found["architecture"], found["tokens"]) == (0, "hmr2", "hmr2", 192)
    assert found["prefixes"] == ["backbone.", "smpl_head."] and found["head_needs"] == "tokens"
    assert found["unknown_globals"] == ["yacs.config.CfgNode"] and found["missing"] == []
    assert found["provenance"]["schema"] == "fasthmr.inspect/1"
    assert fasthmr("inspect", tmp_path / "model.ckpt")[0] == 0
    folder = tmp_path / "converted"
    code, out, _ = fasthmr("convert", tmp_path / "model.ckpt", "--heads", 16, "--out", folder, "--json")
    said = json.loads(out)
    assert (code, said["path"], said["provenance"]["schema"]) == (0, str(folder), "fasthmr.convert/1")
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "manifest.json", "LICENCE.txt"}
    text = (folder / "LICENCE.txt").read_text()
    assert "MIT" in text and "Do as you like." in text
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest == {key: value for key, value in said.items() if key not in ("path", "provenance")}
    assert manifest["keys"] == {key: list(value.shape) for key, value in model.state_dict().items()}
    assert equal(load(folder), load(tmp_path / "model.ckpt", heads=16))
    code, out, _ = fasthmr("cost", folder, "--json")
    assert code == 0 and json.loads(out)["layers"] == 2
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1] + b"\1")
    assert fasthmr("cost", folder)[0] == 2
    assert fasthmr("convert", tmp_path / "model.ckpt", "--out", folder)[0] == 2


def test_inspect_of_a_model_we_do_not_know(fasthmr, tmp_path):
    torch.save({"encoder.weight": torch.zeros(3)}, tmp_path / "other.pt")
    code, out, _ = fasthmr("inspect", tmp_path / "other.pt", "--json")
    found = json.loads(out)
    assert (code, found["family"], found["prefixes"], found["ignored_keys"]) == (
        0,
        None,
        ["encoder."],
        ["encoder.weight"],
    )
    assert fasthmr("inspect", tmp_path / "nothing.pt")[0] == 2
