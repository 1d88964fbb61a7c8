"""The tables of what a decoder is worth: every row is measured on the same frames, and what is trained is shared."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.errors import BadInput
from diffusion.model.vae import KIND, MotionVAE
from diffusion.model.weights import save
from experiments.cli.paper import decoders_table
from experiments.paper import decoders
from experiments.paper.decoders import FILTERS, TABLES, DecoderComparison, DecoderRow, RowBudget
from hmr.models.model import HMRModel, build
from tests.motion import TINY
from tests.test_decoder import SIZES

RECIPE = """
schema_version: 1
name: two
steps:
  - {policy: merge_layers, strategy: explicit, windows: [[1, 2]]}
  - {policy: merge_tokens, keep: 90, per_layer: 40}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A recipe, a VAE and a home."""
    monkeypatch.setenv("FASTHMR_HOME", str(tmp_path / "home"))
    (tmp_path / "two.yaml").write_text(RECIPE)
    save(tmp_path / "vae.safetensors", MotionVAE(TINY), KIND, TINY, {})
    return tmp_path


def original() -> HMRModel:
    torch.manual_seed(0)
    return build("reference", SIZES).eval()


def table(name, place, **other):
    size = {"frames": 4, "train_frames": 4, **other}
    data, budget = size.pop("data", "synth-video:test"), RowBudget(steps=2, vae_steps=0, batch=2)
    made = DecoderComparison(original(), str(place / "two.yaml"), data, budget, place / "vae.safetensors", **size)
    return made.table(name)


def test_every_row_of_the_main_table(place):
    result = table("decoder", place)
    rows = {row["name"]: row for row in result["rows"]}
    assert list(rows) == ["baseline", *(way.name for way in TABLES["decoder"])]
    assert rows["baseline"]["mpjpe_rise_mm"] == {"mean": 0, "lo": None, "hi": None}  # of one video
    for row in rows.values():
        rise = row["mpjpe_mm"]["mean"] - rows["baseline"]["mpjpe_mm"]["mean"]
        assert row["mpjpe_rise_mm"]["mean"] == pytest.approx(rise, abs=1e-3)
        over = row["mpjpe_mm"]["mean"] - rows["+ diffusion decoder"]["mpjpe_mm"]["mean"]
        assert row["over_decoder_mm"]["mean"] == pytest.approx(over, abs=1e-3)
        assert row["frames_per_s"] <= row["encoder_frames_per_s"]
        assert row["mpjpe_mm"]["mean"] == pytest.approx(np.mean([clip["mpjpe_mm"] for clip in row["per_clip"]]))
    assert len(result["run"]["id"]) == 12 and date.fromisoformat(result["run"]["date"]) <= date.today()
    assert json.loads(json.dumps(result, allow_nan=False))["provenance"]["data"]["frames"] == 4
    assert "paired" in (decoders_table(result).caption or "")


def test_what_is_trained_once_is_not_trained_again(place, monkeypatch):
    first = table("noise-seeds", place)
    trained = {way.name for way in TABLES["noise-seeds"]}
    assert len(list((place / "home" / "decoders").iterdir())) == 1 and len(trained) == 10
    errors = [row["mpjpe_mm"]["mean"] for row in first["rows"][1:]]
    assert first["spread_mm"] == pytest.approx(max(errors) - min(errors))


def test_latents_are_compared_by_vaes_of_their_own(place, monkeypatch):
    asked: list[tuple[int, int]] = []
    folders: set[Path] = set()

    def train_vae(sizes, config, *_):
        asked.append((sizes.tokens, sizes.dim))
        folders.add(config.out)
        return place / "vae.safetensors"

    monkeypatch.setattr(decoders, "train_vae", train_vae)
    heads = DecoderComparison(original(), str(place / "two.yaml"), "synth-video:test", RowBudget(2, 2, 2), None, 4, 4)
    for way in TABLES["latents"]:
        heads.vae(way)
    assert asked == [(9, 96), (9, 192), (9, 384), (27, 192)] and len(folders) == 4


def test_a_filter_is_chosen_on_the_validation_split(place):
    heads = DecoderComparison(original(), str(place / "two.yaml"), "synth-video:test", RowBudget(2, 0, 2), None, 4, 4)
    way = DecoderRow("smooth", head="savitzky-golay")
    chosen = heads.head(way)
    (video,) = heads.videos("merged", "test")
    scores = [heads.score(one, heads.videos("merged", "val")) for one in FILTERS["savitzky-golay"]]
    best = FILTERS["savitzky-golay"][scores.index(min(scores))]
    assert torch.equal(chosen(video), best(video, 30.0))


def test_what_cannot_be_compared_is_refused(place):
    with pytest.raises(BadInput, match="results are reported on test"):
        table("decoder", place, data="synth-video:val")
    with pytest.raises(BadInput, match="pictures"):
        table("decoder", place, data="synth:test")
    for name in ("representation", "latents"):
        with pytest.raises(BadInput, match="equal training"):
            table(name, place)
    (place / "two.yaml").write_text("schema_version: 1\nname: none\nsteps: []\n")
    with pytest.raises(BadInput, match="no step merge_tokens"):
        table("decoder", place)
