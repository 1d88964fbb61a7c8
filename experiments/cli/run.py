"""`fasthmr run`: a video goes in, moving people come out."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from compress.errors import BadInput
from experiments.cli.options import AsJson, Masks
from experiments.cli.output import print_result, progress_bar, progress_callback, result_table

if TYPE_CHECKING:
    from hmr.data.pictures import Segmenter
    from hmr.video.people import Finder


def run(
    video: Annotated[
        Path, typer.Argument(metavar="VIDEO|FOLDER|-", help="A video, a folder of videos or of pictures, or a stream.")
    ],
    model: Annotated[str, typer.Option(help="reference, reference-small, a checkpoint, or a compressed model.")],
    out: Annotated[Path, typer.Option(help="The folder to write; a run that was stopped goes on there.")],
    recipe: Annotated[
        str | None, typer.Option(help="Compress the model on the way; a recipe that makes no choices on frames.")
    ] = None,
    people: Annotated[
        str, typer.Option(help="blazepose, rfdetr, ultralytics, or a file of boxes: .csv, .txt (MOT) or .npz.")
    ] = "blazepose",
    every: Annotated[int, typer.Option(min=1, help="Frames between looks of BlazePose at the whole picture.")] = 10,
    masks: Masks = None,
    start: Annotated[float, typer.Option(help="Seconds of the video to begin at.")] = 0.0,
    end: Annotated[float, typer.Option(help="Seconds of the video to end before.")] = math.inf,
    stride: Annotated[int, typer.Option(min=1, help="Look at every so many frames.")] = 1,
    fps: Annotated[float, typer.Option(min=0.001, help="Pictures a second, of a folder of pictures.")] = 30.0,
    focal: Annotated[float | None, typer.Option(help="The camera's focal length in pixels.")] = None,
    fov: Annotated[float | None, typer.Option(help="The camera's vertical field of view in degrees.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Crops that the network sees at once.")] = 16,
    csv: Annotated[bool, typer.Option("--csv", help="Write everybody's joints as a table.")] = False,
    bvh: Annotated[bool, typer.Option("--bvh", help="Write each person's motion as BVH.")] = False,
    glb: Annotated[bool, typer.Option("--glb", help="Write each person as an animated, skinned mesh.")] = False,
    overlay: Annotated[bool, typer.Option("--overlay", help="Write the video with the bodies over it.")] = False,
    vertices: Annotated[bool, typer.Option("--vertices", help="Write the vertices of every frame too.")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Write a trace that Chrome and Perfetto show.")] = False,
    as_json: AsJson = False,
) -> None:
    """People of a video as moving bodies: one file for each person, and how long every stage took."""
    from hmr.video.frames import Film, Span, videos_in
    from hmr.video.lens import refuse_lenses
    from hmr.video.results import run_into
    from hmr.video.run import Run

    given = {"csv": csv, "bvh": bvh, "glb": glb, "overlay": overlay, "vertices": vertices, "profile": profile}
    outputs = [name for name, wanted in given.items() if wanted]
    if not (0 <= start < end):
        raise BadInput(f"--start {start:g} --end {end:g}: they are seconds, and the first comes before the second")
    films, finding = videos_in(video), partial(people_of, people, every, masks)
    finding()  # its mistakes are told before a model is looked for
    refuse_lenses(focal, fov)
    with progress_bar() as bar:
        facts: dict[str, Any] = {"focal": focal, "fov": fov, "batch": batch, "observer": progress_callback(bar)}
        network, span, results = model_of(model, recipe), Span(start, end, stride), []
        for path in films:
            finder, segmenter = finding()
            there = out if films == [video] else out / path.name
            made = run_into(Run(network, Film(path, span, fps), finder, segmenter, **facts), there, outputs)
            results.append({"out": str(there), **made})
    print_result(results[0] if films == [video] else {"videos": results}, as_json, run_table)


def model_of(name: str, recipe: str | None) -> Any:
    """The model called `name`, compressed by a recipe where one is given. Raises BadInput for a recipe that makes its
    choices on frames."""
    import hmr
    from compress.context import Context
    from compress.pipeline import refuse_misfit, run_all_steps
    from compress.recipe import Recipe
    from hmr.models.device import best_device

    steps = Recipe.load(recipe).steps if recipe else ()
    if chooses := [step.policy for step in steps if step.needs_calib or step.trains]:
        raise BadInput(
            f"--recipe {recipe}: {chooses[0]} makes choices on frames, which takes minutes: compress first, with "
            "`fasthmr compress`, and name the folder it writes as --model"
        )
    original = hmr.load(name).to(best_device())
    if steps:
        refuse_misfit(original, steps, None, None)
    return run_all_steps(original, steps, Context(original)).eval()


def people_of(people: str, every: int, masks: str | None) -> tuple[Finder, Segmenter | None]:
    """What finds people and, where those come from a file, what finds their masks."""
    from hmr.data.masks import segmenter
    from hmr.video.known import KnownPeople
    from hmr.video.people import finder

    if Path(people).suffix.lower() in (".csv", ".txt", ".npz"):
        return KnownPeople(Path(people)), segmenter(masks) if masks else None
    if masks:
        raise BadInput(f"--masks {masks}: {people} finds masks itself; --masks is for people from a file")
    return finder(people, every), None


def run_table(result: dict[str, Any]) -> Table:
    """The stages of each video, for people."""
    videos = result.get("videos", [result])
    rows = [
        (stage["name"] if len(videos) == 1 else f"{Path(one['out']).name}: {stage['name']}", *figures(stage))
        for one in videos
        for stage in one["stages"]
    ]
    return result_table(
        f"{len(videos)} videos" if len(videos) > 1 else Path(videos[0]["out"]).name,
        "\n".join(map(summary, videos)),
        ("stage", "s", "share", "first time s"),
        rows,
    )


def figures(stage: dict[str, Any]) -> tuple[str, str, str]:
    return f"{stage['s']:.2f}", f"{stage['share']:.1%}", f"{stage['cold_s']:.3f}"


def summary(one: dict[str, Any]) -> str:
    """What was found in a video, in a few lines."""
    from compress.card import machine

    people = ", ".join(f"{t['id']} (frames {t['first']} to {t['last']})" for t in one["tracks"]) or "nobody"
    speed, memory = one["frames_per_s"], one["peak_memory_bytes"]
    network = f", network alone {speed['network_alone']:.1f}" if speed["network_alone"] else ""
    lines = [
        f"{one['out']}: {'was finished before; ' if one.get('skipped') else ''}people: {people}",
        f"{one['frames']} frames at {speed['end_to_end']:.1f} frames/s end to end{network}; stages overlap",
        f"peak memory {memory / 2**20:.0f} MiB; " if memory else "",
    ]
    return f"{lines[0]}\n{lines[1]}\n{lines[2]}{machine(one['provenance'])}"
