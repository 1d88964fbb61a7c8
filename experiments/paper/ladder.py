"""How much training a decoder needs on another encoder than its own: `python -m experiments.paper.ladder`.

Rungs from the cheapest to the dearest, on the same videos. This script alone decodes an encoder's features with a
decoder of another one, to show what that costs; everything else refuses it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

import hmr
from compress.atomic import atomic_write
from compress.context import Observer
from compress.provenance import provenance
from compress.training.task import TrainConfig
from diffusion.decoded import encoder_id
from diffusion.model.decoder import ClipDecoder, load_decoder
from diffusion.model.start import ridge
from diffusion.model.vae import load_vae, shipped_vae
from diffusion.motion.extraction import features
from diffusion.motion.features import VideoFeatures
from diffusion.training.decoder import train_decoder
from experiments.cli.main import ended
from experiments.cli.output import progress_bar, progress_callback
from hmr.body.files import load_body
from hmr.data.dataset import Frames
from hmr.evaluation.errors import KEYS, Errors, PosedBodies, all_errors, paired
from hmr.evaluation.errors import row as errors_row

CPU = torch.device("cpu")
SHRINK = 0.01  # of the map between features, of deviation 1
Head = Callable[[VideoFeatures], Tensor]  # a video to rotations (N, 24, 3, 3)


@dataclass
class Ladder:
    """An encoder that was made of `original`, whose decoder is `decoder`; `out` keeps what is trained."""

    original: Any
    encoder: Any
    decoder: ClipDecoder
    out: Path
    train_frames: int | None
    steps: list[int]
    observer: Observer

    def videos(self, model: Any, split: str) -> list[VideoFeatures]:
        """Features of synth-video."""
        count = self.train_frames if split == "train" else None
        return features(model, "synth-video", split, count, None, self.observer)

    @cached_property
    def train(self) -> list[VideoFeatures]:
        return self.videos(self.encoder, "train")

    @cached_property
    def validation(self) -> list[VideoFeatures]:
        return self.videos(self.encoder, "val")

    def rungs(self) -> dict[str, Callable[[], Head]]:
        """What is tried, by name; to be called, a training is made."""
        adapted = {f"{n:,} steps": lambda n=n: self.trained(n, self.decoder) for n in self.steps}
        return {
            "no decoder": lambda: lambda video: video.predicted_rotations,
            "the original's, as it is": lambda: decoding(self.decoder),
            "a linear map between features": self.mapped,
            **adapted,
            f"from nothing, {self.steps[-1]:,} steps": lambda: self.trained(self.steps[-1], None),
        }

    def mapped(self) -> Head:
        """The original's decoder behind a linear map of this encoder's features to those of the original."""
        mine, theirs = (
            torch.cat([video.features for video in videos])
            for videos in (self.train, self.videos(self.original, "train"))
        )
        move = linear_map(mine, theirs)
        return lambda video: self.decoder.video(move(video.features), video.predicted_betas, video.fps)

    def trained(self, steps: int, init: ClipDecoder | None) -> Head:
        """A decoder that was trained on this encoder's features, from the original's or from nothing."""
        out = self.out / f"{'from-nothing' if init is None else 'adapted'}-{steps}"
        config = TrainConfig(out=out, steps=steps)
        kind, identity = self.decoder.kind, encoder_id(self.encoder)
        vae = load_vae(shipped_vae())
        made = train_decoder(vae, self.train, self.validation, identity, config, kind, self.decoder.target, init=init)
        return decoding(load_decoder(made.path))

    def table(self, split: str) -> list[dict[str, Any]]:
        """A row for each rung on the videos of a split; differences are paired, with the rung of the least error."""
        frames, videos, body = hmr.frames(f"synth-video:{split}"), self.videos(self.encoder, split), load_body()
        truths = [PosedBodies(video.rotations, video.betas) for video in videos]
        measured: dict[str, Errors] = {}
        for name, make in self.rungs().items():
            self.observer(name, split, 0, 1)
            head = make()
            with torch.no_grad():
                guesses = [PosedBodies(head(video), video.predicted_betas) for video in videos]
            measured[name] = all_errors(body, guesses, truths)
        return [{"split": split, **row} for row in rows(measured, frames)]


def rows(measured: dict[str, Errors], frames: Frames) -> list[dict[str, Any]]:
    """Rungs as JSON values, and how far each is over the best."""
    best = min(measured.values(), key=lambda errors: errors.per_joint_mm.mean().item())
    return [
        {
            "name": name,
            **{key: errors_row(name, errors, frames)[key] for key in KEYS},
            "over_best_mm": paired(errors, best, frames.recordings),
        }
        for name, errors in measured.items()
    ]


def linear_map(mine: Tensor, theirs: Tensor) -> Callable[[Tensor], Tensor]:
    """The ridge regression of features (N, V) on features (N, W), to be called with such (..., W)."""
    mean, deviation, aim = mine.mean(0), mine.std(0).clamp_min(1e-3), theirs.mean(0)
    weight = ridge([(mine - mean) / deviation], [theirs - aim], (SHRINK,))[0].float()
    return lambda x: (x - mean) / deviation @ weight + aim


def decoding(decoder: ClipDecoder) -> Head:
    return lambda video: decoder.video(video.features, video.predicted_betas, video.fps)


def cheapest(rows: list[dict[str, Any]]) -> str:
    """The name of the first rung that is within the interval of the best. The best itself has a difference of 0."""
    return next(row["name"] for row in rows if row["over_best_mm"]["lo"] <= 0)


def main(
    encoder: Annotated[str, typer.Option(help="What was made of the original: a folder of `fasthmr compress`.")],
    decoder: Annotated[Path, typer.Option(help="The original's decoder, as `fasthmr train decoder` wrote it.")],
    out: Annotated[Path, typer.Option(help="The folder to write: trainings, and ladder.json.")],
    original: Annotated[str, typer.Option(help="The model that the decoder was trained for.")] = "reference",
    steps: Annotated[list[int] | None, typer.Option(min=1, help="Of adaptation, a rung for each.")] = None,
    train_frames: Annotated[int | None, typer.Option(min=1, help="Train on at most this many frames.")] = None,
) -> None:
    """Climb it: rungs are compared on val, where one is chosen, and on test."""
    with progress_bar() as bar:
        models, first = (hmr.load(original), hmr.load(encoder)), load_decoder(decoder)
        first.refuse_other(encoder_id(models[0]))
        rungs = sorted(steps or (200, 1000, 5000))
        ladder = Ladder(*models, first, out, train_frames, rungs, progress_callback(bar))
        tables = [ladder.table(split) for split in ("val", "test")]
    result: dict[str, Any] = {
        "rows": [row for table in tables for row in table],
        "cheapest": cheapest(tables[0]),
        "decoder": {"kind": first.kind, "target": first.target},
        "train_frames": train_frames,
        "provenance": provenance("ladder", models[1], CPU, **hmr.frames("synth-video:test").provenance(models[1])),
    }
    atomic_write(out / "ladder.json", json.dumps(result, indent=1).encode())
    for row in result["rows"]:
        typer.echo(f"{row['split']:5} {row['name']:32} " + " ".join(f"{shown(row[key])}" for key in KEYS))
    typer.echo(f"cheapest: {result['cheapest']}")


def shown(value: Any) -> str:
    return "-" if value is None else f"{np.round(value['mean'] if isinstance(value, dict) else value, 1)}"


if __name__ == "__main__":
    ended(lambda: typer.run(main))
