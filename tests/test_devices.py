"""What runs on every batch never waits for the device: no value is asked for, nothing is copied from or to the host.

On a CPU that costs nothing, so nobody would see it; here every such call raises. `make gpu-check` has CUDA itself say
it.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from compress.policies.merge_tokens import MergeTokens
from compress.stack import summed
from diffusion.model.decoder import ClipDecoder
from diffusion.model.representation import decode, encode
from diffusion.model.sizes import DecoderSizes
from diffusion.model.vae import MotionVAE
from diffusion.training.decoder import DecoderLoss
from experiments.search.machine import one_device
from experiments.search.processes import given
from hmr.adapters.adapted import recoloured
from hmr.body.files import load_body
from hmr.data.crop import IMAGE_MEAN, IMAGE_STD, normalised
from hmr.evaluation.judge import JointJudge
from hmr.models.model import build
from tests.exported import samples
from tests.networks import FAMILIES
from tests.planning import applied, planned
from tests.sizes import TINY

WAITS = ("item", "cpu", "numpy", "tolist", "nonzero", "__bool__", "__int__", "__float__", "__index__", "__array__")
COPIES = ("tensor", "as_tensor", "new_tensor", "from_numpy", "asarray")


class NoWaiting(TorchFunctionMode):
    """Raises where a value of a tensor is asked for, and where a tensor is made of values of the host."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in (*WAITS, *COPIES):
            raise AssertionError(f"{name} waits for the device")
        if name in ("__getitem__", "__setitem__"):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(part, list | np.ndarray) for part in index):
                raise AssertionError("an index in a list is copied to the device")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.sum().item(),
        lambda x: x.cpu(),
        lambda x: x.numpy(),
        lambda x: bool(x.isfinite().all()),
        lambda x: float(x[0]),
        lambda x: x[[1, 0]],
        lambda x: x[None][:, [1, 0]],
        lambda x: x.new_tensor([1, 0]),
        lambda x: torch.tensor([1, 0]),
    ],
)
def test_the_mode_sees_what_waits(call):
    with pytest.raises(AssertionError, match="device"), NoWaiting():
        call(torch.ones(2))


STEPS = [
    MergeTokens(keep=90, per_layer=60),
    MergeTokens(keep=90, per_layer=60, partition="unprotected", proportional_attention=True, dilate=1),
    MergeTokens(keep=90, mode="drop", dilate=2),
]


@pytest.mark.parametrize("step", STEPS, ids=["parity", "unprotected", "drop"])
def test_a_compressed_model_does_not_wait(step):
    model = build("hmr2", TINY).eval()
    applied(planned(step, model), model)
    crops, masks = torch.randn(2, 3, 256, 192), torch.rand(2, 256, 192) > 0.8
    _ = model.body
    with torch.no_grad(), NoWaiting():
        out = model(crops, masks)
        assert model.joints(out).shape == (2, 24, 3) and model.vertices(out).shape[0] == 2


@pytest.mark.parametrize("name", ["timm", "dinov3"])
def test_a_network_of_ones_own_does_not_wait(name):
    """With rotary positions too, and crops normalised otherwise than ImageNet's."""
    family = FAMILIES[name]
    model = family.own()
    applied(planned(MergeTokens(keep=family.patches // 2, per_layer=12), model), model)
    pictures, masks = recoloured(family.images(), (0.5,) * 3, (0.5,) * 3), family.masks()
    with torch.no_grad(), NoWaiting():
        tokens = model.encode(recoloured(pictures, (0.5,) * 3, (0.5,) * 3), masks)
    assert tokens.x.shape[1] == family.prefix + family.patches // 2


def test_crops_are_normalised_otherwise():
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    pictures = torch.rand(2, 3, 4, 5)
    usual, own = (
        (pictures - torch.tensor(m)[:, None, None]) / torch.tensor(s)[:, None, None]
        for m, s in ((IMAGE_MEAN, IMAGE_STD), (mean, std))
    )
    torch.testing.assert_close(recoloured(usual, mean, std), own)


def test_crops_are_normalised_without_a_copy_of_constants():
    pictures = torch.randint(0, 256, (2, 8, 6, 3), dtype=torch.uint8)
    first = normalised(pictures)  # puts the constants there
    with NoWaiting():
        again = normalised(pictures)
    assert torch.equal(first, again)
    mean, std = (torch.tensor(values) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(first, ((pictures / 255 - mean) / std).permute(0, 3, 1, 2), atol=1e-5, rtol=1e-5)


def test_the_judge_of_a_search_does_not_wait():
    model = build("hmr2", TINY).eval()
    truth = {"rotations": np.tile(np.eye(3, dtype=np.float32), (24, 1, 1)), "betas": np.zeros(10, np.float32)}
    frames = [type(one)(**{**vars(one), **truth}) for one in samples(2)]
    judge = JointJudge(model, frames, load_body())
    tokens = model.encode(judge.crops[0])
    with NoWaiting():
        errors = judge.errors(0, tokens)
    assert errors.shape == (2,) and errors.isfinite().all()


def test_poses_become_numbers_and_back_without_waiting():
    body, turns = load_body(), torch.eye(3).expand(4, 24, 3, 3)
    betas = torch.zeros(4, 10)
    decode(encode(turns, betas, body), betas, body)  # puts the indices there
    with NoWaiting():
        back = decode(encode(turns, betas, body), betas, body)
    torch.testing.assert_close(back, turns, atol=1e-5, rtol=1e-5)


def test_a_step_of_decoder_training_does_not_wait():
    sizes = DecoderSizes(features=140)
    torch.manual_seed(0)
    loss = DecoderLoss(ClipDecoder(sizes, encoder="", vae=MotionVAE(sizes)))
    features, numbers = torch.randn(2, sizes.frames, 140), torch.randn(2, sizes.frames, sizes.width)
    seen, latent = torch.rand(2, sizes.frames) < 0.7, torch.randn(2, sizes.tokens, sizes.dim)
    with NoWaiting():
        found = loss(features, seen, numbers, latent)["loss"]
    assert found.isfinite()


def test_heads_are_summed_alike_however_many_kernels_that_takes():
    keys = torch.randn(2, 6, 5, 8, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    torch.testing.assert_close(summed(keys), keys.sum(1, dtype=torch.float32))
    assert summed(keys.to("meta")).shape == (2, 5, 8) and summed(keys).dtype == torch.float32


# ---- workers of a search


@pytest.mark.parametrize(
    "visible, device, wanted",
    [
        (None, None, ["0", "1", "2", "0"]),
        ("4,7", None, ["4", "7", "4", "7"]),
        ("4,7", "cuda", ["4", "7", "4", "7"]),
        ("4,7", "cuda:1", [None] * 4),
        (None, "cpu", [None] * 4),
        ("", None, [None] * 4),
    ],
)
def test_each_worker_has_a_device_of_its_own(monkeypatch, visible, device, wanted):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    for name, value in (("CUDA_VISIBLE_DEVICES", visible), ("FASTHMR_DEVICE", device)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert [one_device(worker).get("CUDA_VISIBLE_DEVICES") for worker in range(4)] == wanted


def test_an_environment_is_given_while_a_process_starts_alone(monkeypatch):
    monkeypatch.setenv("FASTHMR_ONE", "before")
    monkeypatch.delenv("FASTHMR_TWO", raising=False)
    with given({"FASTHMR_ONE": "1", "FASTHMR_TWO": "2"}):
        assert (os.environ["FASTHMR_ONE"], os.environ["FASTHMR_TWO"]) == ("1", "2")
    assert os.environ["FASTHMR_ONE"] == "before" and "FASTHMR_TWO" not in os.environ
