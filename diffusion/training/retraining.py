"""A decoder for the encoder that compressing has just made: the training behind `train:` of `motion_decoder`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compress.context import Context
from compress.errors import BadInput
from compress.files.weights import digest
from compress.training.task import Budget, TrainConfig
from diffusion.decoded import encoder_id
from diffusion.model.decoder import Kind
from diffusion.training.decoder import TrainedDecoder
from diffusion.training.run import decoder_training

CHECKPOINT_MINUTES = 1.0


@contextmanager
def retrained(model: Any, kind: Kind, train: Any, init: Path | None, context: Context) -> Iterator[TrainedDecoder]:
    """A decoder trained on the features of `model`, while its file is there.

    train: `diffusion.policy.Retraining`. Checkpoints lie where `context` keeps long work, features in
    `$FASTHMR_HOME/features`: what was killed goes on from there, with a budget in steps and on a CPU to the same bits.

    Raises BadInput for a model without weights, and as `decoder_training`.
    """
    if model.is_meta:
        raise BadInput("motion_decoder: train: a model without weights has no features to learn from")
    start = None if init is None else digest(init)
    asked = {**train.model_dump(mode="json", exclude={"init"}), "kind": kind, "init": start, "seed": context.seed}
    with context.place("decoders", encoder_id(model), json.dumps(asked, sort_keys=True)) as folder:
        budget = {name: getattr(train, name) for name in Budget.model_fields}
        if kind == "linear":
            budget["steps"] = 1  # a closed form, which nothing is trained of
        config = TrainConfig(out=folder, seed=context.seed, checkpoint_minutes=CHECKPOINT_MINUTES, **budget)
        yield decoder_training(model, train.data, None, config, None, train.frames, context.observer, kind, init)
