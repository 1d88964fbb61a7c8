"""What the campaign does its harm to: tiny models, a recipe, a study, a film, and commands that take a second."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from optuna.trial import TrialState
from safetensors.torch import load_file, save_file

from compress import artefact
from experiments.search import storage
from experiments.search.study import read_study
from hmr.checkpoints.files import save
from hmr.deploy import parity
from hmr.models.model import build
from hmr.video import run as running
from hmr.video.jobs import job
from tests import films, sizes, test_compress, test_train
from tests.campaign.apart import fasthmr
from tests.killed import main as train_vae
from tests.search_study import STUDY
from tests.test_train import DINOv2

TRIALS = 8
Facts = dict[str, Any]


@dataclass(frozen=True)
class Command:
    """One that is killed, starved or turned back; what it leaves is in the folder where it ran."""

    work: Callable[[], object]
    facts: Callable[[], Facts]  # what of its result is there and whole; raises where something is there and is not
    done: Callable[[], bool]
    same: Callable[[Facts, Facts], bool] = dict.__eq__  # of an unbroken run's facts, and another's


def world(place: Path) -> None:
    """Write the inputs of all commands to a folder."""
    for i, name in enumerate(("tiny", "other")):
        torch.manual_seed(i)
        save(build("reference", test_compress.TINY), place / f"{name}.safetensors")
    save_file(DINOv2(sizes.TINY["dim"], 3, 2, sizes.TINY["mlp_dim"], 0.0, test_train.GRID).state_dict(),
              place / "backbone.safetensors")  # fmt: skip
    steps = (test_compress.SEARCH, test_compress.TOKENS)
    (place / "mine.yaml").write_text(test_compress.HEAD + "".join(steps))
    (place / "tiny.yaml").write_text(STUDY.split("rivals")[0])
    films.film(place / "walk.mp4")


def before() -> None:
    """What every command finds: a home beside its inputs, small numbers of frames, and a finder of squares."""
    os.environ["FASTHMR_HOME"] = str(Path.cwd() / "home")
    storage.GRACE, storage.HEARTBEAT = 2, 1  # s, so that a kill costs less
    parity.FRAMES, running.PART = 6, 4  # frames of an export's comparison, and of a piece of a video
    job.network_of, job.finder = lambda asked: films.tiny(), lambda name, every: films.Squares()  # type: ignore[assignment]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- what is left


def compressed() -> Facts:
    if not Path("out").exists():
        return {}
    manifest, _, contents = artefact.checked(Path("out"))
    rows = json.loads(contents["result.json"])["rows"]
    return {"id": manifest.id, "rows": [[row["step"], row["macs"], row["mpjpe_mm"]] for row in rows]}


def exported() -> Facts:
    return {file.name: digest(file) for file in sorted(Path("out").glob("model.*"))}


def searched() -> Facts:
    """Recipe -> values of each complete trial, and how many still run."""
    spec = read_study("tiny.yaml")
    url = storage.default_storage(spec.name)
    if not Path(url.removeprefix("sqlite:///")).exists():
        return {}
    import optuna

    storage.quiet()
    if not optuna.get_all_study_names(url):
        return {}
    trials = optuna.load_study(study_name=spec.name, storage=url).get_trials()
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    return {t.user_attrs["recipe_id"]: t.values for t in complete} | {
        "complete": len(complete), "running": sum(t.state == TrialState.RUNNING for t in trials)
    }  # fmt: skip


def of_search(whole: Facts, found: Facts) -> bool:
    """Later starts draw other recipes; those of both, as the five by hand that fit the model, have equal values, and
    all that were asked for are complete."""
    common = whole.keys() & found.keys() - {"complete", "running"}
    return len(common) >= 5 and all(whole[one] == found[one] for one in common) and found["complete"] >= TRIALS


def ran() -> Facts:
    found: Facts = {}
    for file in sorted(Path("out").glob("track-*.npz")) if Path("out/run.json").exists() else ():
        with np.load(file) as arrays:
            found |= {f"{file.name} {name}": hashlib.sha256(arrays[name].tobytes()).hexdigest() for name in arrays}
    return found


def trained(kind: str) -> Facts:
    if kind == "vae":
        file = Path("out/seconds")  # written last
        state = torch.load("out/final.pt", weights_only=True) if file.exists() else {}
    else:
        file = Path("out/model.safetensors")
        state = load_file(file) if file.exists() else {}
    return {name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in state.items()}


def train_hmr() -> None:
    """Of noise; sixteen steps, with a checkpoint after each."""
    with test_train.noise_frames(), mock.patch.object(torch, "set_num_threads"):
        test_train.train(test_train.config(Path("out"), Path("backbone.safetensors"), steps=16))


def warm(place: Path) -> None:
    """Import, and keep, in this process what commands import and keep, so that its children need not."""
    was = Path.cwd()
    os.chdir(place)
    before()
    try:
        for name in ("compress", "export", "search"):
            with suppress(SystemExit), redirect_stdout(io.StringIO()):
                COMMANDS[name].work()
            shutil.rmtree("out", ignore_errors=True)
    finally:
        os.chdir(was)


COMPRESS = ("compress", "mine.yaml", "--model", "tiny.safetensors", "--data", "synth", "--out", "out", "--frames", 4,
            "--calib-frames", 4)  # fmt: skip
SEARCH = ("search", "tiny.yaml", "--trials", TRIALS)
RUN = ("run", "walk.mp4", "--model", "tiny", "--focal", 200, "--batch", 2, "--out", "out", "--csv")
COMMANDS = {
    "compress": Command(fasthmr(*COMPRESS), compressed, Path("out").exists),
    "search": Command(fasthmr(*SEARCH), searched, lambda: False, of_search),
    "train a VAE": Command(partial(train_vae, "vae", Path("out"), 0, 60), partial(trained, "vae"), lambda: False),
    "train a model": Command(train_hmr, partial(trained, "hmr"), lambda: False),
    "run": Command(fasthmr(*RUN), ran, Path("out/run.json").exists),
    "export": Command(fasthmr("export", "tiny.safetensors", "--out", "out"), exported, Path("out").exists),
}
