"""A flipped bit or a missing end, anywhere in what commands write: told, or without any effect."""

from __future__ import annotations

import hashlib
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import torch

import hmr
from compress.training.loop import train
from experiments.cli.main import ended
from tests import hostile_checkpoints
from tests.campaign.apart import Defect, apart, fasthmr
from tests.campaign.kills import copied
from tests.campaign.places import COMPRESS, before
from tests.training_tasks import Regression, regression

CROPS = torch.randn(2, 3, 224, 168, generator=torch.Generator().manual_seed(0))
TALL = torch.randn(2, 3, 256, 192, generator=torch.Generator().manual_seed(0))
TIMES = {  # flips, truncations
    "an artefact": (200, 40), "an ONNX file": (200, 40), "an OpenVINO file": (100, 20), "a converted model": (150, 30),
    "a torch checkpoint": (150, 30), "a training's checkpoint": (200, 40),
}  # fmt: skip


def said(name: str, heads: int | None = None) -> None:
    """Print what a model makes of two crops of noise, as a hash."""
    model = hmr.load(name, heads=heads)
    crops = CROPS if tuple(model.encoder.crop_size) == (224, 168) else TALL
    with torch.no_grad():
        out = model(crops, torch.ones(2, *crops.shape[2:]))
    print(hashlib.sha256(out.rotations.numpy().tobytes() + out.betas.numpy().tobytes()).hexdigest())  # noqa: T201


class Halfway(Exception):
    """Ends a training after two of four steps."""


def half_trained() -> None:
    def stop(progress: object) -> None:
        if getattr(progress, "step", 0) == 2:
            raise Halfway

    try:
        train(Regression(), regression(Path("out"), checkpoint_minutes=0.0), stop)
    except Halfway:
        return


def trained_on() -> None:
    """Print the weights at the end of the four steps, as a hash."""
    run = train(Regression(), regression(Path("out"), checkpoint_minutes=0.0))
    weights = b"".join(value.detach().numpy().tobytes() for value in run.weights.state_dict().values())
    print(hashlib.sha256(weights).hexdigest())  # noqa: T201


def torch_checkpoint() -> None:
    Path("out").mkdir()
    hostile_checkpoints.archive(Path("out/model.ckpt"), {"state_dict": hostile_checkpoints.weights()})


EXPORT = ("export", "tiny.safetensors", "--out", "out")
KINDS: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {  # what writes `out`, what reads it
    "an artefact": (fasthmr(*COMPRESS), partial(said, "out")),
    "an ONNX file": (fasthmr(*EXPORT), partial(said, "out/model.onnx")),
    "an OpenVINO file": (fasthmr(*EXPORT, "--format", "openvino"), partial(said, "out/model.xml")),
    "a converted model": (fasthmr("convert", "tiny.safetensors", "--out", "out"), partial(said, "out")),
    "a torch checkpoint": (torch_checkpoint, partial(said, "out/model.ckpt", 2)),
    "a training's checkpoint": (half_trained, trained_on),
}


@cache
def made(kind: str) -> tuple[Path, str]:
    """A folder with `out` in it, and what reading that prints."""
    write, read = KINDS[kind]
    kept = Path(tempfile.mkdtemp(prefix="fasthmr-campaign-")) / "made"
    with copied() as place:
        if (end := apart(write, place, before=before)).code:
            raise Defect(end.said[-1500:])
        shutil.copytree(place, kept)
        end = apart(read, place, before=before)
        if end.code:
            raise Defect(end.said[-1500:])
    return kept, end.out


def damaged(kind: str, how: str, case: int) -> str:
    """One file of a kind, damaged and read. Raises Defect where that gives another result or no sentence."""
    kept, whole = made(kind)
    rng = random.Random(f"{kind} {how} {case}")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "place"
        shutil.copytree(kept, place)
        files = sorted(file for file in (place / "out").rglob("*") if file.is_file() and file.stat().st_size)
        file = rng.choice(files if case % 2 else [max(files, key=lambda one: one.stat().st_size)])
        content = bytearray(file.read_bytes())
        at = rng.randrange(len(content) if case % 4 < 2 else min(len(content), 600))
        if how == "truncated":
            del content[at:]
        else:
            content[at] ^= 1 << rng.randrange(8)
        file.write_bytes(content)
        end = apart(partial(ended, KINDS[kind][1]), place, before=before)
        what = f"{file.relative_to(place)} at byte {at} of {len(content)}: "
        if end.code == 0 and end.out == whole:
            return "equal"
        if end.code == 0:
            raise Defect(f"{what}read as if it were whole, and gives something else")
        try:
            sentence = end.sentence
        except Defect as error:
            raise Defect(f"{what}{error}") from error
        if "out" not in sentence:
            raise Defect(f"{what}does not say where: {sentence}")
        return "refused"


def rows() -> Iterator[tuple[str, int, Callable[[int], str]]]:
    """(row, cases, what does one)."""
    for i, how in enumerate(("a flipped bit", "truncated")):
        for kind, times in TIMES.items():
            row = f"{how} in {kind}" if not i else f"{kind}, truncated"
            yield row, times[i], partial(damaged, kind, how)
