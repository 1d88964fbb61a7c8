"""The features of a data set's videos, in the cache or into it, by this process or by the workers of a cluster."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any, Literal

import hmr
from compress.context import Observer, silent
from compress.errors import BadInput
from compress.files.weights import digest
from compress.policy import FrozenModel
from compress.training.task import Precision
from diffusion.decoded import encoder_id
from diffusion.motion.features import (
    VideoFeatures,
    cache_bytes,
    cached_features,
    claim,
    prepare,
    shard_file,
    write_shard,
)
from hmr.cluster import shared_out
from hmr.data.dataset import Frames
from hmr.data.datasets import with_split
from hmr.home import fasthmr_home
from hmr.models.device import best_device
from hmr.motion.clip_file import digest_of, open_clips

log = logging.getLogger(__name__)
Engine = Literal["local", "ray"]


class FeatureJob(FrozenModel):
    """Whose features of which videos go where, so that any process can compute some of them."""

    model: str
    encoder: str
    data: str
    split: str
    frames: int | None
    mocap: str | None
    folder: str
    precision: Precision


class FeatureWorker:
    """One process with its own copy of the model, which does shard after shard."""

    def __init__(self, job: str) -> None:
        self.job = FeatureJob.model_validate_json(job)
        self.model = hmr.load(self.job.model).to(best_device())
        mocap = Path(self.job.mocap) if self.job.mocap else None
        self.videos = opened(self.model, self.job.data, self.job.split, self.job.frames, mocap)
        self.shards = prepare(self.model, self.videos)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row with a shard's number -> whether that is done, or why it is not."""
        try:
            if encoder_id(self.model) != self.job.encoder:
                raise BadInput(f"--engine ray: {self.job.model} is another model to the workers than here")
            spans = self.shards[row["shard"]]
            path = shard_file(Path(self.job.folder), spans)
            write_shard(path, self.model, self.videos, spans, self.job.precision)
        except BadInput as error:
            return {"shard": row["shard"], "refusal": str(error)}
        return {"shard": row["shard"], "refusal": ""}


def features(
    model: Any,
    data: str,
    split: str,
    frames: int | None,
    mocap: Path | None,
    observer: Observer = silent,
    engine: Engine = "local",
    precision: Precision = "float32",
) -> list[VideoFeatures]:
    """Features of the videos of one split of a data set or of a user's file of clips, from the cache or into it.

    precision: of the encoder's products. engine: `ray` has what is missing computed by workers, which load the model by
    its name. Raises BadInput where a model needs masks and there are none, as `prepare` and `cached_features`, and as
    `shared_out`.
    """
    videos = opened(model, data, split, frames, mocap)
    if model.protect is not None and not videos.has_masks:
        raise BadInput(f"{model.name} needs person masks and the clips of {data} have none")
    identity = identity_of(model, data, split, videos, precision)
    if engine == "ray":
        job = FeatureJob(
            model=absolute(model.name),
            encoder=identity["encoder"],
            data=absolute(data),
            split=split,
            frames=frames,
            mocap=None if mocap is None else absolute(str(mocap)),
            folder=absolute(str(folder_of(identity))),
            precision=precision,
        )
        shards = prepare(model, videos)
        claim(folder_of(identity), identity)
        compute(job, shards)
    return in_cache(model, videos, identity, f"{data} {split}", observer)


def identity_of(model: Any, data: str, split: str, videos: Frames, precision: Precision) -> dict[str, Any]:
    """Whose features of what they are, and in which precision an encoder computed them."""
    return {"encoder": encoder_id(model), "data": data_id(data, split, videos), "precision": precision}


def in_cache(
    model: Any, videos: Frames, identity: dict[str, Any], name: str, observer: Observer = silent
) -> list[VideoFeatures]:
    """Features of videos of an identity, computed where they are not in the cache. Raises as `cached_features`."""
    what, folder = f"features of {name}, {cache_bytes(model, videos) / 2**20:.0f} MiB", folder_of(identity)
    log.info("%s, in %s", what, folder)

    def tell(frames: int) -> None:
        observer(what, "", frames, len(videos))

    tell(0)
    return cached_features(model, videos, folder, identity, tell, identity["precision"])


def folder_of(identity: dict[str, Any]) -> Path:
    """Where features of an encoder and data of this identity are kept."""
    named = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return fasthmr_home() / "features" / named[:32]


def compute(job: FeatureJob, shards: list[list[range]]) -> None:
    """Have workers compute the shards that are not there yet. Raises BadInput where one could not, and as
    `shared_out`."""
    folder = Path(job.folder)
    missing = [{"shard": i} for i, spans in enumerate(shards) if not shard_file(folder, spans).exists()]
    found = shared_out(FeatureWorker, job.model_dump_json(), missing) if missing else []
    if refused := [row["refusal"] for row in found if row["refusal"]]:
        raise BadInput(refused[0])


def absolute(name: str) -> str:
    """A path as it is from any folder; another name as it is."""
    return str(Path(name).absolute()) if Path(name).exists() else name


def opened(model: Any, data: str, split: str, frames: int | None, mocap: Path | None) -> Frames:
    """Videos by a data set's name, or by the path of a file of clips."""
    if data.endswith(".json"):
        return open_clips(Path(data), split, model.family.box.side, model.family.crop, frames)
    return hmr.frames(with_split(data, split), frames, mocap=mocap, size=model.family.crop, keep=False)


def data_id(data: str, split: str, videos: Frames) -> dict[str, Any]:
    """The identity of a data set's frames; of a file of clips, its hash and that of all it names."""
    if data.endswith(".json"):
        named = digest_of(Path(data), split, len(videos))
        return {"clips": digest(Path(data)), "split": split, "frames": len(videos), "named": named}
    first = hashlib.sha256(videos[0].image.tobytes()).hexdigest()  # other code may draw other pictures
    return {"name": data.partition(":")[0], "split": split, **videos.identity, "first": first}
