"""Numbers of heads, which no shape tells: assumed aloud, read from a configuration, or asked for."""

from __future__ import annotations

import json

import pytest
import torch

import hmr
from compress.errors import BadInput
from hmr.checkpoints.files import load, save
from hmr.evaluation.evaluate import evaluate
from tests.checkpoint_files import made, upstream


def test_heads_are_assumed_aloud_read_from_a_configuration_or_asked_for(fasthmr, tmp_path, caplog):
    torch.save(upstream(made("hmr2", dim=768, heads=4)), tmp_path / "model.pt")
    assert load(tmp_path / "model.pt").sizes.heads == 12
    assert "assuming 12 attention heads" in caplog.text
    caplog.clear()
    assert load(tmp_path / "model.pt", heads=4).sizes.heads == 4
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 768, "num_attention_heads": 6}))
    assert load(tmp_path / "model.pt").sizes.heads == 6
    assert "heads, as" not in caplog.text
    torch.save(upstream(made("hmr2", dim=48, heads=4)), tmp_path / "model.pt")
    with pytest.raises(BadInput, match=r"pass heads=N \(--heads N\)"):
        load(tmp_path / "model.pt")
    assert fasthmr("convert", tmp_path / "model.pt", "--out", tmp_path / "ours")[0] == 2
    assert json.loads(fasthmr("inspect", tmp_path / "model.pt", "--json")[1])["sizes"]["heads"] is None
    code, out, _ = fasthmr("inspect", tmp_path / "model.pt", "--heads", 4, "--json")
    assert (code, json.loads(out)["sizes"]["heads"]) == (0, 4)
    assert fasthmr("convert", tmp_path / "model.pt", "--heads", 4, "--out", tmp_path / "ours")[0] == 0
    assert load(tmp_path / "ours").sizes.heads == 4


@pytest.mark.slow
def test_another_number_of_heads_is_measurably_worse(tmp_path):
    """What supports an assumed number: errors on rendered people, which need no labels of the user."""
    save(hmr.load("reference"), tmp_path / "model.safetensors")
    right, wrong = (load(tmp_path / "model.safetensors", heads=heads) for heads in (6, 12))
    frames = hmr.frames("synth:test", 60)
    assert evaluate(wrong, frames, None, right)["paired"]["mpjpe_mm"]["lo"] > 0


def test_heads_of_the_decoder_are_assumed_aloud_or_read_from_the_file(tmp_path, caplog):
    model = made("hmr2", head_heads=8, head_dim_head=4)
    torch.save(upstream(model), tmp_path / "model.pt")
    assert load(tmp_path / "model.pt", heads=2).sizes.head_heads == 8
    assert caplog.text.count("assuming 8 attention heads in the decoder, as hmr2's authors have") == 1
    caplog.clear()
    found = load(tmp_path / "model.pt", heads=2, head_heads=4).sizes
    assert (found.head_heads, found.head_dim_head) == (4, 8)
    settings = {"cfg": {"MODEL": {"SMPL_HEAD": {"TRANSFORMER_DECODER": {"heads": 16}}}}}
    torch.save({"state_dict": upstream(model), "hyper_parameters": settings}, tmp_path / "model.ckpt")
    assert load(tmp_path / "model.ckpt", heads=2).sizes.head_heads == 16
    save(model, tmp_path / "ours.safetensors")
    assert load(tmp_path / "ours.safetensors").sizes.head_heads == 8
    assert "assuming" not in caplog.text


@pytest.mark.parametrize(
    "content, told",
    [
        *((content, True) for content in (b"{", b"\xff", b"[" * 10_000, b" " * 70_000)),
        *((content, False) for content in (b"[1]", b'{"hidden_size": "48"}')),
    ],
)
def test_a_broken_configuration_stops_no_load_that_names_its_heads(content, told, fasthmr, tmp_path, caplog):
    torch.save(upstream(made("hmr2")), tmp_path / "model.pt")
    (tmp_path / "config.json").write_bytes(content)
    assert load(tmp_path / "model.pt", heads=2).sizes.heads == 2
    assert ("config.json: not a configuration" in caplog.text and "left out" in caplog.text) == told
    assert fasthmr("convert", tmp_path / "model.pt", "--heads", 2, "--out", tmp_path / "ours")[0] == 0
    code, _, said = fasthmr("convert", tmp_path / "model.pt", "--out", tmp_path / "other")
    assert code == 2 and "--heads N" in said and not (tmp_path / "other").exists()
