"""Laws of the files that weights come in: what a file is follows from its content, wherever and under whatever name."""

from __future__ import annotations

import json
import os
import pickle
import re
import struct

import pytest
import torch
from safetensors.torch import save, save_file

from compress.errors import BadInput
from hmr.checkpoints.files import load
from hmr.checkpoints.source import read
from hmr.models.model import build

STATE = {"backbone.weight": torch.arange(6.0).view(2, 3)}


def safetensors(length: int) -> bytes:
    """A file of STATE whose header is padded with spaces to `length` bytes, as the format allows."""
    content = save(STATE)
    (first,) = struct.unpack("<Q", content[:8])
    return struct.pack("<Q", length) + content[8 : 8 + first].ljust(length) + content[8 + first :]


@pytest.mark.parametrize("length", [0x80, 0x280, 0x480, 0x580, 0x7B * 8, 0x4B50, 0x04034B50])
def test_a_safetensors_file_is_read_whatever_its_length_begins_with(length, tmp_path):
    """0x80 begins a pickle, 0x280 one of protocol 2, 0x04034b50 a zip file, 0x7b a JSON object."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors(length))
    assert torch.equal(read(path).state["backbone.weight"], STATE["backbone.weight"])


@pytest.mark.parametrize("name", ["model.pth", "model.json", "model", "model.ckpt"])
def test_a_name_does_not_change_what_a_file_is(name, tmp_path):
    save_file(STATE, tmp_path / name)
    torch.save(STATE, tmp_path / f"torch-{name}")
    for path in (tmp_path / name, tmp_path / f"torch-{name}"):
        assert torch.equal(read(path).state["backbone.weight"], STATE["backbone.weight"])
    index = tmp_path / f"index-{name}"
    index.write_text(json.dumps({"weight_map": {"backbone.weight": name}}))
    assert torch.equal(read(index).state["backbone.weight"], STATE["backbone.weight"])


@pytest.mark.parametrize("protocol", range(6))
def test_a_plain_pickle_is_called_one(protocol, tmp_path):
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"state": [1.0] * 100}, protocol))
    with pytest.raises(BadInput, match="a plain pickle" if protocol >= 2 else "not a readable file"):
        read(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "a web page"),
        (b"\n<html lang='en'></html>", "a web page"),
        (b"", "empty"),
        (safetensors(0x80)[:-1], "not a readable file of torch.save or safetensors"),
        (safetensors(0x80)[:60], "not a readable file of torch.save or safetensors"),
    ],
)
def test_what_came_in_place_of_the_weights_is_named(content, words, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=words):
        read(path)


TINY = {"dim": 32, "depth": 2, "heads": 2, "mlp_dim": 48, "head_dim": 24, "head_depth": 1, "head_mlp_dim": 40}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build("hmr2", TINY).eval()


def wrapped(state, wrapper, place):
    """`state` with a wrapper's name before the parts of keys that `place` begins: "" for the whole model."""
    return {re.sub(rf"^({re.escape(place)})(?=.)", rf"\1{wrapper}.", key): value for key, value in state.items()}


@pytest.mark.parametrize("place", ["", "backbone.", "backbone.blocks.1.", "backbone.blocks.0.attn.", "smpl_head."])
@pytest.mark.parametrize("wrapper", ["module", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"])
def test_a_wrapper_is_removed_wherever_it_stands(wrapper, place, model, tmp_path):
    state = model.state_dict()
    changed = wrapped(state, wrapper, place)
    assert changed.keys() != state.keys()
    torch.save({"state_dict": changed}, tmp_path / "model.ckpt")
    found = load(tmp_path / "model.ckpt", heads=2).state_dict()
    assert found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)


def test_wrappers_in_each_other(model, tmp_path):
    state = wrapped(model.state_dict(), "_checkpoint_wrapped_module", "backbone.blocks.1.")
    state = {f"model._orig_mod.module.{key}": value for key, value in state.items()}
    save_file(state, tmp_path / "model.safetensors")
    found = load(tmp_path / "model.safetensors", heads=2).state_dict()
    assert all(torch.equal(found[key], value) for key, value in model.state_dict().items())


def test_two_tensors_of_one_key_are_refused(model, tmp_path):
    state = model.state_dict()
    torch.save({**state, **wrapped(state, "module", "")}, tmp_path / "model.ckpt")
    with pytest.raises(BadInput, match="holds two sets of weights, as 'backbone"):
        load(tmp_path / "model.ckpt", heads=2)


def test_links_as_in_the_cache_of_a_hub_are_followed(fasthmr, model, tmp_path):
    """snapshots/REVISION/NAME leads to blobs/HASH, which has no suffix."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0a1b"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    state = model.state_dict()
    keys = sorted(state)
    shards = {"model-1-of-2.safetensors": keys[::2], "model-2-of-2.safetensors": keys[1::2]}
    for number, (name, some) in enumerate(shards.items()):
        save_file({key: state[key] for key in some}, blobs / str(number))
        (snapshot / name).symlink_to(f"../../blobs/{number}")
    index = {"weight_map": {key: name for name, some in shards.items() for key in some}}
    (blobs / "2").write_text(json.dumps(index))
    (snapshot / "model.safetensors.index.json").symlink_to("../../blobs/2")
    torch.save(state, blobs / "3")
    (snapshot / "model.ckpt").symlink_to("../../blobs/3")
    for path in (snapshot, snapshot / "model.safetensors.index.json", snapshot / "model.ckpt"):
        found = load(path, heads=2).state_dict()
        assert all(torch.equal(found[key], state[key]) for key in state)
        assert fasthmr("inspect", path, "--heads", 2)[0] == 0


def test_links_that_lead_to_no_regular_file_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    targets = {"loop": "loop", "dangling": "nothing", "device": "/dev/zero", "to_pipe": "pipe"}
    for name, target in targets.items():
        (tmp_path / name).symlink_to(target)
    for name in (*targets, "pipe"):
        words = "leads to no file" if name in ("loop", "dangling") else "not a regular file"
        with pytest.raises(BadInput, match=words):
            read(tmp_path / name)
        (tmp_path / "index.json").write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(BadInput, match="no file beside the index"):
            read(tmp_path / "index.json")
