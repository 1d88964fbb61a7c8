"""`fasthmr run`: a video goes in, moving people come out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from compress.errors import BadInput
from experiments.cli.options import AdapterFile, AsJson, Masks
from experiments.cli.output import print_result, progress_bar, progress_callback, result_table
from hmr.video.defaults import BATCH, EVERY, PICTURES_FPS

WIDE = 100  # columns of the table, so that the lines below it are not folded


def run(
    video: Annotated[
        Path, typer.Argument(metavar="VIDEO|FOLDER|-", help="A video, a folder of videos or of pictures, or a stream.")
    ],
    model: Annotated[
        str, typer.Option(help="reference, reference-small, a checkpoint, a compressed model, or an adapter.")
    ],
    out: Annotated[Path, typer.Option(help="The folder to write; a run that was stopped goes on there.")],
    recipe: Annotated[
        str | None, typer.Option(help="Compress the model on the way; a recipe that makes no choices on frames.")
    ] = None,
    people: Annotated[
        str, typer.Option(help="blazepose, rfdetr, ultralytics, or a file of boxes: .csv, .txt (MOT) or .npz.")
    ] = "blazepose",
    every: Annotated[int, typer.Option(min=1, help="Frames between looks of BlazePose at the whole picture.")] = EVERY,
    masks: Masks = None,
    start: Annotated[float, typer.Option(help="Seconds of the video to begin at.")] = 0.0,
    end: Annotated[float, typer.Option(help="Seconds of the video to end before.")] = math.inf,
    stride: Annotated[int, typer.Option(min=1, help="Look at every so many frames.")] = 1,
    fps: Annotated[float, typer.Option(min=0.001, help="Pictures a second, of a folder of pictures.")] = PICTURES_FPS,
    focal: Annotated[float | None, typer.Option(help="The camera's focal length in pixels.")] = None,
    fov: Annotated[float | None, typer.Option(help="The camera's vertical field of view in degrees.")] = None,
    camera: Annotated[
        str | None, typer.Option(help="An npz with the camera's rotation and translation at each frame.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, show_default=str(BATCH), help="Crops that the network sees at once.")
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Write everybody's joints as a table.")] = False,
    bvh: Annotated[bool, typer.Option("--bvh", help="Write each person's motion as BVH.")] = False,
    glb: Annotated[bool, typer.Option("--glb", help="Write each person as an animated, skinned mesh.")] = False,
    rerun: Annotated[
        bool, typer.Option("--rerun", help="Write skeletons, meshes and boxes for Rerun's viewer.")
    ] = False,
    overlay: Annotated[bool, typer.Option("--overlay", help="Write the video with the bodies over it.")] = False,
    vertices: Annotated[bool, typer.Option("--vertices", help="Write the vertices of every frame too.")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Write a trace that Chrome and Perfetto show.")] = False,
    live: Annotated[
        bool, typer.Option("--live", help="A line of JSON for each frame as soon as it was seen, and nothing else.")
    ] = False,
    engine: Annotated[str, typer.Option(help="local, or ray: videos are shared out among its workers.")] = "local",
    adapter: AdapterFile = None,
    as_json: AsJson = False,
) -> None:
    """People of a video as moving bodies: one file for each person, and how long every stage took."""
    from compress.choices import one_of
    from hmr.video.jobs.cluster import on_ray
    from hmr.video.jobs.job import RunJob, do_all, places
    from hmr.video.lens import refuse_lenses

    given = {"csv": csv, "bvh": bvh, "glb": glb, "rerun": rerun, "overlay": overlay}
    given |= {"vertices": vertices, "profile": profile}
    if live and (idle := [f"--{name}" for name, said in {"batch": batch, "camera": camera, **given}.items() if said]):
        raise BadInput(f"--live writes a line for each frame and nothing else: leave out {' and '.join(idle)}")
    refuse_lenses(focal, fov)
    one_of(engine, ("local", "ray"), "engine")
    job = RunJob(
        model=model,
        adapter=adapter,
        recipe=recipe,
        people=people,
        every=every,
        masks=masks,
        start=start,
        end=end,
        stride=stride,
        fps=fps,
        focal=focal,
        fov=fov,
        camera=camera,
        batch=batch or BATCH,
        outputs=tuple(name for name, wanted in given.items() if wanted),
        live=live,
    )
    videos = places(video, out)
    if camera and videos[0][1] != out:
        raise BadInput(f"--camera {camera}: it is of one video, and {video} is a folder of {len(videos)}")
    job.people_of(), job.film(video)  # their mistakes are told before a model is looked for
    with progress_bar() as bar:
        results, refused = on_ray(job, videos) if engine == "ray" else do_all(job, videos, progress_callback(bar))
    print_result(results[0] if videos[0][1] == out else {"videos": results, "refused": refused}, as_json, run_table)
    if refused:
        raise BadInput(f"{len(refused)} of {len(videos)} videos could not be read: {', '.join(refused)}")


def run_table(result: dict[str, Any]) -> Table:
    """The stages of each video, for people."""
    videos = result.get("videos", [result])
    rows = [
        (stage["name"] if len(videos) == 1 else f"{Path(one['out']).name}: {stage['name']}", *figures(stage))
        for one in videos
        for stage in one["stages"]
    ]
    shown = result_table(
        f"{len(videos)} videos" if len(videos) > 1 else Path(videos[0]["out"]).name,
        "\n".join(map(summary, videos)),
        ("stage", "s", "share", "first time s"),
        rows,
    )
    shown.min_width = WIDE
    return shown


def figures(stage: dict[str, Any]) -> tuple[str, str, str]:
    return f"{stage['s']:.2f}", f"{stage['share']:.1%}", f"{stage['cold_s']:.3f}"


def summary(one: dict[str, Any]) -> str:
    """What was found in a video, in a few lines."""
    from compress.card import machine

    tracks = [f"{t['id']} (frames {t['first']} to {t['last']})" for t in one.get("tracks", [])]
    people = ", ".join(tracks or map(str, one.get("people", []))) or "nobody"
    speed, memory = one["frames_per_s"], one["peak_memory_bytes"]
    network = f", network alone {speed['network_alone']:.1f}" if speed.get("network_alone") else ""
    lines = [
        f"{one['out']}: {'was finished before; ' if one.get('skipped') else ''}people: {people}",
        f"{one['frames']} frames at {speed['end_to_end']:.1f} frames/s end to end{network}; stages overlap",
        f"peak memory {memory / 2**20:.0f} MiB; " if memory else "",
    ]
    return f"{lines[0]}\n{lines[1]}\n{lines[2]}{machine(one['provenance'])}"
