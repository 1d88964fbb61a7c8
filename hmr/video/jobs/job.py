"""What `fasthmr run` is asked, as data, so that any process can do it: video by video, in this one or in others."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from compress.context import Context, Observer, silent
from compress.errors import BadInput
from compress.pipeline import refuse_misfit, run_all_steps
from compress.recipe import Recipe
from hmr.adapters.adapted import gives_joints
from hmr.animation.world import read_cameras
from hmr.data.masks import segmenter
from hmr.data.pictures import Segmenter
from hmr.models.device import best_device
from hmr.people.finders import Finder, finder
from hmr.people.known import KINDS, KnownPeople
from hmr.resolver import load
from hmr.video.defaults import BATCH, EVERY, PICTURES_FPS
from hmr.video.frames import Film, Span, videos_in
from hmr.video.jobs.joints import joints_into, refuse_bodies
from hmr.video.jobs.live import live_into
from hmr.video.jobs.results import run_into
from hmr.video.run import Run
from hmr.video.stream import Stream

log = logging.getLogger(__name__)


class RunJob(BaseModel):
    """What is to be done with each video; names and units as on the command line."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", ser_json_inf_nan="constants")

    model: str
    adapter: str | None = None  # that a compressed model was made with
    recipe: str | None = None
    people: str = "blazepose"
    every: int = EVERY
    masks: str | None = None
    start: float = 0.0
    end: float = math.inf
    stride: int = 1
    fps: float = PICTURES_FPS
    focal: float | None = None
    fov: float | None = None
    camera: str | None = None
    batch: int = BATCH
    outputs: tuple[str, ...] = ()
    live: bool = False

    def film(self, path: Path) -> Film:
        """A video's frames. Raises BadInput for a span without any."""
        if not 0 <= self.start < self.end:
            raise BadInput(f"--start {self.start:g} --end {self.end:g}: they are seconds, and the first comes before")
        return Film(path, Span(self.start, self.end, self.stride), self.fps)

    def people_of(self) -> tuple[Finder, Segmenter | None]:
        """What finds people and, where those come from a file, what finds their masks. Raises BadInput."""
        if self.masks and Path(self.masks).is_dir():
            raise BadInput(f"--masks {self.masks}: masks of a video stand in an npz of boxes; or name a network")
        if Path(self.people).suffix.lower() in KINDS:
            return KnownPeople(Path(self.people)), segmenter(self.masks) if self.masks else None
        if self.masks:
            raise BadInput(f"--masks {self.masks}: {self.people} finds masks itself; --masks is for people from a file")
        return finder(self.people, self.every), None


def network_of(job: RunJob) -> Any:
    """The model, compressed where a recipe is named. Raises BadInput for a recipe that makes choices on frames."""
    steps = Recipe.load(job.recipe).steps if job.recipe else ()
    if chooses := [step.policy for step in steps if step.needs_calib or step.trains]:
        raise BadInput(
            f"--recipe {job.recipe}: {chooses[0]} makes choices on frames, which takes minutes: compress first, with "
            "`fasthmr compress`, and name the folder it writes as --model"
        )
    original = load(job.model, adapter=job.adapter).to(best_device())
    if gives_joints(original):
        refuse_bodies(job.outputs, job.live, job.camera)
    if steps:
        refuse_misfit(original, steps, None, None)
    return run_all_steps(original, steps, Context(original)).eval()


def places(video: Path, out: Path) -> list[tuple[Path, Path]]:
    """The videos that a path names, and the folder of each: `out`, or in it one for each video of a folder."""
    films = videos_in(video)
    return [(path, out if films == [video] else out / path.name) for path in films]


def do_all(
    job: RunJob, videos: Sequence[tuple[Path, Path]], observer: Observer = silent
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Videos one after the other: results of those that could be read, and why others, by their names, could not.

    Raises BadInput where none could.
    """
    network, results, refused = network_of(job), [], dict[str, str]()
    for path, out in videos:
        try:
            results.append(do(job, network, path, out, observer))
        except BadInput as error:
            refused[path.name] = str(error)
    return report_refused(results, refused)


def report_refused(
    results: list[dict[str, Any]], refused: dict[str, str]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The same; raises BadInput where there is no result, and logs what was refused."""
    if not results:
        raise BadInput("; ".join(refused.values()))
    for reason in refused.values():
        log.warning("%s", reason)
    return results, refused


def do(job: RunJob, network: Any, video: Path, out: Path, observer: Observer = silent) -> dict[str, Any]:
    """One video; returns what `run.json` holds, and the folder."""
    finds, masks = job.people_of()
    film = job.film(video)
    if job.live:
        stream = Stream(network, finds, focal=job.focal, fov=job.fov, masks=masks)
        return {"out": str(out), **live_into(stream, film, out, observer)}
    cameras = read_cameras(Path(job.camera)) if job.camera else None
    run = Run(network, film, finds, masks, job.focal, job.fov, cameras, job.batch, observer)
    write = joints_into if gives_joints(network) else run_into
    return {"out": str(out), **write(run, out, job.outputs)}
