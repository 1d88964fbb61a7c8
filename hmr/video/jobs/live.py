"""A stream of frames as lines of JSON: each is on the disk as soon as its frame was seen."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compress.atomic import append_line, occupied
from compress.context import Observer, silent
from compress.errors import BadInput
from compress.provenance import provenance
from hmr.animation.glb import quaternions
from hmr.animation.track import Track, named
from hmr.video.ahead import Ahead
from hmr.video.frames import Film, watched
from hmr.video.stages import peak_memory
from hmr.video.stream import Stream

LINES = "live.jsonl"
DIGITS = 5  # of metres


def live_into(stream: Stream, film: Film, out: Path, observer: Observer = silent) -> dict[str, Any]:
    """Write a line for each frame of a film to `out/live.jsonl`, and return what was seen and how long it took.

    A line has frame, time_s, latency_s and people: id, box_px, confidence, joints_coco_m, rotations (24 quaternions
    x, y, z, w), translation_m and betas, as in the files of `run`. Raises BadInput where `out` has something in it.
    """
    if occupied(out):
        raise BadInput(f"--out {out}: it is there and not empty, and --live begins anew; name another folder")
    began, latencies, people = time.perf_counter(), [], set[int]()
    with Ahead(watched(film, stream.stages), 1, "decode") as shots:
        for shot in shots:
            begin = time.perf_counter()
            seen = stream(shot.image, shot.time)
            latencies.append(time.perf_counter() - begin)
            with stream.stages.stage("write"):
                append_line(out / LINES, json.dumps(line(shot.number, shot.time, latencies[-1], seen)))
            people |= {track.id for track in seen}
            observer(f"people of {film.path.name}", "", shot.number + 1, max(shot.number + 1, film.announced))
    model = stream.model
    data = {"name": film.path.name, "frames": len(latencies), "people": stream.finder.name}
    return {
        "provenance": provenance("run", model, next(model.parameters()).device, body=stream.body.identity, data=data),
        "file": LINES,
        "people": sorted(people),
        "frames": len(latencies),
        "damaged": film.damaged,
        "latency_frames": stream.latency_frames,
        "latency_s": {"median": float(np.median(latencies)), "p95": float(np.quantile(latencies, 0.95))},
        "stages": stream.stages.rows,
        "frames_per_s": {"end_to_end": len(latencies) / (time.perf_counter() - began)},
        "peak_memory_bytes": peak_memory(),
        "coco_names": named(),
    }


def line(number: int, seconds: float, latency: float, people: Sequence[Track]) -> dict[str, Any]:
    """A frame as JSON values."""
    return {
        "frame": number,
        "time_s": seconds,
        "latency_s": round(latency, DIGITS),
        "people": [person(track) for track in people],
    }


def person(track: Track) -> dict[str, Any]:
    """Somebody in the one frame of a track."""
    return {
        "id": track.id,
        "box_px": track.box_px[0].round(1).tolist(),
        "confidence": round(float(track.confidence[0]), 3),
        "joints_coco_m": rounded(track.joints_coco_m[0]),
        "rotations": rounded(quaternions(track.rotations)[0]),
        "translation_m": rounded(track.translation_m[0]),
        "betas": rounded(track.betas),
    }


def rounded(values: Any) -> Any:
    return np.asarray(values, np.float64).round(DIGITS).tolist()
