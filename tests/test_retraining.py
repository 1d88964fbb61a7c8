"""A decoder that compressing trains, and one that is put on an artefact: whose they are, and that nothing is lost."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from compress import artefact
from compress.context import Context
from compress.errors import BadInput
from compress.files.document import InvalidDocument
from compress.pipeline import compress
from compress.policies.merge_tokens import MergeTokens
from compress.recipe import Recipe
from diffusion.attach import attach
from diffusion.decoded import encoder_id
from diffusion.model.decoder import ClipDecoder, Kind, decoder_file, load_decoder, save_decoder
from diffusion.model.vae import MotionVAE
from diffusion.motion.extraction import features
from diffusion.policy import MotionDecoder
from diffusion.training.decoder import start_from, train_decoder
from hmr import load
from hmr.data.dataset import frames_of
from tests import killed_retraining
from tests.killed_retraining import encoder, recipe, sample, tiny_vae, tiny_world
from tests.motion import TINY
from tests.planning import planned
from tests.test_train_motion import config


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Two videos of two frames, a tiny VAE, and a folder of their own for what is kept."""
    monkeypatch.setenv("FASTHMR_HOME", str(tmp_path / "home"))
    tiny_world(tmp_path, monkeypatch.setattr)
    return tmp_path


def made(kind: Kind, folder: Path, observer: Any = None, **train: Any) -> Any:
    """What a recipe that trains a decoder of this kind makes of the tiny encoder; what it keeps is in a folder."""
    os.environ["FASTHMR_HOME"] = str(folder)  # until `world` ends
    calib = frames_of([sample(9)])
    more = {} if observer is None else {"observer": observer}
    return compress(encoder(), recipe(kind, **train), calib=calib, **more)


# ---- what a recipe says


def test_what_is_not_asked_for_stays_out_of_the_id():
    step = MotionDecoder(weights="decoder.safetensors")
    assert "train" not in step.model_dump(mode="json") and step.model_specific and not step.trains
    trained = MotionDecoder(kind="regressor", train={"steps": 5})  # type: ignore[arg-type]  # as of JSON
    assert trained.trains and not trained.model_specific
    assert trained.model_dump(mode="json")["train"]["init"] == "none"


@pytest.mark.parametrize(
    ("step", "field", "message"),
    [
        ("policy: diffusion_decoder, weights: d.safetensors", "steps[0].policy", "did you mean 'motion_decoder'"),
        ("policy: motion_decoder", "steps[0].policy", "either weights or train"),
        ("policy: motion_decoder, weights: d, train: {steps: 1}", "steps[0].train", "either weights or train"),
        ("policy: motion_decoder, kind: difusion, weights: d", "steps[0].kind", "did you mean 'diffusion'"),
        ("policy: motion_decoder, kind: linear, weights: d, steps: 2", "steps[0].steps", "decodes from no noise"),
        ("policy: motion_decoder, train: {data: clips.json}", "steps[0].train", "either minutes or steps"),
        ("policy: motion_decoder, train: {steps: 1, minutes: 1.0}", "steps[0].train.steps", "and not both"),
        ("policy: motion_decoder, kind: linear, train: {steps: 1}", "steps[0].train.steps", "computed at once"),
        ("policy: motion_decoder, kind: linear, train: {init: d}", "steps[0].train.init", "computed at once"),
        ("policy: motion_decoder, train: {stepss: 1}", "steps[0].train.stepss", "did you mean 'steps'"),
    ],
)
def test_mistakes_have_their_field(step, field, message):
    text = f"schema_version: 1\nname: mine\nsteps:\n  - {{{step}}}\n"
    with pytest.raises(InvalidDocument) as raised:
        Recipe.parse(text, "mine.yaml")
    found = [one for one in raised.value.mistakes if one.field == field]
    assert found and found[0].line == 4 and message in f"{found[0].message} {found[0].hint}"


def test_a_start_that_is_none_is_found_out_before_anything_is_measured():
    step = MotionDecoder(train={"init": "decoder-best", "steps": 1})  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="no shipped decoder 'decoder-best'"):
        step.check(encoder())
    with pytest.raises(BadInput, match=r"run/decoder\.safetensors: there is no such file"):
        decoder_file("run/decoder.safetensors")


# ---- training


@pytest.mark.parametrize("kind", ["linear", "regressor", "diffusion"])
def test_compressing_trains_a_decoder_for_the_encoder_it_made(kind, world):
    found = made(kind, world)
    model, plan = found.model, found.plans[-1]
    assert model.decoder.kind == plan.kind == kind
    assert model.decoder.encoder == encoder_id(model.encoder) != encoder_id(encoder())
    assert plan.measured["videos"] == 2 and plan.measured["val"]["after"]["mpjpe_mm"] > 0
    assert plan.measured.get("steps") == (None if kind == "linear" else killed_retraining.STEPS)
    assert ("ridge" in plan.describe()) == (kind == "linear")
    found.save(world / "out")
    again = load(world / "out")
    read, betas = torch.randn(9, model.decoder.sizes.features), torch.zeros(9, 10)
    assert torch.equal(again.decoder.video(read, betas), model.decoder.video(read, betas))
    assert not list((world / "decoders").rglob("checkpoint-*"))  # what is saved needs none


def test_a_linear_decoder_is_the_ridge_regression_of_its_videos(world):
    found = made("linear", world)
    videos = features(found.model.encoder, "synth-video", "train", None, None)
    made_again = train_decoder(tiny_vae(), videos, videos, "e", config(world / "again", steps=1), "linear").path
    one, two = (model.start.state_dict()["linear.weight"] for model in (found.model.decoder, load_decoder(made_again)))
    assert torch.equal(one, two) and one.abs().sum() > 0


def test_training_that_was_stopped_anywhere_ends_in_the_same_weights(world):
    """In a step of training, and between training and saving."""

    class Stopped(Exception):
        pass

    whole = made("regressor", world / "whole")
    for stop in (1, killed_retraining.STEPS):

        def observer(stage: str, detail: str, done: int, total: int, stop: int = stop) -> None:
            if stage == "training the decoder" and done == stop:
                raise Stopped

        with pytest.raises(Stopped):
            made("regressor", world / "parts", observer)
    again = made("regressor", world / "parts")
    states = [found.model.state_dict() for found in (whole, again)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert whole.plans[-1].decided() == again.plans[-1].decided()


def test_another_encoders_decoder_is_a_start_and_no_more(world):
    other = made("regressor", world).model.decoder
    path = save_decoder(other, world / "other.safetensors")
    found = made("regressor", world, init=str(path), lr=1e-9).model.decoder
    mine, theirs = (dict(one.named_parameters()) for one in (found, load_decoder(path)))
    assert all(torch.allclose(mine[name], theirs[name], atol=1e-3) for name in mine if name.startswith("predictor."))
    assert found.encoder == other.encoder  # of the encoder that was made, whatever the start is of
    with pytest.raises(BadInput, match="init: its kind is regressor and not diffusion"):
        made("diffusion", world, init=str(path))


def test_a_start_with_another_prior_is_refused():
    one, two = (ClipDecoder(TINY, encoder="e", vae=vae) for vae in (tiny_vae(), MotionVAE(TINY)))
    with pytest.raises(BadInput, match="decodes with another VAE"):
        start_from(one, two)


def test_a_start_of_another_width_is_refused():
    one, two = (ClipDecoder(TINY.model_copy(update={"features": n}), encoder="e") for n in (5, 6))
    with pytest.raises(BadInput, match="its features is 5 and not 6"):
        start_from(two, one)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_ten_random_points_compressing_ends_in_the_same_weights(tmp_path):
    def run(name: str, seconds: float) -> int:
        command = [sys.executable, "-m", "tests.killed_retraining", str(tmp_path / name), str(seconds)]
        return subprocess.run(
            command, cwd=Path(__file__).parents[1], env={**os.environ, "OMP_NUM_THREADS": "1"}
        ).returncode

    assert run("whole", 0) == 0
    took = float((tmp_path / "whole" / "seconds").read_text())
    clock = random.Random(0)
    assert [run("parts", clock.uniform(0.01, took / 7)) for _ in range(10)] == [-signal.SIGKILL] * 10
    assert run("parts", 0) == 0
    one, two = (torch.load(tmp_path / name / "final.pt", weights_only=True) for name in ("whole", "parts"))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


# ---- attaching


def saved(folder: Path) -> tuple[Any, Path]:
    """An artefact without a decoder, and the file of one for it."""
    text = "schema_version: 1\nname: small\nsteps:\n  - {policy: merge_tokens, keep: 90, protect: none}\n"
    found = compress(encoder(), Recipe.parse(text, "small.yaml"))
    found.save(folder / "small", {"report.html": b"<p>"})
    sizes = TINY.model_copy(update={"features": found.model.head.decshape.in_features + 133})
    torch.manual_seed(1)
    decoder = ClipDecoder(sizes, "regressor", encoder=encoder_id(load(folder / "small")), vae=tiny_vae())
    torch.nn.init.normal_(decoder.predictor.out.weight)  # type: ignore[union-attr]
    return found, save_decoder(decoder, folder / "decoder.safetensors")


def test_an_artefact_gets_the_decoder_that_was_trained_for_it(world, fasthmr):
    _, path = saved(world)
    code, out, _ = fasthmr("attach", str(path), str(world / "small"), "--out", str(world / "video"), "--json")
    said = json.loads(out)
    assert code == 0 and [row["step"] for row in said["rows"]] == ["original", "merge_tokens", "motion_decoder"]
    again, alone = load(world / "video"), load(world / "small")
    assert encoder_id(again.encoder) == encoder_id(alone) and again.decoder.kind == "regressor"
    assert again.encoder.sha256 == said["artefact"]["id"] == artefact.read_manifest(world / "video").id
    read, betas = torch.randn(9, again.decoder.sizes.features), torch.zeros(9, 10)
    assert torch.equal(again.decoder.video(read, betas), load_decoder(path).video(read, betas))
    kept = Recipe.load(world / "video" / "recipe.yaml")
    assert kept.id == said["recipe_id"] and [step.policy for step in kept.steps] == ["merge_tokens", "motion_decoder"]
    assert not (world / "video" / "report.html").exists()  # it shows the model without a decoder


def test_by_default_it_gets_it_in_its_own_place_and_only_once(world, fasthmr):
    _, path = saved(world)
    assert fasthmr("attach", str(path), str(world / "small"))[0] == 0
    assert load(world / "small").takes_clips
    code, _, said = fasthmr("attach", str(path), str(world / "small"))
    assert code == 2 and "has a decoder already" in said


def test_another_encoders_decoder_is_refused_and_nothing_is_written(world):
    _, path = saved(world)
    before = sorted(file.read_bytes() for file in (world / "small").iterdir())
    other = load_decoder(path)
    other.encoder = "f" * 64
    with pytest.raises(BadInput, match="was trained on the features of encoder ffff"):
        attach(str(save_decoder(other, world / "other.safetensors")), world / "small")
    assert sorted(file.read_bytes() for file in (world / "small").iterdir()) == before
    with pytest.raises(BadInput, match="no folder of `fasthmr compress`"):
        attach(str(path), world / "nothing")
    with pytest.raises(BadInput, match="not empty"):
        attach(str(path), world / "small", world / "small")


def test_a_file_of_another_kind_than_was_asked_for_is_refused(world):
    _, path = saved(world)
    with pytest.raises(BadInput, match=r"kind: linear, and .* is a decoder of kind regressor"):
        planned(MotionDecoder(kind="linear", weights=str(path)), load(world / "small"))


def test_tokens_are_merged_before_a_decoder_is_trained():
    with pytest.raises(BadInput, match="has no features to learn from"):
        with torch.device("meta"):
            model = encoder()
        MotionDecoder(kind="linear", train={}).plan(model, Context(model))  # type: ignore[arg-type]
    assert MergeTokens(keep=90).stage < MotionDecoder(weights="d").stage
