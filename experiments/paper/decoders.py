"""Tables of what each part of the decoder contributes, next to simpler baselines on the same frames.

A table is data: ways to get rotations out of an encoder's features. What is trained is trained on the same features for
the same steps and kept in $FASTHMR_HOME/decoders, so that tables share it and one that was killed goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

import hmr
from compress.context import Context, Observer, silent
from compress.cost.timing import timed
from compress.errors import BadInput
from compress.files.weights import digest
from compress.pipeline import run_all_steps
from compress.policy import Policy
from compress.provenance import provenance
from compress.recipe import Recipe
from compress.training.loop import train
from compress.training.task import Precision, TrainConfig
from diffusion.decoded import encoder_id, refuse_other_bodies
from diffusion.model.decoder import ClipDecoder, Kind, Target, load_decoder
from diffusion.model.schedule import Objective
from diffusion.model.sizes import sizes_of
from diffusion.model.vae import MotionVAE, load_vae, shipped_vae
from diffusion.motion.clips import FPS
from diffusion.motion.extraction import features
from diffusion.motion.features import VideoFeatures
from diffusion.training.decoder import errors as decoding_errors
from diffusion.training.decoder import sizes_for, train_decoder
from diffusion.training.vae import gate, train_vae
from experiments.paper.baselines import FrameHead, HeadTask, one_euro, savitzky_golay
from hmr.body.files import load_body
from hmr.data.datasets import with_split
from hmr.evaluation.errors import KEYS, Errors, PosedBodies, all_errors, paired, paired_pa
from hmr.evaluation.errors import row as errors_row
from hmr.evaluation.predict import BATCH
from hmr.home import fasthmr_home
from hmr.models.model import HMRModel

Encoder = Literal["original", "layers", "unrecovered", "merged", "unprotected"]
Head = Literal["own", "head", "one-euro", "savitzky-golay", "linear", "regressor", "diffusion"]
Filter = Callable[[VideoFeatures, float], Tensor]
FILTERS: dict[str, list[Filter]] = {  # the best of each on the validation split is taken
    "one-euro": [partial(one_euro, cutoff=c, speed=s) for c in (0.5, 1.0, 2.0, 4.0) for s in (0.0, 0.3, 1.0)],
    "savitzky-golay": [partial(savitzky_golay, seconds=s) for s in (0.2, 0.4, 0.6, 1.0)],
}
CPU, ROUNDS = torch.device("cpu"), 7
VAE_LR = 1e-4  # of VAEs that are trained for a row; they start as the best linear ones


@dataclass(frozen=True)
class DecoderRow:
    """One way from pictures to rotations."""

    name: str
    encoder: Encoder = "merged"
    head: Head = "own"
    target: Target | None = None  # None: the one that decoders of this kind have
    objective: Objective = "hybrid"
    representation: Literal["hybrik", "6d"] = "hybrik"
    denoising_steps: int = 1
    noise_seed: int = 0
    latent: tuple[int, int] | None = None  # tokens and width of a VAE of its own
    look_ahead: int | None = None  # frames at 30 frames/s, which is the latency; None: a clip's
    calm: float | None = None  # deviation, in frames, of what smooths; None: the size's own
    acceleration: float = 0.0  # weight of the error of second differences in a regressor's loss


BASELINE = DecoderRow("baseline", "original")
MERGED = DecoderRow("+ ECLM + Mask-ToMe")
DECODER = DecoderRow("+ diffusion decoder", head="diffusion")
TABLES: dict[str, tuple[DecoderRow, ...]] = {
    "decoder": (
        DecoderRow("+ ECLM", "layers"),
        DecoderRow("+ ECLM + Mask-ToMe, not recovered", "unrecovered"),
        MERGED,
        DECODER,
        DecoderRow("decoder without merging", "original", "diffusion"),
        DecoderRow("linear: the start of both", head="linear"),
        DecoderRow("pose head trained on", head="head"),
        DecoderRow("transformer into the latent", head="regressor", target="latent"),
        DecoderRow("transformer to 133 numbers", head="regressor"),
        DecoderRow("one-euro, causal", head="one-euro"),
        DecoderRow("Savitzky-Golay, not causal", head="savitzky-golay"),
    ),
    "objectives": tuple(DecoderRow(name, head="diffusion", objective=name) for name in get_args(Objective)),
    "denoising-steps": tuple(DecoderRow(f"{n} steps", head="diffusion", denoising_steps=n) for n in (1, 2, 5, 20)),
    "representation": (
        DecoderRow("HybrIK", head="diffusion"),
        DecoderRow("6D rotations", head="diffusion", representation="6d"),
    ),
    "protection": (
        DecoderRow("ToMe", "unprotected"),
        DecoderRow("ToMe + diffusion", "unprotected", "diffusion"),
        DecoderRow("Mask-ToMe"),
        DecoderRow("Mask-ToMe + diffusion", head="diffusion"),
    ),
    # FastHMR Tab. 3 has 256, 512 and 1024 beside 27 x 512: the same shares of the reference's width
    "latents": tuple(
        DecoderRow(f"{tokens} x {dim}", head="diffusion", latent=(tokens, dim))
        for tokens, dim in ((9, 96), (9, 192), (9, 384), (27, 192))
    ),
    "streaming": tuple(
        DecoderRow("whole clips" if n is None else f"{n} frames ahead", head="linear", look_ahead=n)
        for n in (0, 4, 13, 40, None)
    ),
    "smoothness": (
        MERGED,
        DecoderRow("the filter alone", head="linear"),
        DecoderRow("and a Gaussian of a frame", head="linear", calm=1.0),
        DecoderRow("regressor", head="regressor"),
        DecoderRow("and a Gaussian of a frame, regressor", head="regressor", calm=1.0),
        *(DecoderRow(f"regressor, loss of acceleration {w:g}", head="regressor", acceleration=w) for w in (1.0, 10.0)),
        DecoderRow("diffusion", head="diffusion"),
    ),
    "noise-seeds": tuple(DecoderRow(f"seed {n}", head="diffusion", noise_seed=n) for n in range(10)),
}


@dataclass(frozen=True)
class RowBudget:
    """What every trained row gets: optimizer steps of decoders and of recovery, of `batch` clips or pictures."""

    steps: int
    vae_steps: int  # of VAEs that are trained for a row, where representations are compared
    batch: int = 16
    lr: float = 3e-4
    precision: Precision = "float32"  # of products

    def products(self, split: str) -> Precision:
        """In which precision encoders compute features of a split: exactly, where something is measured."""
        return self.precision if split == "train" else "float32"


@dataclass
class DecoderComparison:
    """An encoder in its forms, the videos of three splits, and the budget of all that is trained.

    Raises BadInput for data and recipes that no row can be measured with.
    """

    model: Any
    recipe: str
    data: str
    budget: RowBudget
    vae_path: Path | None = None
    frames: int | None = None
    train_frames: int | None = None
    mocap: Path | None = None
    observer: Observer = silent
    encoders: dict[Encoder, HMRModel] = field(default_factory=dict)
    heads: dict[str, partial[Tensor]] = field(default_factory=dict)  # of the rows that were measured, on a video

    def __post_init__(self) -> None:
        refuse_other_bodies(self.model)
        self.test, self.body = hmr.frames(self.data, self.frames, model=self.model), load_body()
        if self.test.spec.split != "test":
            raise BadInput(f"{self.data}: results are reported on test, and choices are made on the other splits")
        steps = Recipe.load(self.recipe).steps
        self.policies = {step.policy: step for step in steps if step.policy != "motion_decoder"}
        if "merge_tokens" not in self.policies:
            raise BadInput(f"recipe {self.recipe} has no step merge_tokens, which every row is about")

    @cached_property
    def context(self) -> Context:
        """Choices are made on the same frames as `fasthmr compress` makes them, so that encoders are the same."""
        calib = hmr.frames(with_split(self.data, "calib"), self.frames, model=self.model)
        return Context(self.model, calib.drawn(self.observer), self.observer)

    def encoder(self, form: Encoder) -> HMRModel:
        """The model after the steps that its form means."""
        if form not in self.encoders:
            self.encoders[form] = run_all_steps(self.model, self.steps(form), self.context.fresh()).eval()
        return self.encoders[form]

    def steps(self, form: Encoder) -> list[Policy]:
        """What of the recipe makes this form."""
        tokens = self.policies["merge_tokens"].model_copy(update={"protect": "none", "partition": "parity"})
        bare = {**self.policies, "merge_tokens": tokens}
        names: dict[Encoder, set[str]] = {
            "original": set(),
            "layers": {"merge_layers"},
            "unrecovered": set(bare) - {"recover"},
            "merged": set(bare),
            "unprotected": set(bare),
        }
        steps = bare if form == "unprotected" else self.policies
        return [step for name, step in steps.items() if name in names[form]]

    def videos(self, form: Encoder, split: str) -> list[VideoFeatures]:
        """Features of the videos of a split, in the cache."""
        encoder = self.encoder(form)
        if split == self.test.spec.split:
            return features(encoder, self.test.spec.name, split, self.frames, None, self.observer)
        products = self.budget.products(split)
        return features(encoder, "synth-video", split, self.train_frames, self.mocap, self.observer, precision=products)

    def vae(self, entry: DecoderRow) -> tuple[MotionVAE, str]:
        """The VAE of a row, and its hash."""
        if (entry.latent or entry.representation != "hybrik") and not self.budget.vae_steps:
            raise BadInput("representations and latents are compared by VAEs of equal training: give --vae-steps")
        if self.budget.vae_steps:
            latent = dict(zip(("tokens", "dim"), entry.latent or (), strict=False))
            sizes = sizes_of("reference", representation=entry.representation, **latent)
            out = self.place("vae", entry.representation, entry.latent)
            config = TrainConfig(out=out, steps=self.budget.vae_steps, lr=VAE_LR, precision=self.budget.precision)
            path = train_vae(sizes, config, self.body, self.mocap)
        else:
            path = self.vae_path or shipped_vae()
        return load_vae(path), digest(path)

    def place(self, *key: object) -> Path:
        """The folder of the training that has this key."""
        named = hashlib.sha256(json.dumps([*map(str, key), asdict(self.budget), str(self.mocap)]).encode()).hexdigest()
        return fasthmr_home() / "decoders" / named[:32]

    def trained(self, entry: DecoderRow) -> Callable[[VideoFeatures], Tensor]:
        """What a row's head does to a video, trained if it has to be."""
        model, (vae, sha256) = self.encoder(entry.encoder), self.vae(entry)
        videos, val = (self.videos(entry.encoder, split) for split in ("train", "val"))
        encoder, budget = encoder_id(model), asdict(self.budget)
        budget.pop("vae_steps")
        key = (encoder, entry.head, entry.target, entry.objective, sha256, self.train_frames, entry.acceleration)
        out = self.place(*key)
        config = TrainConfig(out=out, **budget)
        if entry.head == "head":
            decoder = ClipDecoder(sizes_for(vae, videos), "linear", encoder=encoder, vae=vae)
            task = HeadTask(decoder, vae, videos, val, config.batch).of(FrameHead(model.head))
            trained: Any = train(task, config).weights
            head = trained.head.cpu()
            return lambda video: head(video.features)
        kind: Kind = entry.head  # type: ignore[assignment]  # the other heads are not trained
        train_row = partial(train_decoder, kind=kind, target=entry.target, objective=entry.objective)
        path = train_row(vae, videos, val, encoder, config, acceleration=entry.acceleration).path
        trained = load_decoder(path, steps=entry.denoising_steps, seed=entry.noise_seed, look_ahead=entry.look_ahead)
        if entry.calm is not None:
            trained.sizes = trained.sizes.model_copy(update={"calm": entry.calm})
        return lambda video: trained.video(video.features, video.predicted_betas, video.fps)

    def head(self, entry: DecoderRow) -> Callable[[VideoFeatures], Tensor]:
        """What a row's head does to a video."""
        if entry.head == "own":
            return lambda video: video.predicted_rotations
        if entry.head not in FILTERS:
            return self.trained(entry)
        val = self.videos(entry.encoder, "val")
        scores = [self.score(filter_, val) for filter_ in FILTERS[entry.head]]
        best = FILTERS[entry.head][int(np.argmin(scores))]
        return lambda video: best(video, video.fps)

    def score(self, head: Filter, videos: list[VideoFeatures]) -> float:
        """MPJPE in mm over videos."""
        return torch.cat([decoding_errors(head(v, v.fps), v, self.body)[0] for v in videos]).mean().item()

    def measure(self, entry: DecoderRow, baseline: Errors | None) -> tuple[dict[str, Any], Errors]:
        """The figures of a row but for its speed, and its errors."""
        self.observer(entry.name, "", 0, 1)
        head, videos = self.head(entry), self.videos(entry.encoder, self.test.spec.split)
        self.heads[entry.name] = partial(head, max(videos, key=len))
        with torch.no_grad():
            guesses = [PosedBodies(head(v), v.predicted_betas) for v in videos]
        errors = all_errors(self.body, guesses, [PosedBodies(v.rotations, v.betas) for v in videos])
        figures = errors_row(entry.name, errors, self.test)
        row = {
            **asdict(entry),
            **{key: figures[key] for key in (*KEYS, "per_clip")},
            "mpjpe_rise_mm": paired(errors, baseline or errors, self.test.recordings),
            "pa_rise_mm": paired_pa(errors, baseline or errors, self.test.recordings),
            "vae_mm": asdict(gate(self.vae(entry)[0], "test", self.body)) if entry.latent else None,
        }
        return row, errors

    def time(self, rows: list[dict[str, Any]]) -> None:
        """Add each row's frames/s, of encoder and head together: the longest video's head runs behind the encoder, its
        own head included, in batches. All of them are timed side by side, round by round."""
        self.observer("timing", "", 0, 1)
        crop = self.model.crop_size
        given = torch.zeros(BATCH, 3, *crop), torch.zeros(BATCH, *crop)
        calls = {row["encoder"]: partial(self.encoder(row["encoder"]), *given) for row in rows}
        seconds = {name: float(np.median(runs)) for name, runs in timed({**calls, **self.heads}, ROUNDS, CPU).items()}
        for row in rows:
            frames = len(self.heads[row["name"]].args[0])
            before, behind = seconds[row["encoder"]] / BATCH, seconds[row["name"]] / frames
            row["frames_per_s"] = 1 / (before + behind)
            row["encoder_frames_per_s"] = 1 / before
            row["head_frames_per_s"] = 1 / behind if row["head"] != "own" else None
            row["latency_ms"] = (
                None if row["look_ahead"] is None else 1000 * (row["look_ahead"] / FPS + before + behind)
            )

    def table(self, name: str) -> dict[str, Any]:
        """Every row of a table, measured; differences are paired, to the baseline and to the paper's decoder."""
        first, baseline = self.measure(BASELINE, None)
        measured = {BASELINE.name: (first, baseline)}
        measured |= {entry.name: self.measure(entry, baseline) for entry in TABLES[name]}
        if DECODER.name in measured:
            for row, errors in measured.values():
                row["over_decoder_mm"] = paired(errors, measured[DECODER.name][1], self.test.recordings)
        rows = [row for row, _ in measured.values()]
        self.time(rows)
        run = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
        source = provenance("decoders", self.model, CPU, **self.test.provenance(self.model))
        return {
            "table": name,
            "run": {"id": run[:12], "date": datetime.now(UTC).date().isoformat()},
            "rows": rows,
            "spread_mm": float(np.ptp([row["mpjpe_mm"]["mean"] for row in rows[1:]])),
            "budget": asdict(self.budget),
            "train_frames": self.train_frames,
            "provenance": {**source, "recipe": self.recipe},
        }
