"""`python -m experiments.paper.videos FOLDER... --model reference --model small`: real videos through `fasthmr run`.

Of each video and both models: how many people are followed, in how much of the video, and how long that takes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from compress.atomic import atomic_write
from compress.errors import BadInput
from experiments.cli.main import ended
from experiments.cli.output import progress_bar, progress_callback
from experiments.reports.running import read, record
from hmr.video.frames import videos_in
from hmr.video.jobs.job import RunJob, do_all

RUNS = ("original", "compressed")


def rows_of(videos: Sequence[Path], out: Path) -> list[dict[str, Any]]:
    """A row for each video, of its runs in `out/original` and `out/compressed`,.

    tracks: of people; seen_share: of the video's frames, those in which the longest ones were found, as many as both
    runs have; ms: of one frame, by the network and from end to end.
    """
    rows = []
    for path in videos:
        runs = {name: read(out / name / name_of(path)) for name in RUNS}
        took = {row["name"]: row for row in record(runs["original"], runs["compressed"])["rows"]}
        count = min(len(run["tracks"]) for run in runs.values())
        row: dict[str, Any] = {"name": name_of(path), "frames": runs["original"]["frames"]}
        for name, run in runs.items():
            row[f"{name}_tracks"] = len(run["tracks"])
            row[f"{name}_seen_share"] = seen(run, count)
        for stage in ("network", "end to end"):
            row |= {f"{stage.replace(' ', '_')}_{name}_ms": took[stage][f"{name}_ms"] for name in RUNS}
            row[f"{stage.replace(' ', '_')}_times"] = took[stage]["times"]
        rows.append(row)
    return rows


def seen(run: dict[str, Any], count: int) -> float | None:
    """The mean share of a run's frames in which its `count` longest tracks were found."""
    found = sorted((track["frames"] - track["interpolated"] for track in run["tracks"]), reverse=True)[:count]
    return sum(found) / (count * run["frames"]) if count else None


def name_of(video: Path) -> str:
    """Demo_SinglePerson/videos/cam01.mp4 -> Demo_SinglePerson cam01"""
    folder = video.absolute().parent
    return f"{(folder.parent if folder.name == 'videos' else folder).name} {video.stem}"


def main(
    folders: Annotated[list[Path], typer.Argument(help="Folders of videos.")],
    model: Annotated[list[str], typer.Option(help="The original, and a compressed one.")],
    out: Annotated[Path, typer.Option(help="The folder to write; runs that are finished are kept.")],
) -> None:
    """Run two models on videos of real people, and print how they compare."""
    if len(model) != len(RUNS):
        raise BadInput("--model: name the original and the compressed one, each with --model")
    videos = [path for folder in folders for path in videos_in(folder)]
    with progress_bar() as bar:
        for name, one in zip(RUNS, model, strict=True):
            asked = [(path, out / name / name_of(path)) for path in videos]
            do_all(RunJob(model=one), asked, progress_callback(bar))
    rows = rows_of(videos, out)
    provenance = {name: read(out / name / name_of(videos[0]))["provenance"] for name in RUNS}
    atomic_write(out / "videos.json", json.dumps({"rows": rows, "provenance": provenance}, indent=1).encode())
    for row in rows:
        typer.echo(json.dumps(row))


if __name__ == "__main__":
    ended(lambda: typer.run(main))
