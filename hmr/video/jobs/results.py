"""What a run writes: an npz for each person, `run.json`, and whatever else was asked for."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from compress.atomic import alone, atomic_write, writing
from compress.context import fingerprint
from compress.provenance import provenance
from hmr.animation.arrays import CAMERA_AXES, joint_table, npz
from hmr.animation.bvh import bvh
from hmr.animation.glb import glb, skinning_error_m
from hmr.animation.rrd import rerun_sdk, rrd
from hmr.animation.track import Track, rate
from hmr.animation.world import in_world
from hmr.body.files import load_body
from hmr.body.model import BodyModel
from hmr.people.tracker import PATIENCE
from hmr.video.crops import FrameCropper
from hmr.video.frames import STREAM
from hmr.video.jobs.overlay import write_overlay
from hmr.video.run import Run
from hmr.video.run_folder import RunFolder, source_id
from hmr.video.stages import NETWORK, peak_memory
from hmr.video.tracks import tracks_of

log = logging.getLogger(__name__)

OUTPUTS = ("csv", "bvh", "glb", "rerun", "overlay", "vertices", "profile")  # beside an npz for each person and run.json


def run_into(run: Run, out: Path, outputs: Sequence[str] = ()) -> dict[str, Any]:
    """See a video and write what is in it to the folder `out`; returns what `run.json` holds, which is written last.

    A run that was stopped goes on; one that is finished is left as it is. A signal leaves the tracks of those who had
    gone already, and of a stream, which does not come back, everything. outputs: some of OUTPUTS. Raises BadInput, and
    Unwritable.
    """
    run.stages.traced, body = "profile" in outputs, load_body()
    if "rerun" in outputs:
        rerun_sdk()  # hours later it would be too late
    with alone(out):
        folder = RunFolder(out, identity(run, outputs, body))
        if done := folder.result:
            return {**done, "skipped": True}
        begin = time.perf_counter()
        try:
            run.see(folder)
        except Exception:
            raise
        except BaseException:
            keep_finished(run, out, body)
            raise
        result = write_results(run, out, outputs, begin, body)
        folder.finish(result)
    return result


def identity(run: Run, outputs: Sequence[str], body: BodyModel) -> dict[str, Any]:
    """What makes a run another one: all that its files follow from, as JSON values."""
    encoder = run.model.encoder
    return {
        "video": source_id(run.film.path),
        "model": fingerprint(run.model, encoder.schedule, encoder.protect, *getattr(encoder, "hashes", ())),
        "body": body.identity,
        "people": run.finder.identity,
        "masks": run.masks.name if run.masks else None,
        "span": [str(value) for value in vars(run.film.span).values()],
        "fps": run.film.fps if run.film.still else None,  # a video has times of its own
        "camera": [run.focal, run.fov, *([source_id(run.cameras.path)] if run.cameras else [])],
        "outputs": sorted(outputs),
    }


def tracks_so_far(run: Run, body: BodyModel) -> list[Track]:
    """The people of what was seen so far."""
    if not run.records.crops or run.lens is None:
        return []
    crops, moments = run.records.whole
    cropper = FrameCropper(run.model.encoder, run.lens.focal, run.size)
    return tracks_of(crops, moments, run.model, body, cropper, run.stages)


def keep_finished(run: Run, out: Path, body: BodyModel) -> None:
    """Write the tracks of people who are gone, or of everybody where the video is a stream."""
    metric = bool(run.lens and run.lens.metric)
    for track in tracks_so_far(run, body):
        if run.film.path == STREAM or run.records.times[-1] - track.time_s[-1] > PATIENCE:
            atomic_write(out / f"track-{track.id}.npz", npz(track, metric, body))


def write_results(run: Run, out: Path, outputs: Sequence[str], begin: float, body: BodyModel) -> dict[str, Any]:
    """Write everything but `run.json`, and return that."""
    metric = bool(run.lens and run.lens.metric)
    tracks = tracks_so_far(run, body)
    if not tracks:
        log.warning("%s: nobody was found in its %d frames", run.film.path, len(run.records.frames))
    seeing = time.perf_counter() - begin
    with run.stages.stage("write"):
        rows = [files_of(run, track, out, outputs, body) for track in tracks]
        if "csv" in outputs:
            atomic_write(out / "joints.csv", joint_table(tracks, metric))
        if "rerun" in outputs:
            atomic_write(out / "people.rrd", rrd(tracks, body, run.size, metric, run.cameras))
    if "overlay" in outputs and run.film.path != STREAM:
        overlay(run, out / "overlay.mp4", tracks, body)
    if "profile" in outputs:
        atomic_write(out / "profile.json", run.stages.trace())
    return {
        "provenance": provenance_of(run, body),
        "tracks": rows,
        "frames": len(run.records.frames),
        "damaged": run.film.damaged,
        "camera": run.lens and {"focal_px": run.lens.focal, "source": run.lens.source, "depth_metric": metric},
        "axes": CAMERA_AXES,
        "stages": run.stages.rows,
        "seconds": {"seeing": seeing, "all": time.perf_counter() - begin},
        "frames_per_s": speeds(run, time.perf_counter() - begin),
        "peak_memory_bytes": peak_memory(),
    }


def files_of(run: Run, track: Track, out: Path, outputs: Sequence[str], body: BodyModel) -> dict[str, Any]:
    """Write one person's files, and say what is in them."""
    name = f"track-{track.id}"
    metric, world = bool(run.lens and run.lens.metric), in_world(track, run.cameras) if run.cameras else None
    atomic_write(out / f"{name}.npz", npz(track, metric, body, "vertices" in outputs, world))
    if "bvh" in outputs:
        atomic_write(out / f"{name}.bvh", bvh(track, body))
    if "glb" in outputs:
        atomic_write(out / f"{name}.glb", glb(track, body))
    return {
        "id": track.id,
        "first": int(track.frame[0]),
        "last": int(track.frame[-1]),
        "frames": len(track),
        "interpolated": int(track.interpolated.sum()),
        "file": f"{name}.npz",
        **({"glb_skinning_error_mm": 1000 * skinning_error_m(track, body)} if "glb" in outputs else {}),
    }


def overlay(run: Run, path: Path, tracks: Sequence[Track], body: BodyModel) -> None:
    """Write the overlay whole, or not at all."""
    beside = path.with_name(f".{uuid4().hex}{path.suffix}")
    damaged = run.film.damaged
    try:
        with writing(path):
            write_overlay(beside, run.film, tracks, body, run.stages)
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
        run.film.damaged = damaged  # they are the same frames


def provenance_of(run: Run, body: BodyModel) -> dict[str, Any]:
    """Where the figures come from."""
    times = np.array(run.records.times)
    data = {
        "name": run.film.path.name,
        "frames": len(times),
        "fps": rate(times) if len(times) > 1 else None,
        "people": run.finder.name,
        "mask_source": run.finder.name if run.masks is None else run.masks.name,
    }
    device = next(run.model.parameters()).device
    return provenance("run", run.model, device, body=body.identity, data=data)


def speeds(run: Run, seconds: float) -> dict[str, float | None]:
    """Frames a second end to end, and crops a second of the network alone."""
    network = sum(run.stages.seconds.get(name, 0.0) for name in (*NETWORK, "decoder"))
    crops = sum(len(part["id"]) for part in run.records.crops)
    return {
        "end_to_end": len(run.records.frames) / seconds,
        "network_alone": len(run.records.frames) / network if network else None,
        "crops_network_alone": crops / network if network else None,
    }
