"""What a run writes with an adapter's model: the joints of each person, where there is no body to pose."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compress.atomic import alone, atomic_write
from compress.errors import BadInput
from hmr.video.jobs.results import identity, provenance_of, speeds
from hmr.video.run import Run
from hmr.video.run_folder import RunFolder
from hmr.video.stages import peak_memory
from hmr.video.tracks import LEAST, Arrays

log = logging.getLogger(__name__)

AXES = "as the adapter's network gives them, of each crop by itself"
UNITS = {
    "frame": "number of the frame among those that decode, from 0; where nobody was found there is none",
    "time_s": "s, as the file has it",
    "box_px": "px: left, top, right, bottom",
    "confidence": "0 to 1, of whatever found the person",
    "joints_m": f"m, in the order of the adapter's joints; axes {AXES}",
}


def refuse_bodies(outputs: Sequence[str], live: bool, camera: str | None) -> None:
    """Raise BadInput for what is written of bodies alone."""
    asked = [f"--{name}" for name in outputs if name != "profile"]
    asked += [f"--{name}" for name, given in {"live": live, "camera": camera}.items() if given]
    if asked:
        raise BadInput(f"{' and '.join(asked)}: an adapter gives joints and no bodies: leave that out")


def joints_into(run: Run, out: Path, outputs: Sequence[str] = ()) -> dict[str, Any]:
    """See a video and write an npz with the joints of each person, and `run.json`, to the folder `out`; returns what
    that holds. A run that was stopped goes on, and one that is finished is left as it is. Raises BadInput, and
    Unwritable."""
    run.stages.traced, body = "profile" in outputs, run.model.encoder.body
    with alone(out):
        folder = RunFolder(out, identity(run, outputs, body))
        if done := folder.result:
            return {**done, "skipped": True}
        begin = time.perf_counter()
        run.see(folder)
        with run.stages.stage("write"):
            tracks = [written(out, number, seen) for number, seen in people(run)]
        if not tracks:
            log.warning("%s: nobody was found in its %d frames", run.film.path, len(run.records.frames))
        if "profile" in outputs:
            atomic_write(out / "profile.json", run.stages.trace())
        result = {
            "provenance": provenance_of(run, body),
            "tracks": tracks,
            "frames": len(run.records.frames),
            "damaged": run.film.damaged,
            "axes": AXES,
            "stages": run.stages.rows,
            "frames_per_s": speeds(run, time.perf_counter() - begin),
            "peak_memory_bytes": peak_memory(),
        }
        folder.finish(result)
    return result


def people(run: Run) -> Iterator[tuple[int, Arrays]]:
    """The people of a video by their numbers, frame by frame; those who are seen in fewer than LEAST are left out."""
    if not run.records.crops:
        return
    crops, moments = run.records.whole
    for number in np.unique(crops["id"]).tolist():
        rows = np.flatnonzero(crops["id"] == number)
        _, once = np.unique(crops["moment"][rows], return_index=True)
        rows = rows[once]
        if len(rows) < min(LEAST, len(moments["frame"])):
            continue
        at = crops["moment"][rows]
        yield (
            int(number),
            {
                "frame": moments["frame"][at],
                "time_s": moments["time"][at],
                "box_px": crops["box"][rows],
                "confidence": crops["score"][rows],
                "joints_m": crops["joints"][rows],
            },
        )


def written(out: Path, number: int, seen: Arrays) -> dict[str, Any]:
    """Write one person's file, and say what is in it."""
    stream, name = io.BytesIO(), f"track-{number}.npz"
    facts = {"axes": AXES, "units": [f"{name}: {UNITS[name]}" for name in seen]}
    everything: dict[str, Any] = {**seen, **{key: np.array(value) for key, value in facts.items()}}
    np.savez_compressed(stream, **everything)
    atomic_write(out / name, stream.getvalue())
    first, last = int(seen["frame"][0]), int(seen["frame"][-1])
    return {"id": number, "first": first, "last": last, "frames": len(seen["frame"]), "interpolated": 0, "file": name}
