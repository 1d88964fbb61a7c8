"""A compression that trains its decoder, tiny, in a process that kills itself: for `test_retraining`.

python -m tests.killed_retraining FOLDER SECONDS; 0 seconds let it live.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import diffusion.motion.extraction as extraction
import diffusion.training.run  # noqa: F401  # what is changed in it has to be there
from compress.pipeline import compress
from compress.recipe import Recipe
from diffusion.model.vae import KIND, MotionVAE
from diffusion.model.weights import save
from hmr.data.dataset import Frames, frames_of
from hmr.data.sample import Sample
from hmr.models.model import build
from tests import sizes
from tests.motion import TINY, clips

STEPS = 6


def tiny_vae() -> MotionVAE:
    """A tiny VAE, the same each time."""
    torch.manual_seed(3)
    return MotionVAE(TINY).half().float().eval()


def encoder() -> Any:
    torch.manual_seed(0)
    return build("reference", {**sizes.TINY, "depth": 4, "head_dim": 6, "head_mlp_dim": 24}).eval()


def recipe(kind: str, steps: int = STEPS, **train: object) -> Recipe:
    """Tokens are merged, and a decoder is trained for what is left."""
    given = dict(train) if kind == "linear" else {"steps": steps, "batch": 2, **train}
    decoder = {"policy": "motion_decoder", "kind": kind, "train": given}
    tokens = {"policy": "merge_tokens", "keep": 90, "protect": "none"}
    return Recipe.parse(json.dumps({"schema_version": 1, "name": "tiny", "steps": [tokens, decoder]}), "tiny.json")


def sample(index: int) -> Sample:
    """A picture of nothing, with a pose that is known; every second one begins a recording."""
    rng, clip = np.random.default_rng(index), clips()[index // 2]
    image = rng.integers(0, 255, (224, 168, 3), np.uint8)
    pose = clip.rotations[index].astype(np.float32)
    return Sample(image, f"recording-{index // 2}", rotations=pose, betas=np.zeros(10, np.float32))


def tiny_world(folder: Path, setattr_: Any = setattr) -> None:
    """Training sees two videos of two frames, and the shipped VAE is a tiny one."""
    path = save(folder / "vae.safetensors", tiny_vae(), KIND, TINY, {})
    samples = [sample(i) for i in range(4)]

    def opened(*asked: object) -> Frames:
        return frames_of(samples, 30.0)

    setattr_(extraction, "opened", opened)
    for module in ("diffusion.training.run", "diffusion.model.decoder"):
        setattr_(sys.modules[module], "shipped_vae", lambda: path)


def main(folder: Path, seconds: float) -> None:
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["FASTHMR_HOME"] = str(folder / "home")
    tiny_world(folder)
    began = time.monotonic()
    if seconds:
        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
    calib = frames_of([sample(9)])
    made = compress(encoder(), recipe("diffusion", 400), calib=calib)
    torch.save(made.model.state_dict(), folder / "final.pt")
    (folder / "seconds").write_text(str(time.monotonic() - began))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
