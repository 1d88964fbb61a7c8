"""HMR2.0 and CameraHMR at full size with random weights: extract, train, attach, save, load and decode, in 12 GB."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

CHAIN = """
import json, sys, torch
from pathlib import Path
from compress.pipeline import compress
from compress.recipe import Recipe
from compress.training.task import TrainConfig
from diffusion.attach import attach
from diffusion.decoded import encoder_id
from diffusion.model.vae import load_vae, shipped_vae
from diffusion.motion.features import cached_features
from diffusion.training.decoder import train_decoder
from hmr import load
from hmr.data.dataset import Frames
from hmr.data.sample import batch
from hmr.models.model import build
from hmr.world.synthetic import open_world
from dataclasses import replace

architecture, folder = sys.argv[1], Path(sys.argv[2])
RECIPE = "schema_version: 1\\nname: small\\nsteps:\\n  - {policy: merge_tokens, keep: 90, per_layer: 40}\\n"

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))

torch.manual_seed(0)
made = compress(build(architecture).eval(), Recipe.parse(RECIPE, "small.yaml"))
whole = open_world("synth-video", "train", frames=84, size=made.model.family.crop)
short = replace(whole, draw=lambda i: whole.draw(i + 78), recording_of=lambda i: whole.recording_of(i + 78), count=6)
videos = cached_features(made.model, short, folder / "features", {})
encoder = encoder_id(made.model)
config = TrainConfig(out=folder / "run", steps=20, batch=2)
trained = train_decoder(load_vae(shipped_vae()), videos, videos, encoder, config)
made.save(folder / "small")
del made
attach(str(trained.path), folder / "small", folder / "video")
model = load(folder / "video")
given = batch([short[i] for i in range(3)], torch.device("cpu"))
with torch.no_grad():
    said = model(*given.inputs)
print(json.dumps({"videos": len(videos), "steps": trained.measured["steps"], "frames": len(said.rotations),
    "finite": bool(said.rotations.isfinite().all()), "own": model.decoder.encoder == encoder, "peak": peak()}))
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("architecture", ["hmr2", "camerahmr"])
def test_a_decoder_is_trained_and_put_on_a_model_of_full_size(architecture, tmp_path):
    command = [sys.executable, "-c", CHAIN, architecture, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1100)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["videos"], told["steps"], told["frames"], told["finite"], told["own"]) == (2, 20, 3, True, True)
    assert told["peak"] < 12e9
