"""Laws of files of weights: the same bytes for the same content, which the library reads, with the umask's mode."""

from __future__ import annotations

import itertools
import os

import pytest
import safetensors.torch
import torch

from compress.atomic import atomic_write
from compress.files.weights import TYPES
from compress.files.weights import safetensors as pieces
from hmr.checkpoints.convert import convert
from hmr.checkpoints.files import save
from hmr.models.model import build


def test_the_library_reads_back_every_type_and_shape(tmp_path):
    shapes = [(), (0,), (3,), (2, 3), (2, 0, 3), (1, 2, 3, 1)]
    state = {
        f'{name}.{len(shape)}.{sum(shape)} "\u00e9': torch.arange(torch.Size(shape).numel()).view(shape).to(dtype)
        for (dtype, name), shape in itertools.product(TYPES.items(), shapes)
    }
    state["turned"] = torch.arange(6.0).view(2, 3).T
    metadata = {"b": "1\n", "a": "\u00e9\x7f\x1f"}
    path = atomic_write(tmp_path / "x.safetensors", pieces(state, metadata))
    found = safetensors.torch.load_file(path)
    assert found.keys() == state.keys()
    assert all(found[k].dtype == v.dtype and torch.equal(found[k], v) for k, v in state.items())
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == metadata


def test_the_bytes_do_not_depend_on_any_order():
    state = {"b": torch.zeros(3), "a": torch.ones(2, dtype=torch.int64), "c": torch.ones(1).bool()}
    metadata = {"sizes": "{}", "architecture": "x", "kind": "y"}
    made = {
        b"".join(pieces(dict(some), dict(words)))
        for some in itertools.permutations(state.items())
        for words in itertools.permutations(metadata.items())
    }
    assert len(made) == 1


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o002])
def test_convert_writes_the_same_bytes_with_the_umasks_mode(mask, tmp_path):
    torch.manual_seed(0)
    sizes = {"dim": 32, "depth": 1, "heads": 2, "mlp_dim": 48, "head_dim": 24, "head_depth": 1, "head_mlp_dim": 40}
    source = save(build("hmr2", sizes).eval(), tmp_path / "model.safetensors")
    folders, before = [tmp_path / "one", tmp_path / "two"], os.umask(mask)
    try:
        for folder in folders:
            convert(source, folder)
    finally:
        os.umask(before)
    names = sorted(path.name for path in folders[0].iterdir())
    assert names == ["LICENCE.txt", "manifest.json", "model.safetensors"]
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
        assert (folders[0] / name).stat().st_mode & 0o777 == 0o666 & ~mask
    assert (folders[0] / "model.safetensors").read_bytes() == source.read_bytes()
