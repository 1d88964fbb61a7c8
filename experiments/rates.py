"""`python -m experiments.rates`: what the parts around a network take on one core: drawing frames, and 243 frames of
rotations to numbers and back."""

from __future__ import annotations

import json
import sys
from statistics import median
from typing import Annotated

import numpy as np
import torch
import typer

from compress.cost import timed
from diffusion.representation import decode, encode
from experiments.provenance import provenance
from hmr.body import load_body
from hmr.data.synthetic import open_world

DRAWN, CLIP = 100, 243  # frames


def main(rounds: Annotated[int, typer.Option(min=1, help="Of which the median is taken.")] = 7) -> None:
    """Times on one thread, everything in turn."""
    torch.set_num_threads(1)
    body, data = load_body(), open_world("synth", "test", CLIP)
    samples = [data[i] for i in range(CLIP)]
    rotations = torch.from_numpy(np.stack([sample.rotations for sample in samples]))
    betas = torch.from_numpy(np.stack([sample.betas for sample in samples]))
    numbers = encode(rotations, betas, body)
    calls = {
        "draw": lambda: [data[i] for i in range(DRAWN)],
        "encode": lambda: encode(rotations, betas, body),
        "decode": lambda: decode(numbers, betas, body),
    }
    cpu = torch.device("cpu")
    seconds = {name: median(runs) for name, runs in timed(calls, rounds, cpu).items()}
    said = {
        "frames_drawn_per_s": DRAWN / seconds["draw"],
        "clip_encoded_ms": 1000 * seconds["encode"],
        "clip_decoded_ms": 1000 * seconds["decode"],
        "provenance": provenance("rates", None, body, None, None, cpu),
    }
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    typer.run(main)
