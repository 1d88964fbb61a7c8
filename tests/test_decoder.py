"""The decoder: what it reads, what it refuses, and that it belongs to one encoder."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import roma
import torch
from scipy import ndimage

from compress import artefact, registry
from compress.errors import BadInput
from compress.policies.merge_tokens import MergeTokens
from diffusion.decoded import DecodedModel, clip_cost, encoder_id
from diffusion.model.decoder import ClipDecoder, calmed, load_decoder, save_decoder
from diffusion.model.representation import WIDTH, encode, numbers_of, rotations_of
from diffusion.model.start import REACH, SHRINKS, SMOOTH, Start, apart, filter_of, filtered, together
from diffusion.model.vae import load_vae, shipped_vae
from diffusion.motion.features import read_off
from diffusion.policy import DecoderPlan, MotionDecoder
from hmr import load
from hmr.body.files import load_body
from hmr.data.dataset import frames_of
from hmr.data.sample import batch
from hmr.evaluation.depth import depth
from hmr.evaluation.evaluate import evaluate
from hmr.evaluation.label_free import labelled_by
from hmr.evaluation.predict import batches, outputs_at, predict
from hmr.models.model import build
from hmr.motion.recordings import shipped_clips
from hmr.world.synthetic import open_world
from tests import sizes
from tests.motion import TINY
from tests.planning import applied, planned, stepped

SIZES = {**sizes.TINY, "depth": 4, "head_dim": 6, "head_mlp_dim": 24}


KINDS = [("linear", "latent"), ("regressor", "numbers"), ("regressor", "latent"), ("diffusion", "latent")]


def decoder(sizes=TINY, **kind) -> ClipDecoder:
    torch.manual_seed(0)
    made = ClipDecoder(sizes, **{"encoder": "e" * 64, **kind})
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made.eval()


def encoder():
    torch.manual_seed(0)
    model = build("reference", SIZES).eval()
    applied(planned(MergeTokens(keep=90, per_layer=40), model), model)
    return model


def weights_for(model, folder, **kind):
    made = decoder(encoder=encoder_id(model), **kind)
    return made, save_decoder(made, folder / "decoder.safetensors")


@pytest.mark.parametrize(("kind", "target"), KINDS)
def test_a_clip_does_not_depend_on_the_clips_beside_it(kind, target):
    made, features, betas = decoder(kind=kind, target=target), torch.randn(3, 12, TINY.features), torch.randn(3, 12, 10)
    with torch.no_grad():
        together, alone = made(features, betas), made(features[1:2], betas[1:2])
    assert together.shape == (3, 12, 24, 3, 3)
    assert torch.allclose(together[1:2], alone, atol=1e-4)
    assert torch.allclose(together @ together.mT, torch.eye(3).expand_as(together), atol=1e-3)


def test_a_decoder_reads_the_heads_own_pose():
    model = encoder()
    torch.nn.init.normal_(model.smpl_head.decpose.weight, std=0.1)
    with torch.no_grad():
        said = model(torch.randn(2, 3, 224, 168), torch.ones(2, 224, 168))
        read = read_off(said, load_body())
        again = rotations_of(read[None, :, 6:], said.betas[None], load_body())[0]
    assert torch.equal(read[:, :6], said.features) and torch.allclose(again, said.rotations, atol=1e-3)


@pytest.mark.parametrize("best", range(len(SHRINKS)))
def test_what_features_add_is_the_ridge_regression_on_those_of_a_frame_and_its_neighbours(best):
    start, features, wrong = Start(TINY), torch.randn(4, 60, TINY.features), torch.randn(4, 60, WIDTH)
    errors = iter([float(i != best) for i in range(len(SHRINKS))])
    assert start.fit_features(features, wrong, lambda: next(errors)) == SHRINKS[best]
    near = np.clip(np.arange(60)[:, None] + np.arange(-REACH, REACH + 1), 0, 59)  # the ends are their own neighbours
    x, y = features.numpy()[:, near].reshape(240, -1), wrong.reshape(240, -1).numpy()
    if best:
        # ridge is least squares on rows that say 0
        rows = np.concatenate((x, np.sqrt(SHRINKS[best] * 240) * np.eye(x.shape[1])))
        weight = np.linalg.lstsq(rows, np.concatenate((y, np.zeros((x.shape[1], WIDTH)))), rcond=None)[0]
    else:
        weight = np.zeros((x.shape[1], WIDTH))
    said = start(torch.zeros(4, 60, WIDTH), features, torch.zeros(WIDTH), torch.ones(WIDTH))
    assert np.allclose(said.reshape(240, -1), x @ weight, atol=1e-4)
    assert not any(p.requires_grad for p in start.parameters())


def test_the_filter_is_the_one_that_made_a_noisy_pose_of_the_true_one():
    """Of a pose that was moved by three frames it finds the one that moves it back; what stands still stays."""
    true = torch.randn(6, 80, 5).cumsum(1)
    taps = filter_of(true.roll(3, 1), true)
    assert torch.isclose(taps.sum(), torch.tensor(1.0), atol=1e-5) and taps.argmax() == SMOOTH + 3
    still = torch.randn(2, 1, 5).expand(2, 40, 5)
    assert torch.allclose(filtered(still, taps), still, atol=1e-5)
    noisy = true + torch.randn_like(true)
    assert (filtered(noisy, filter_of(noisy, true)) - true).square().mean() < 0.7  # less than the noise, which is 1


def test_a_pose_is_taken_apart_and_put_together_whoever_it_faces():
    rotations = torch.from_numpy(shipped_clips()[0].rotations)
    numbers = encode(rotations, torch.zeros(len(rotations), 10), load_body())
    turn = roma.random_rotmat(len(rotations))
    rotations = torch.cat((turn[:, None] @ rotations[:, :1], rotations[:, 1:]), 1)
    turned = encode(rotations, torch.zeros(len(rotations), 10), load_body())
    (axes, joints, twists), (others, same, still) = apart(numbers), apart(turned)
    assert torch.allclose(together(axes, joints, twists), numbers, atol=1e-5)
    assert torch.allclose(same, joints, atol=1e-5) and torch.allclose(still, twists, atol=1e-3)
    assert torch.allclose(others.unflatten(1, (3, 3)), turn @ axes.unflatten(1, (3, 3)), atol=1e-4)


@pytest.mark.parametrize(("kind", "target"), KINDS)
def test_before_it_has_learned_a_decoder_says_its_start(kind, target):
    made = ClipDecoder(TINY, kind, target, encoder="e").eval()
    torch.nn.init.normal_(made.start.linear.weight)
    features = torch.randn(2, 12, TINY.features)
    with torch.no_grad():
        found, start = made.numbers(features), made.begun(features)
        wanted = start * made.vae.deviation + made.vae.mean if target == "numbers" else made.vae.restore(start)
        assert torch.allclose(found, wanted, atol=1e-5)


def test_noise_and_steps_matter_and_are_repeated():
    features, betas = torch.randn(20, TINY.features), torch.zeros(20, 10)
    one, same, other, more = (
        decoder(seed=s, steps=n).video(features, betas) for s, n in ((0, 1), (0, 1), (1, 1), (0, 5))
    )
    assert torch.equal(one, same) and not torch.allclose(one, other) and not torch.allclose(one, more)


@pytest.mark.parametrize("frames", [1, 2, 11, 12, 13, 50])
def test_videos_of_any_length(frames):
    assert decoder().video(torch.randn(frames, TINY.features), torch.zeros(frames, 10), 25.0).shape == (
        frames,
        24,
        3,
        3,
    )


@pytest.mark.parametrize(
    ("features", "betas", "fps", "message"),
    [
        (torch.zeros(0, TINY.features), torch.zeros(0, 10), 30.0, "needs frames"),
        (torch.zeros(4, 7), torch.zeros(4, 10), 30.0, "reads 139 features a frame"),
        (torch.zeros(4, TINY.features), torch.zeros(3, 10), 30.0, "needs frames with betas"),
        (
            torch.tensor([0.0, float("nan")])[:, None].repeat(1, TINY.features),
            torch.zeros(2, 10),
            30.0,
            "frame 1 has a feature",
        ),
        (torch.zeros(4, TINY.features), torch.full((4, 10), float("inf")), 30.0, "frame 0"),
        (torch.zeros(4, TINY.features), torch.zeros(4, 10), 0.0, "more than 0 frames/s"),
    ],
)
def test_what_is_no_video_is_refused(features, betas, fps, message):
    with pytest.raises(BadInput, match=message):
        decoder().video(features, betas, fps)


def test_betas_are_the_bodys_alone():
    """Metrics come from forward kinematics with the encoder's betas: joints of the prediction are not looked at."""
    made, features = decoder(), torch.randn(1, 12, TINY.features)
    short, tall = (made(features, torch.full((1, 12, 10), b)) for b in (-1.0, 1.0))
    assert torch.equal(made.numbers(features), made.numbers(features)) and not torch.allclose(short, tall)


def test_a_decoder_comes_back_and_knows_its_encoder(tmp_path):
    model = encoder()
    made, path = weights_for(model, tmp_path)
    again = load_decoder(path, seed=3)
    assert (again.encoder, again.kind, again.objective, again.seed) == (encoder_id(model), "diffusion", "hybrid", 3)
    assert all(torch.equal(a.half(), b.half()) for a, b in zip(again.parameters(), made.parameters(), strict=True))
    torch.manual_seed(9)
    with pytest.raises(BadInput, match="was trained on the features of encoder"):
        planned(MotionDecoder(weights=str(path)), build("reference", SIZES))


def test_artefact_holds_encoder_and_decoder(tmp_path, monkeypatch):
    model = encoder()
    tokens = planned(MergeTokens(keep=90, per_layer=40), build("reference", SIZES))
    _, path = weights_for(model, tmp_path)
    plan, decoded = stepped(MotionDecoder(weights=str(path), steps=2, seed=5), model)
    base = artefact.Base(name="own", architecture="reference", sizes=model.sizes.model_dump(mode="json"), sha256="0")
    origin = artefact.Origin(base=base, seed=0, commit="", versions={})
    artefact.save(tmp_path / "out", decoded, [tokens, plan], origin, "", "")
    again = load(tmp_path / "out")
    features, betas = torch.randn(20, TINY.features), torch.zeros(20, 10)
    mine, theirs = decoded.decoder, again.decoder
    assert (theirs.steps, theirs.seed) == (2, 5)
    assert torch.equal(mine.video(features, betas), theirs.video(features, betas))
    assert encoder_id(again.encoder) == encoder_id(model) == theirs.encoder
    (kept,) = artefact.read_plans(tmp_path, json.dumps([plan.model_dump(mode="json")]).encode())
    with pytest.raises(BadInput, match="does not follow from its plan"):
        applied(kept, encoder())
    assert isinstance(kept, DecoderPlan) and not kept.empty
    monkeypatch.delitem(registry.entries(), "motion_decoder")
    with pytest.raises(BadInput, match=r"not a list of plans.*no policy 'motion_decoder'"):
        artefact.load(tmp_path / "out", build)  # a reader that knows no motion


def test_another_encoders_weights_in_the_folder_are_found_out(tmp_path, monkeypatch):
    model = encoder()
    _, path = weights_for(model, tmp_path)
    plan, decoded = stepped(MotionDecoder(weights=str(path)), model)
    model.backbone.pos_embed.data += 0.01  # somebody trains on, after the decoder was made
    base = artefact.Base(name="own", architecture="reference", sizes=model.sizes.model_dump(mode="json"), sha256="0")
    origin = artefact.Origin(base=base, seed=0, commit="", versions={})
    tokens = planned(MergeTokens(keep=90, per_layer=40), build("reference", SIZES))
    artefact.save(tmp_path / "out", decoded, [tokens, plan], origin, "", "")
    with pytest.raises(BadInput, match="this one is"):
        load(tmp_path / "out")


def test_a_hand_is_refused():
    with torch.device("meta"):
        hand = build("hamer")
    with pytest.raises(BadInput, match="a hand"):
        MotionDecoder(weights="decoder.safetensors").check(hand)


def decoded(model, features: int = 6 + WIDTH) -> DecodedModel:
    return DecodedModel(model, decoder(TINY.model_copy(update={"features": features}), encoder=encoder_id(model)))


def test_a_decoded_model_is_called_on_a_clip():
    """Its rotations are the decoder's, of the features of all frames; shape and camera are the encoder's."""
    model = decoded(encoder())
    data = open_world("synth-video", "test", frames=40)
    inputs = batch([data[i] for i in range(40)]).inputs  # more than the encoder takes at once
    with torch.no_grad():
        output, bare = model(*inputs), model.encoder(*inputs)
        wanted = model.decoder.video(read_off(bare, load_body()), bare.betas)
    assert torch.allclose(output.rotations, wanted, atol=1e-4)
    assert torch.allclose(output.betas, bare.betas, atol=1e-5) and torch.allclose(output.camera, bare.camera, atol=1e-5)
    assert not torch.allclose(output.rotations, bare.rotations, atol=0.1)
    assert model.joints(output).shape == (40, 24, 3)


def test_measured_on_videos_and_counted_in_the_cost():
    model, data = decoded(encoder()), open_world("synth-video", "test", frames=83)
    small = frames_of([data[i] for i in (0, 1, 2, 81, 82)], 30.0)
    with torch.inference_mode():
        (found,) = predict([model], small)
        bare = model.encoder(*next(batches(small, torch.device("cpu"))).inputs)
        seen = read_off(bare, load_body())
        each = [model.decoder.video(seen[part], bare.betas[part]) for part in (slice(0, 3), slice(3, 5))]
    assert torch.allclose(found.outputs[0].rotations, torch.cat(each), atol=1e-4)
    alone, whole, clip = model.encoder.cost(), model.cost(), clip_cost(model.decoder)
    assert whole.params == alone.params + clip.params == sum(p.numel() for p in model.parameters())
    assert whole.macs.true - alone.macs.true == -(-clip.macs.true // 8)  # 12 frames, of which 4 overlap
    assert [part.name for part in whole.parts][-1] == "decoder"
    with pytest.raises(BadInput, match="single pictures"):
        predict([model], replace(small, fps=None))


def test_another_model_is_decoded_too():
    """`--against` a model with a decoder: swapped, the two differ by the negative; by its bare head they would not."""
    bare, data = encoder(), open_world("synth-video", "test", frames=3)
    small, decodes = frames_of([data[i] for i in range(3)], 30.0), decoded(encoder())
    one, other = (
        evaluate(mine, small, None, theirs)["paired"]["mpjpe_mm"]["mean"]
        for mine, theirs in ((bare, decodes), (decodes, bare))
    )
    assert one == pytest.approx(-other) and abs(one) > 1
    ours, theirs = (labelled_by(model, small)[0].rotations for model in (decodes, bare))
    assert ours is not None and theirs is not None and not np.allclose(ours, theirs, atol=0.1)


def test_pictures_depth_and_time_are_of_the_decoded_model():
    """What reports, depth tables and latencies take is the decoder's output, not the bare head's."""
    model, data = decoded(encoder()), open_world("synth-video", "test", frames=3)
    small = frames_of([data[i] for i in range(3)], 30.0)
    (found,) = predict([model], small)
    assert torch.equal(outputs_at(model, small, [1]).rotations, found.outputs[0].rotations[1:2])
    whole = depth(model, small)
    assert whole["mpjpe_mm"]["mean"] == pytest.approx(small.measure(model).row()["mpjpe_mm"]["mean"])
    assert len(whole["rows"]) == len(model.encoder.stack.blocks)
    calls = model.calls()
    assert calls.keys() == {"frame", "decoder"} and calls["decoder"][0] == TINY.frames
    rotations = calls["decoder"][1]()
    assert isinstance(rotations, torch.Tensor) and rotations.shape == (TINY.frames, 24, 3, 3)


def test_the_body_is_no_part_of_the_weights():
    assert not any("template" in name for name in decoder().state_dict())
    assert decoder().body.sha256 == load_body().sha256


def test_a_file_leaves_out_the_shipped_vae_and_no_other(tmp_path, monkeypatch):
    vae, small = load_vae(shipped_vae()), tmp_path / "small.safetensors"
    made = ClipDecoder(vae.sizes.model_copy(update={"features": TINY.features}), encoder="e", vae=vae).eval()
    save_decoder(made, small)
    assert small.stat().st_size < shipped_vae().stat().st_size
    found, features = load_decoder(small), torch.randn(5, TINY.features)
    assert torch.equal(found.video(features, torch.zeros(5, 10)), made.video(features, torch.zeros(5, 10)))
    monkeypatch.setattr("diffusion.model.decoder.digest", lambda path: "0" * 64)
    with pytest.raises(BadInput, match="another than this installation has"):
        load_decoder(small)
    with torch.no_grad():
        made.vae.mean += 1
    assert load_decoder(save_decoder(made, tmp_path / "whole.safetensors")).vae.mean[0] == made.vae.mean[0].half()


def test_what_is_decoded_is_smoothed_over_time_alone():
    numbers = torch.randn(2, 9, 5)
    weight = np.exp(-0.5 * (np.arange(-3, 4) / 1.0) ** 2)
    wanted = ndimage.correlate1d(numbers.numpy(), weight / weight.sum(), axis=1, mode="nearest")
    assert np.allclose(calmed(numbers, 1.0), wanted, atol=1e-5)
    plain, calm = decoder(), decoder(TINY.model_copy(update={"calm": 1.0}))
    features = torch.randn(2, 12, TINY.features)
    with torch.no_grad():
        assert torch.allclose(calm.numbers(features), calmed(plain.numbers(features), 1.0), atol=1e-6)


@pytest.mark.parametrize("representation", ["hybrik", "6d"])
def test_a_start_that_learned_nothing_says_what_the_head_says(representation):
    sizes, body = TINY.model_copy(update={"representation": representation}), load_body()
    start, rotations = Start(sizes), torch.from_numpy(shipped_clips()[0].rotations)[None]
    frames = rotations.shape[1]
    betas = torch.zeros(1, frames, 10)
    said, wanted = (numbers_of(rotations, betas, body, kind) for kind in ("hybrik", representation))
    start.fit(said, said, wanted)
    found = start(said, torch.zeros(1, frames, sizes.features), torch.zeros(sizes.width), torch.ones(sizes.width))
    assert (found - wanted).abs().mean() < 0.02


def test_a_recipe_whose_decoder_is_not_there_says_how_to_make_one():
    step = MotionDecoder(weights="decoder.safetensors")
    with pytest.raises(BadInput, match=r"decoder\.safetensors: there is no such file; a decoder belongs"):
        planned(step, encoder())
