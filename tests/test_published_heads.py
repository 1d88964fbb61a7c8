"""Networks of transformers with a head of the user's, from folders as `save_pretrained` writes them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

import hmr
from compress.errors import BadInput
from hmr.adapters.adapter import named
from hmr.adapters.check import checked

FILE = """
from torch import nn

from hmr.published.transformers_vit import TransformersViT


class Head(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.out = nn.Linear(dim, 15)

    def forward(self, tokens):
        return self.out(tokens[:, 0])


class Mine(TransformersViT):
    network, size, blocks, checkpoint = "net", (32, 32), {blocks!r}, "head.pt"

    def head(self, dim):
        return Head(dim)

    def joints(self, outputs):
        return outputs.unflatten(1, (5, 3))
"""
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 4}
KINDS = {"ViT": "vit.layers", "Dinov2": "vit.encoder.layer", "DINOv3ViT": "vit.model.layer"}


@pytest.fixture(params=KINDS)
def network(request, tmp_path, monkeypatch) -> nn.Module:
    """A small network of transformers, whose folder and adapter are in the folder that is worked in."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model, config = (getattr(transformers, f"{request.param}{end}") for end in ("Model", "Config"))
    module = model(config(**SIZES)).eval()
    module.save_pretrained("net")
    torch.save({"out.weight": torch.randn(15, 32) / 4, "out.bias": torch.randn(15) / 4}, "head.pt")
    Path("mine.py").write_text(FILE.format(blocks=KINDS[request.param]))
    return module


@torch.no_grad()
def test_it_is_the_network_with_its_head(network):
    model, crops = hmr.load("mine.py"), torch.randn(2, 3, 32, 32)
    head = torch.load("head.pt")
    wanted = network(crops).last_hidden_state[:, 0] @ head["out.weight"].T + head["out.bias"]
    torch.testing.assert_close(model(crops).joints, wanted.unflatten(1, (5, 3)), atol=1e-5, rtol=1e-4)
    assert {"stacks", "read", "batch"} - {*checked(named("mine.py"))} == {"stacks"}


def test_it_goes_through_the_commands(fasthmr, network):
    code, out, err = fasthmr("cost", "mine.py", "--json")
    assert code == 0, err
    assert json.loads(out)["params"] == sum(p.numel() for p in hmr.load("mine.py").parameters())


def test_what_is_not_there_is_said(network, monkeypatch):
    Path("mine.py").write_text(Path("mine.py").read_text().replace("vit.", "vit.no."))
    with pytest.raises(BadInput, match="name its list of blocks"):
        hmr.load("mine.py")
    torch.save({"out.weight": torch.zeros(15, 32)}, "head.pt")
    with pytest.raises(BadInput, match=r"head\.pt: not the weights of Head: 'out.bias' is missing"):
        hmr.load("mine.py")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(BadInput, match="pip install transformers"):
        hmr.load("mine.py")
