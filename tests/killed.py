"""A training in a process of its own, to be killed: python -m tests.killed vae|decoder FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from diffusion.train import train
from tests.test_train_motion import COURSES, config

if __name__ == "__main__":
    torch.set_num_threads(1)
    course, out = COURSES[sys.argv[1]](), Path(sys.argv[2])
    trained = train(course, config(out, steps=1500, checkpoint_steps=10, val_steps=400))
    torch.save(trained.state_dict(), out / "final.pt")
