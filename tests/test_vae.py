"""The motion VAE and the transformers that it is made of."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from compress.errors import BadInput
from diffusion.model.decoder import ClipDecoder
from diffusion.model.denoiser import Denoiser
from diffusion.model.sizes import SIZES, DecoderSizes, sizes_of
from diffusion.model.start import Start
from diffusion.model.transformer import ClipDropout, SkipTransformer, at_their_time
from diffusion.model.vae import KIND, MotionVAE, load_vae, shipped_vae, vae_loss
from diffusion.model.weights import read, save
from diffusion.training.decoder import DecoderLoss
from diffusion.training.run import GATE_MM
from diffusion.training.vae import VAELoss, gate
from experiments.cli.evaluate import decoder_cost
from hmr.body.files import load_body
from tests.motion import TINY


def stirred(module):
    """Weights that do something, other than those that training starts from."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return module.eval()


def test_a_transformer_starts_as_the_identity_and_its_skips_matter_later():
    x = torch.randn(2, 7, 16)
    net = SkipTransformer(3, 16, 2, 32, 0.0)
    assert torch.equal(net(x), x)
    net = stirred(net)
    cut = copy.deepcopy(net)
    cut.joins[0].weight.data[:, 16:] = 0  # what the long skip brings
    assert not torch.allclose(net(x), cut(x))


def test_tokens_without_a_place_are_a_set():
    net, x = stirred(SkipTransformer(3, 16, 2, 32, 0.0, pre_norm=False)), torch.randn(2, 7, 16)
    order = torch.randperm(7)
    assert torch.allclose(net(x)[:, order], net(x[:, order]), atol=1e-5)


def test_queries_start_from_the_mean_of_their_time():
    tokens = torch.randn(2, 12, 5)
    assert torch.allclose(at_their_time(tokens, 4), tokens.view(2, 4, 3, 5).mean(2), atol=1e-6)
    assert torch.equal(at_their_time(tokens, 24), tokens.repeat_interleave(2, 1))


@pytest.mark.parametrize("kind", ["hybrik", "6d"])
def test_shapes_and_normalisation(kind):
    sizes = TINY.model_copy(update={"representation": kind})
    vae = stirred(MotionVAE(sizes))
    numbers = 3 + 2 * torch.randn(5, sizes.frames, sizes.width)
    numbers[..., 0] = 1.0  # one that never changes
    vae.normalise(numbers.mean((0, 1)), numbers.flatten(0, 1).std(0))
    said, mean, log_variance = vae(numbers)
    assert said.shape == numbers.shape and mean.shape == log_variance.shape == (5, sizes.tokens, sizes.dim)
    assert vae.deviation.min() > 0 and vae(numbers)[0].isfinite().all()
    vae.latent_mean.copy_(mean.mean((0, 1)))
    vae.latent_deviation.copy_(mean.flatten(0, 1).std(0))
    target = vae.target(numbers)
    assert torch.allclose(target.mean((0, 1)), torch.zeros(sizes.dim), atol=1e-4)
    assert torch.allclose(vae.restore(target), said, atol=1e-3)


def test_it_starts_as_principal_components():
    """Reconstruction at step 0 is the best linear one of as many numbers, but for the faint places."""
    torch.manual_seed(0)
    hidden = torch.randn(40, 4, 16) @ torch.randn(16, 3 * 133)  # clips that 16 numbers per 3 frames tell
    numbers = hidden.unflatten(2, (3, 133)).flatten(1, 2)
    vae = MotionVAE(TINY).eval()
    vae.normalise(numbers.mean((0, 1)), numbers.flatten(0, 1).std(0))
    before = (vae(numbers)[0] - numbers).square().mean()
    vae.start_linear(numbers)
    after = (vae(numbers)[0] - numbers).square().mean()
    assert after < 0.02 * before


def test_divergence_is_that_of_torch():
    mean, log_variance = torch.randn(2, 6, 4, 8)
    ours = vae_loss(torch.zeros(1), torch.zeros(1), mean, log_variance, torch.ones(1))["kl"]
    normal = torch.distributions.Normal
    theirs = torch.distributions.kl_divergence(normal(mean, (log_variance / 2).exp()), normal(0, 1)).mean()
    assert torch.allclose(ours, theirs)


def test_weights_come_back_in_half_precision(tmp_path):
    vae = stirred(MotionVAE(TINY))
    again = load_vae(save(tmp_path / "vae.safetensors", vae, KIND, TINY, {}))
    assert again.sizes == TINY and not again.training
    assert all(torch.equal(a.half(), b.half()) for a, b in zip(again.parameters(), vae.parameters(), strict=True))


def test_other_files_are_refused(tmp_path):
    path = save(tmp_path / "vae.safetensors", MotionVAE(TINY), KIND, TINY, {})
    with pytest.raises(BadInput, match="motion-vae weights, expected diffusion-decoder"):
        read(path, "diffusion-decoder")
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-100])
    for name in ("cut.safetensors", "none.safetensors"):
        with pytest.raises(BadInput, match=name):
            load_vae(tmp_path / name)
    with pytest.raises(BadInput, match="not fit their sizes"):
        load_vae(save(tmp_path / "small.safetensors", MotionVAE(TINY), KIND, sizes_of("reference"), {}))
    with pytest.raises(BadInput, match="half precision"):
        save(tmp_path / "large.safetensors", torch.nn.Linear(2, 2).requires_grad_(False).apply(blown), KIND, TINY, {})


def blown(module):
    module.weight.fill_(1e9)


def test_paper_size_is_the_papers():
    """29.5 M parameters and 6.8 G MACs a clip, within 3 %; the MACs in closed form."""
    sizes = SIZES["paper"]
    with torch.device("meta"):
        networks = (Denoiser(sizes), MotionVAE(sizes).decoder)
    params = sum(p.numel() for network in networks for p in network.parameters())
    assert params == pytest.approx(29.5e6, rel=0.03)
    d, h, f, t = sizes.dim, sizes.hidden, sizes.frames, sizes.tokens
    layer, cross = 4 * d * d + 2 * d * h, 2 * d * d
    tokens = t + 1 + f
    denoiser = tokens * (5 * layer + 2 * 2 * d * d) + f * sizes.features * d + 2 * d * d + t * d * d
    decoder = f * (5 * (layer + cross) + 2 * 2 * d * d + d * 133) + t * (5 * cross + d * d)
    assert denoiser + decoder == pytest.approx(6.8e9, rel=0.03)
    told = decoder_cost("decoder-paper")
    with torch.device("meta"):
        own = sum(p.numel() for p in Start(sizes, latent=True).parameters())  # the paper has none
    assert told["params"] - own == params
    start = f * 5 * sizes.features * 133 + 3 * f * 133 * d + f * 27 * 133
    assert told["macs_clip"]["linear"] - start == pytest.approx(6.8e9, rel=0.03)
    assert {"device", "threads", "precision", "body", "model", "data"} < {*told["provenance"]}


@pytest.mark.parametrize("odd", [{"dim": 100, "heads": 3}, {"encoder_layers": 2}, {"stride": 5}, {"frames": 0}])
def test_sizes_that_make_no_network_are_refused(odd):
    with pytest.raises(ValidationError):
        DecoderSizes(**{**TINY.model_dump(), **odd})
    with pytest.raises(BadInput, match="no decoder is of size 'huge'"):
        sizes_of("huge")


def test_denoiser_reads_features_noise_and_time():
    net = stirred(Denoiser(TINY))
    features, latent, time = torch.randn(2, 12, TINY.features), torch.randn(2, 4, 16), torch.tensor([3, 900])
    torch.nn.init.normal_(net.frames.unseen)
    seen = torch.ones(2, 12, dtype=torch.bool)
    said = net(latent, time, features, seen)
    assert said.shape == latent.shape
    for other in ((latent + 1, time, features, seen), (latent, time + 50, features, seen)):
        assert not torch.allclose(said, net(*other))
    for other in ((latent, time, features + 1, seen), (latent, time, features, ~seen)):
        assert not torch.allclose(said, net(*other))
    assert np.allclose(net(latent[:1], time[:1], features[:1], seen[:1]).detach(), said[:1].detach(), atol=1e-5)


def test_paper_size_takes_a_step_and_decodes():
    sizes = SIZES["paper"]
    vae = MotionVAE(sizes)
    numbers = torch.randn(1, sizes.frames, sizes.width)
    before = vae.decoder.out.weight.clone()
    optimizer = torch.optim.AdamW(vae.parameters(), 1e-4)
    VAELoss(vae)(numbers)["loss"].backward()
    optimizer.step()
    assert not torch.equal(before, vae.decoder.out.weight)
    decoder = ClipDecoder(sizes, encoder="e", vae=vae)
    features = torch.randn(1, sizes.frames, sizes.features)
    seen = torch.ones(1, sizes.frames, dtype=torch.bool)
    loss = DecoderLoss(decoder)(features, seen, numbers, vae.target(numbers).detach())["loss"]
    network = decoder.predictor
    assert network is not None
    weights = [p.clone() for p in network.parameters()]
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4)
    loss.backward()
    optimizer.step()
    assert any(not torch.equal(p, was) for p, was in zip(network.parameters(), weights, strict=True))
    said = decoder.eval().video(features[0, :7], torch.zeros(7, 10))
    assert said.shape == (7, 24, 3, 3) and said.isfinite().all()


def test_the_shipped_prior_passes_its_gate():
    """Mean joint error on families of motion that training never saw: at most 15 mm."""
    vae = load_vae(shipped_vae())
    found = gate(vae, "test", load_body())
    assert found.hi is not None and found.hi < GATE_MM


def test_dropout_takes_whole_features_of_a_clip_and_keeps_the_mean():
    drop, x = ClipDropout(0.3), torch.rand(4000, 5, 3) + 1
    shares = drop(x) / x
    assert torch.allclose(shares[:, :1].expand_as(shares), shares)
    assert (shares.isclose(torch.tensor(0.0)) | shares.isclose(torch.tensor(1 / 0.7))).all()
    assert abs(shares[:, 0].mean() - 1) < 0.02
    assert drop.eval()(x) is x
