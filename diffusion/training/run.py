"""`fasthmr train vae`, `train decoder` and `reconstruct`: the data, caches and files around a training."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from compress.atomic import atomic_write
from compress.context import Observer, silent
from compress.errors import BadInput
from compress.files.weights import digest
from compress.provenance import provenance
from compress.training.loop import Progress
from compress.training.task import Precision, TrainConfig
from diffusion.decoded import encoder_id, refuse_other_bodies
from diffusion.model.decoder import Kind, load_decoder
from diffusion.model.sizes import sizes_of
from diffusion.model.vae import load_vae, shipped_vae
from diffusion.motion.extraction import Engine, features
from diffusion.training.decoder import TrainedDecoder, train_decoder
from diffusion.training.vae import gate, train_vae
from hmr.body.files import load_body
from hmr.motion.clip_file import motion_in
from hmr.motion.recordings import Split

GATE_MM = 15.0  # a VAE that reconstructs unseen families worse than this is no prior to decode with


def vae_training(
    size: str, config: TrainConfig, mocap: Path | None, data: Path | None, pieces: int | None = None
) -> dict[str, Any]:
    """Train a motion VAE and measure its gate; returns, and writes beside its weights, what came out."""
    body = load_body()
    clips = motion_in(data, "train") if data else None
    more = {} if pieces is None else {"pieces": pieces}
    path = train_vae(sizes_of(size), config, body, mocap, clips=clips, **more)
    result = reconstruction(path)
    atomic_write(config.out / "result.json", json.dumps(result, indent=1).encode())
    return result


def reconstruction(path: Path | None) -> dict[str, Any]:
    """What `fasthmr reconstruct --json` prints: how far bodies that a VAE reconstructs are from the true ones."""
    path = path or shipped_vae()
    vae, body = load_vae(path), load_body()
    splits: tuple[Split, ...] = ("val", "test")
    rows = {split: asdict(gate(vae, split, body)) for split in splits}
    return {
        "weights": {"path": str(path), "sha256": digest(path)},
        "sizes": vae.sizes.model_dump(),
        "mpjpe_mm": rows,
        "passes": rows["test"]["mean"] <= GATE_MM,
        "gate_mm": GATE_MM,
        "provenance": provenance("reconstruct", None, torch.device("cpu"), body=body.identity),
    }


def decoder_training(
    model: Any,
    data: str,
    vae: Path | None,
    config: TrainConfig,
    mocap: Path | None = None,
    frames: int | None = None,
    observer: Observer = silent,
    kind: Kind = "diffusion",
    init: Path | None = None,
    engine: Engine = "local",
) -> TrainedDecoder:
    """Train a decoder on the features of `model`, where it is.

    init: a decoder's file to start from. engine: what computes features, see `features`. Raises BadInput, before
    anything is computed, for a model of other bodies, or with a decoder, and data without videos.
    """
    if model.takes_clips:
        raise BadInput(f"{model.encoder.name} has a decoder already: name the encoder it was made for")
    refuse_other_bodies(model)
    prior = load_vae(vae or shipped_vae())
    start = None if init is None else load_decoder(init)
    # only what is learned from: at run time the encoder computes in its own numbers
    precision: Precision = "bfloat16" if config.precision == "bfloat16" else "float32"
    with PartialState().main_process_first():  # under `accelerate launch` the others find the cache filled
        train = features(model, data, "train", frames, mocap, observer, engine, precision)
        validation = features(model, data, "val", None, None, observer, engine)

    def show(now: Progress) -> None:
        done, total = (now.step, config.steps) if config.steps else (now.seconds, 60 * (config.minutes or 0))
        observer("training the decoder", f"step {now.step}", round(done), round(total))

    return train_decoder(prior, train, validation, encoder_id(model), config, kind, init=start, observe=show)
