"""Laws of the files that weights come in: what a file is follows from its content, wherever and under whatever name."""

from __future__ import annotations

import json
import pickle
import struct

import pytest
import torch
from safetensors.torch import save, save_file

from compress.errors import BadInput
from hmr.checkpoints.source import read

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
